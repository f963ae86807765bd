"""Which clips of a manifest can be used: `task` decodes one, `report` sorts out what came of all."""

from clipvip.data.check.report import KINDS, check_manifest, default_work
from clipvip.data.check.task import CheckTask

__all__ = ["KINDS", "CheckTask", "check_manifest", "default_work"]
