"""The version of the rules by which frames are read: which frames a time range has, and what they look like.

Vectors of different versions can be compared, but are not exactly those that reading the file again would give.
Version 1: up to clipvip 0.1. Version 2: timelines always ascend, one rule chooses the video stream, and pixel aspect
ratio and colour are honoured.
"""

READING_RULES = 2
"""Increase it with any change of `clipvip.video` that changes the frames of a file or how they look."""
