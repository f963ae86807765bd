"""Which frames of a video, and how to get them. Knows no torch: tensors are made in `clipvip.video.transforms`."""

from clipvip.video.container import Source
from clipvip.video.cutting import Scales
from clipvip.video.decode import read_frames, stream_frames
from clipvip.video.images import read_image
from clipvip.video.info import VideoInfo, probe
from clipvip.video.rules import READING_RULES
from clipvip.video.sampling import jittered_indices, middle_index, uniform_indices
from clipvip.video.segments import SegmentFrames, stream_segments

__all__ = [
    "READING_RULES",
    "Scales",
    "SegmentFrames",
    "Source",
    "VideoInfo",
    "jittered_indices",
    "middle_index",
    "probe",
    "read_frames",
    "read_image",
    "stream_frames",
    "stream_segments",
    "uniform_indices",
]
