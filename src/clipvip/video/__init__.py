"""Which frames of a video, and how to get them. Knows no torch: tensors are made in `clipvip.video.transforms`."""

from clipvip.video.container import (
    MP4,
    OpenVideo,
    Source,
    decode_error,
    formats_of,
    image_to_array,
    is_interlaced,
    is_still,
    open_video,
    read_head,
    read_image,
    shown_streams,
)
from clipvip.video.decode import read_frames, stream_frames
from clipvip.video.frames import TimeRange, VideoInfo, frames_within, probe, shown_picture
from clipvip.video.index import PacketIndex, packet_index
from clipvip.video.mp4 import REFUSALS, write_mp4
from clipvip.video.sampling import EPSILON_S, Scales, jittered_indices, middle_index, uniform_indices
from clipvip.video.segments import SegmentFrames, stream_segments
from clipvip.video.timeline import shown_s

READING_RULES = 2
"""The version of the rules by which frames are read (docs/video-files.md): which frames there are, how they look.

Increase it with any change of this package that changes the frames of a file or how they look. Vectors of different
versions can be compared, but are not exactly those that reading the file again would give.
1: clipvip 0.1. 2: timelines ascend where timestamps do not; one rule chooses the stream; pixels are square; transparent
parts show white; of a damaged file what decodes is used; windows are only where there are frames. Ordinary files give
the same frames under both.
"""

__all__ = [
    "EPSILON_S", "MP4", "READING_RULES", "REFUSALS", "OpenVideo", "PacketIndex", "Scales", "SegmentFrames", "Source",
    "TimeRange", "VideoInfo", "decode_error", "formats_of", "frames_within", "image_to_array", "is_interlaced",
    "is_still", "jittered_indices", "middle_index", "open_video", "packet_index", "probe", "read_frames", "read_head",
    "read_image", "shown_picture", "shown_s", "shown_streams", "stream_frames", "stream_segments", "uniform_indices",
    "write_mp4",
]  # fmt: skip
