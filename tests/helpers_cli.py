"""The command line without a process of its own, which would cost seconds of imports."""

from __future__ import annotations

import sys

import pytest

from clipvip.cli import main


def run_here(*arguments: object) -> int:
    """`clipvip ...` in this process; the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["clipvip", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)
