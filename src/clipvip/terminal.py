"""Text with names of files in it, for terminals and logs: control characters are shown, and have no effect."""

from __future__ import annotations

import logging
import re
import sys

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except newline and tab, overrides of the direction of writing, halves of characters."""


def printable(text: str) -> str:
    r"""`text` with what a terminal would obey, or could not encode, as \x1b or \u202e."""
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def one_line(text: str) -> str:
    """The same on one line: a newline in a name must not begin a line of its own."""
    return printable(text).replace("\n", "\\n")


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(printable(self.format(record)) + "\n")


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Write what clipvip logs to stderr, one handler for all of it, from `level` on."""
    logger = logging.getLogger("clipvip")
    handler = next((other for other in logger.handlers if isinstance(other, _Handler)), None)
    if handler is None:
        handler = _Handler()
        handler.setFormatter(logging.Formatter("clipvip: %(message)s"))
        logger.addHandler(handler)
    handler.setLevel(level)
    if level < logging.WARNING:
        logger.setLevel(level)
