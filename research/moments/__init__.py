"""Moments in long videos: `long_videos` makes them, `overlap` measures, `python -m moments` compares two models."""
