"""The version of the rules by which frames are read (docs/video-files.md): which frames there are, how they look.

Vectors of different versions can be compared, but are not exactly those that reading the file again would give.
1: clipvip 0.1. 2: timelines ascend where timestamps do not; one rule chooses the stream; pixels are square; transparent
parts show white; of a damaged file what decodes is used; windows are only where there are frames. Ordinary files give
the same frames under both.
"""

READING_RULES = 2
"""Increase it with any change of `clipvip.video` that changes the frames of a file or how they look."""
