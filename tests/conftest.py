"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("clipvip", deadline=None)  # a busy machine is no bug
settings.load_profile("clipvip")
