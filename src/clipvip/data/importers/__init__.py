"""Importers: the annotation files of the field's data sets to manifests.

One small file a family; each has a reader that yields clips and a line in `FORMATS`. What all share (choosing,
cleaning, finding media, counting, writing) is in `run`. A new format is a reader, an `Importer` and a line below.
"""

from clipvip.data.importers.activitynet import ACTIVITYNET
from clipvip.data.importers.base import Importer, Options
from clipvip.data.importers.didemo import DIDEMO
from clipvip.data.importers.hdvila import HDVILA
from clipvip.data.importers.images import IMAGES
from clipvip.data.importers.lsmdc import LSMDC
from clipvip.data.importers.msrvtt import MSRVTT
from clipvip.data.importers.msvd import MSVD
from clipvip.data.importers.released import RELEASED
from clipvip.data.importers.run import Report, run_import
from clipvip.data.importers.shards import SHARDS
from clipvip.data.importers.tables import TABLES
from clipvip.data.importers.vatex import VATEX

FORMATS: dict[str, Importer] = {
    importer.name: importer
    for importer in (
        *RELEASED, MSRVTT, DIDEMO, LSMDC, ACTIVITYNET, MSVD, VATEX, HDVILA, *IMAGES, SHARDS, *TABLES,
    )
}  # fmt: skip

__all__ = ["FORMATS", "Importer", "Options", "Report", "run_import"]
