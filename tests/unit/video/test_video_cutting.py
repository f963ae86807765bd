"""Cutting videos into segments."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvip.errors import InputError, UsageError
from clipvip.video.sampling import Scales, cut_segments

windows = st.floats(0.5, 60)
overlaps = st.floats(0.05, 1)
lengths = st.floats(0.01, 200)  # in windows


def test_known_cuts():
    """Catches a sliver at the end, a doubled last window, and a cut of a video that just fits."""
    assert cut_segments(12.0, 12, 6) == [(0.0, 12.0)]
    assert cut_segments(5.5, 12, 6) == [(0.0, 5.5)]
    assert cut_segments(24.0, 12, 6) == [(0.0, 12.0), (6.0, 18.0), (12.0, 24.0)]
    assert cut_segments(20.0, 12, 6) == [(0.0, 12.0), (6.0, 18.0), (8.0, 20.0)]
    assert cut_segments(12.5, 12, 12) == [(0.0, 12.0), (0.5, 12.5)]


@given(windows, overlaps, lengths)
def test_segments_cover_the_video_in_equal_windows(window_s, overlap, length):
    """Catches gaps, windows of other lengths, repeated windows and a last one that misses the end."""
    stride_s, duration_s = window_s * overlap, window_s * length
    segments = cut_segments(duration_s, window_s, stride_s)
    assert segments[0][0] == 0
    assert segments[-1][1] == duration_s
    for (start_s, end_s), (next_start_s, _) in pairwise(segments):
        assert start_s < next_start_s <= end_s + 1e-9
        assert next_start_s - start_s <= stride_s + 1e-9
    if len(segments) > 1:
        assert all(end_s - start_s == pytest.approx(window_s) for start_s, end_s in segments)
    else:
        assert duration_s <= window_s


@pytest.mark.parametrize(("window_s", "stride_s"), [(0, 0), (12, 0), (12, 13), (-1, -2), (float("nan"), 1)])
def test_impossible_windows_are_refused(window_s, stride_s):
    """Catches an endless cut (stride 0) and silent gaps (stride > window)."""
    with pytest.raises(UsageError, match="stride"):
        cut_segments(60.0, window_s, stride_s)


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_durations_are_refused(duration_s):
    """Catches an endless cut and an empty segment for a damaged header."""
    with pytest.raises(InputError, match="duration_s"):
        cut_segments(duration_s, 12, 6)


def test_several_scales_share_what_they_have_in_common():
    """Catches a short video that is indexed once for each scale, and strides that end up with another window."""
    scales = Scales.of([3.0, 12.0, 6.0])
    assert scales == Scales((12.0, 6.0, 3.0), (6.0, 3.0, 1.5))
    assert scales.cut(2.0) == [(0.0, 2.0)]
    assert scales.cut(6.0) == [(0.0, 6.0), (0.0, 3.0), (1.5, 4.5), (3.0, 6.0)]
    assert Scales.of([3, 12], [1, 5]) == Scales((12.0, 3.0), (5.0, 1.0))
    assert Scales.of(4.0) == Scales((4.0,), (2.0,))


@pytest.mark.parametrize(("windows_s", "until_s"), [((0.8, 0.4), 4.4), ((1.2, 0.6, 0.3), 7.7), ((0.7, 0.1), 2.3)])
def test_windows_that_differ_by_rounding_are_one(windows_s, until_s):
    """Catches two segments with one id: an index cannot replace their video (ambiguous merge)."""
    scales = Scales.of(windows_s)
    times_s = np.arange(0, until_s, 0.04)
    for parts in (scales.cut(until_s), scales.cut_where_frames_are(times_s, until_s)):
        assert len({(round(start_s * 1000), round(end_s * 1000)) for start_s, end_s in parts}) == len(parts)


@pytest.mark.parametrize(("windows_s", "strides_s"), [([3, 3], None), ([6, 3], [2]), (6, 7), ([], None), (6, [1, 2])])
def test_impossible_scales_are_refused(windows_s, strides_s):
    """Catches vectors that are there twice, and a stride that no window has."""
    with pytest.raises(UsageError, match="window"):
        Scales.of(windows_s, strides_s)
