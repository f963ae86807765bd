"""Files whose extension is a video's and that are something else: source code, translations, tracker music."""

from __future__ import annotations

import re
from pathlib import Path

AMBIGUOUS_EXTENSIONS = (".ts", ".mts", ".mod", ".mp", ".asf")
"""MPEG-TS, TypeScript and Qt translations; Windows Media and motion capture; MPEG of camcorders, tracker music,
modules of Go, Fortran or GRUB; motion photos and MetaPost."""
HEAD_BYTES = 8192
_OTHER_MAGIC = (b"\x7fELF", b"\x1f\x8b", b"PK\x03\x04", b"%PDF", b"\xcf\xfa\xed\xfe", b"Extended Module: ", b"IMPM")
_TRACKER_AT = 1080
_TRACKER = re.compile(rb"M[.!&]K[.!]|N\.T\.|FLT[48]|EXO[48]|OCTA|OKTA|CD[68]1|FA0[468]|TDZ[1-9]|[1-9]CHN|[1-9]\dC[HN]")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def is_something_else(path: Path) -> bool:
    """Whether a regular file with one of `AMBIGUOUS_EXTENSIONS` clearly is no video; damaged ones are none of these.

    Text has no control characters, and two packets of MPEG-TS always have some.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False  # reading it will tell why
    if head.startswith(b"\x00\x00\x01\xba"):  # MPEG, whatever else is at the place of a tracker's mark
        return False
    return head.startswith(_OTHER_MAGIC) or bool(_TRACKER.match(head, _TRACKER_AT)) or _is_text(head)


def _is_text(head: bytes) -> bool:
    """Whether it is, in UTF-16 with its mark or any encoding that keeps ASCII; nothing at all counts as text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head[: len(head) // 2 * 2].decode("utf-16", errors="ignore").encode(errors="ignore")
    return not _CONTROL.search(head)
