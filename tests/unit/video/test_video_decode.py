"""Decoding against a plain sequential decode, and against files and names that try to break it."""

from __future__ import annotations

import functools
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from clipvip.errors import ClipVipWarning, InputError, VideoDecodeError
from clipvip.video import decode, index, probe, read_frames, read_image, stream_frames, uniform_indices
from clipvip.video.container import announced_bytes, open_video
from helpers_video import FPS, has_encoder, sequential_decode, sequential_times, write_audio, write_video

UNEVEN = [i * 250 + 35 * (i * i % 7) for i in range(70)]
KINDS = {
    "b_frames.mp4": {"bf": "3", "g": "7"},
    "open_gop.mp4": {"bf": "3", "g": "7", "x264-params": "open-gop=1"},
    "open_gop.mkv": {"bf": "3", "g": "7", "x264-params": "open-gop=1"},
    "late_start.mp4": {"first_pts": 37},
    "hidden_start.mp4": {"first_pts": -11, "bf": "2", "g": "7"},
    "uneven.mp4": {"times_ms": UNEVEN, "bf": "2", "g": "20"},
    "turned.mp4": {"rotation": 90, "g": "7"},
    "odd.mp4": {"width": 65, "height": 49, "pix_fmt": "yuv444p"},
    "odd.webm": {"width": 65, "height": 49, "codec": "libvpx-vp9"},
    "interlaced.mp4": {"x264-params": "interlaced=1", "g": "7"},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le", "bf": "2", "g": "7"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:keyint=7:open-gop=1:bframes=3"},
    "hevc_ten_bit.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "av1.mp4": {"codec": "libsvtav1", "height": 64, "g": "20"},
    "vp8.webm": {"codec": "libvpx", "g": "7"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "7"},
    "transport.ts": {"bf": "2", "g": "7"},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2", "g": "7", "rate": 25},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2", "g": "7", "rate": 25},
    "old.avi": {"bf": "0"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2", "g": "7"},
    "moving.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "alpha.mov": {"codec": "qtrle", "pix_fmt": "argb", "alpha": True, "grain": 1},
    "alpha.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuva420p", "alpha": True},
    "alpha_ten_bit.mov": {"codec": "prores_ks", "pix_fmt": "yuva444p10le", "alpha": True},
    "still.mp4": {"still": True, "g": "20"},
    "one.mp4": {"num_frames": 1},
    "two_minutes.mp4": {"num_frames": 1200, "width": 32, "height": 32, "g": "150", "preset": "ultrafast", "bf": "2"},
}
EVERY_100_MS = ["b_frames.mp4", "open_gop.mkv", "late_start.mp4", "odd.mp4", "vp8.webm", "vp9.webm", "transport.ts"]

Times = list[float]
Pattern = tuple[dict, np.ndarray]


def between(times: Times, start_s: float, end_s: float) -> Pattern:
    """A time range: all frames in it, or else the last one before it."""
    seconds = np.array(times)
    inside = np.flatnonzero((seconds >= start_s - 1e-6) & (seconds < end_s - 1e-6))
    wanted = inside if len(inside) else np.flatnonzero(seconds <= start_s)[-1:]
    return {"indices": np.arange, "time_range": (start_s, end_s)}, wanted


def picked(indices: list[int]) -> Pattern:
    """Frames by number."""
    return {"indices": indices}, np.array(indices)


def shuffled(times: Times) -> Pattern:
    """Some frames in any order, some more than once."""
    some = np.random.default_rng(len(times)).integers(0, len(times), 9).tolist()
    return picked([*some, some[0], some[0]])


PATTERNS: dict[str, Callable[[Times], Pattern]] = {
    "uniform": lambda times: ({}, uniform_indices(len(times), 12 if len(times) > 1 else 1)),
    "first": lambda times: picked([0]),
    "last": lambda times: picked([len(times) - 1]),
    "shuffled": shuffled,
    "range from a frame": lambda times: between(times, times[len(times) // 3], times[len(times) // 3 * 2] + 0.001),
    "range between frames": lambda times: between(times, times[-1] * 0.7 + 0.013, times[-1] * 0.7 + 0.4),
    "range to the end": lambda times: between(times, times[-1] * 0.9, times[-1] + 1.0),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of each kind, 70 frames long if nothing else is said, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("videos")

    def write(name: str) -> Path:
        if not has_encoder(KINDS[name].get("codec", "libx264")):
            pytest.skip(f"no encoder for {name}")
        return write_video(folder / name, **{"num_frames": 70, "grain": 8, **KINDS[name]})

    return functools.cache(write)


@pytest.fixture(scope="module")
def oracle() -> Callable[[Path], tuple[np.ndarray, Times, Times]]:
    """Frames as a plain decode yields them, turned upright, their times and those of the keyframes."""

    def decoded(path: Path) -> tuple[np.ndarray, Times, Times]:
        turns = KINDS[path.name].get("rotation", 0) // 90
        return np.rot90(sequential_decode(path), turns, axes=(1, 2)), *sequential_times(path)

    return functools.cache(decoded)


@pytest.fixture(scope="module")
def video(videos):
    return videos("b_frames.mp4")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", KINDS)
def test_frames_equal_those_of_a_sequential_decode(videos, oracle, name, pattern):
    """Would catch B-frames in decoding order, a lost last frame, a start that is not 0, header counts taken as true,
    seeks that land elsewhere, and bytes read in another way than the file that holds them."""
    path = videos(name)
    expected, times, _ = oracle(path)
    arguments, wanted = PATTERNS[pattern](times)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(read_frames(source, **arguments), expected[wanted], err_msg=str(arguments))


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_is_every_frame_with_its_time(videos, oracle, name):
    """Would catch segments of a search index that start at the container's clock, and a lost last frame."""
    path = videos(name)
    expected, times, _ = oracle(path)
    with path.open("rb") as file:
        streamed = [(time_s, frame.rgb()) for time_s, frame in stream_frames(file)]
    np.testing.assert_allclose([time_s for time_s, _ in streamed], times, atol=1e-9)
    np.testing.assert_array_equal(np.stack([picture for _, picture in streamed]), expected)


def test_the_kinds_are_what_they_are_called(videos, oracle):
    """Would catch files that lost the trait they are there for, so that the tests above prove nothing."""
    assert len(oracle(videos("hidden_start.mp4"))[0]) == 70 - 11
    with open_video(videos("hidden_start.mp4"), threads=1) as opened:
        assert opened.stream.frames == 70
    assert len(np.unique(np.diff(oracle(videos("uneven.mp4"))[1]).round(3))) > 3
    assert len(oracle(videos("two_minutes.mp4"))[2]) > 5
    for name in ("vp8.webm", "vp9.webm", "transport.ts"):
        with open_video(videos(name), threads=1) as opened:
            assert opened.stream.frames == 0


def test_what_is_transparent_shows_white(tmp_path):
    """Would catch colours that nobody is meant to see: what lies under transparent parts of overlays and stickers."""
    path = tmp_path / "overlay.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        picture = np.zeros((48, 64, 4), np.uint8)
        picture[..., 0], picture[:24, :, 3] = 200, 255  # red; transparent below
        frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="argb")
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    for size in (None, (24, 32)):
        (shown,) = read_frames(path, size=size)
        np.testing.assert_array_equal(shown[0, 0], [200, 0, 0])
        np.testing.assert_array_equal(shown[-1, -1], [255, 255, 255])


@pytest.mark.parametrize("spare_bytes", [0, 100_000])
@pytest.mark.parametrize("name", ["vp8.webm", "b_frames.mp4"])
def test_a_video_larger_than_the_memory_budget_gives_the_same_frames(videos, oracle, name, spare_bytes, monkeypatch):
    """Would catch frames forgotten by the first pass, or a second pass that counts from elsewhere."""
    monkeypatch.setattr(decode, "SPARE_BYTES", spare_bytes)
    monkeypatch.setattr(decode, "packet_index", lambda *_, **__: None)
    expected, _, _ = oracle(videos(name))
    for source in (videos(name), io.BytesIO(videos(name).read_bytes())):
        np.testing.assert_array_equal(read_frames(source, lambda total: [total - 1, 0]), expected[[-1, 0]])
        cut = read_frames(source, lambda total: np.arange(total), time_range=(1.0, 3.0))
        np.testing.assert_array_equal(cut, expected[10:30])


@pytest.mark.parametrize("seek_from_s", [0.0, float("inf")])
@pytest.mark.parametrize("name", EVERY_100_MS)
def test_a_time_range_means_the_frames_between_its_ends(videos, oracle, name, seek_from_s, monkeypatch):
    """Would catch seeks that land late or on frames without their references, and float fuzz at the ends of a range.

    Without an index, as for a film too large to be read for it.
    """
    monkeypatch.setattr("clipvip.video.timeline.SEEK_FROM_S", seek_from_s)
    monkeypatch.setattr(decode, "packet_index", lambda *_, **__: None)
    expected, _, _ = oracle(videos(name))
    for first in range(0, len(expected), 3):
        time_range = (first * (1 / FPS), (first + 3) * 0.1)
        cut = read_frames(videos(name), lambda total: np.arange(total), time_range=time_range)
        np.testing.assert_array_equal(cut, expected[first : first + 3], err_msg=f"{time_range}")


def test_a_range_without_a_frame_of_its_own_gives_the_one_shown(video, oracle):
    """Would catch an empty clip where a short range falls between two frames."""
    expected, _, _ = oracle(video)
    np.testing.assert_array_equal(read_frames(video, time_range=(0.21, 0.29)), expected[[2]])
    np.testing.assert_array_equal(read_frames(video, time_range=(6.95, 90.0)), expected[[69]])


@pytest.mark.parametrize("name", KINDS)
def test_a_range_beyond_the_end_is_an_error(videos, oracle, name):
    """Would catch annotations of another cut of the film that silently train on its last frame."""
    last_s = oracle(videos(name))[1][-1]
    for start_s in (last_s + 1.01, last_s + 50):
        with pytest.raises(VideoDecodeError, match=rf"{name}: the range .* s lies beyond the end \(\d+\.\d+ s\); "):
            read_frames(videos(name), time_range=(start_s, start_s + 1))


def test_indices_may_depend_on_the_true_count(videos):
    """Would catch sampling from an estimate: these webms have no frame count in their headers."""
    for name in ("vp8.webm", "vp9.webm"):
        totals = []
        read_frames(videos(name), lambda total, totals=totals: totals.append(total) or [0])
        assert totals == [70]


def test_one_frame_gives_one_frame(videos):
    """Would catch a still picture copied twelve times, twelve times the work."""
    path = videos("one.mp4")
    np.testing.assert_array_equal(read_frames(path), sequential_decode(path))
    assert read_frames(path, [0, 0, 0]).shape == (3, 48, 64, 3)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotation_is_applied(tmp_path, degrees, turns):
    """Would catch phone videos lying on their side, or turned the wrong way."""
    path = write_video(tmp_path / "turned.mp4", 3, rotation=degrees)
    expected = np.rot90(sequential_decode(path), turns, axes=(1, 2))
    np.testing.assert_array_equal(read_frames(path, [0, 1, 2]), expected)
    info = probe(path)
    assert (info.height, info.width) == expected.shape[1:3]
    assert info.rotation == degrees % 360
    wide = read_frames(path, [0], size=(30, 20))
    assert wide.shape == (1, 30, 20, 3)


def test_mirroring_is_applied(tmp_path):
    """Would catch a display matrix read as a rotation only."""
    path = write_video(tmp_path / "mirrored.mp4", 2, hflip=True)
    np.testing.assert_array_equal(read_frames(path, [0, 1]), sequential_decode(path)[:, :, ::-1])


def test_scaling_comes_after_rotation_and_keeps_its_word(tmp_path, video):
    """Would catch height and width swapped, and a longer side that is not what the crop transform computes."""
    assert read_frames(video, [0], size=(20, 30)).shape == (1, 20, 30, 3)
    assert read_frames(video, [0], size=31).shape == (1, 31, 31 * 64 // 48, 3)
    turned = write_video(tmp_path / "turned.mp4", 1, rotation=90)
    assert read_frames(turned, size=24).shape == (1, 32, 24, 3)
    upright = write_video(tmp_path / "upright.mp4", 1)
    np.testing.assert_array_equal(read_frames(turned, size=24), np.rot90(read_frames(upright, size=24), axes=(1, 2)))


def test_probe_reads_the_header(video):
    """Would catch a frame rate turned upside down, and durations in time base units."""
    for source in (video, video.read_bytes()):
        info = probe(source)
        assert (info.duration_s, info.num_frames, info.fps, info.exact) == (7.0, 70, 10.0, True)
        assert (info.width, info.height, info.rotation, info.codec) == (64, 48, 0, "h264")


@pytest.mark.parametrize("name", KINDS)
def test_a_scan_tells_exactly_what_a_sequential_decode_yields(videos, oracle, name):
    """Would catch hidden frames in the count, keyframes by the container's clock, and "exact" said of a guess.

    Without a scan, what is called exact must be so too.
    """
    path = videos(name)
    expected, times, keys = oracle(path)
    for info in (probe(path, scan=True), probe(path.read_bytes(), scan=True), probe(path)):
        if info.exact:
            assert info.num_frames == len(expected)
            np.testing.assert_allclose(info.keyframes_s, keys, atol=1e-6)
            assert times[-1] < info.duration_s < times[-1] + 1.0
        else:
            assert info.keyframes_s is None
    assert probe(path, scan=True).exact
    assert (info.height, info.width) == expected.shape[1:3]


@pytest.mark.parametrize("name", ["vp9.webm", "vp8.webm", "b_frames.mp4", "transport.ts", "mpeg4.avi"])
def test_a_large_file_is_estimated(videos, name, monkeypatch):
    """Would catch a film read from end to end for its frame count, a missing estimate, and one that is called exact."""
    monkeypatch.setattr("clipvip.video.frames.PROBE_BYTES", 0)
    index._cache.clear()
    info = probe(videos(name))
    assert (info.exact, info.keyframes_s) == (False, None)
    assert abs(info.num_frames - 70) <= 2
    assert info.duration_s == pytest.approx(7.0, abs=0.2)


def test_an_index_known_already_makes_a_large_file_exact(videos, monkeypatch):
    """Would catch a probe that guesses what a decode has just found out."""
    index._cache.clear()
    read_frames(videos("vp9.webm"), [0])
    monkeypatch.setattr("clipvip.video.frames.PROBE_BYTES", 0)
    info = probe(videos("vp9.webm"))
    assert (info.exact, info.num_frames, info.duration_s) == (True, 70, 7.0)


@pytest.mark.parametrize("name", ["b_frames.mp4", "transport.ts", "mpeg4.avi", "moving.gif"])
def test_a_file_is_opened_once(videos, name, monkeypatch):
    """Would catch every header read twice where there is no index to be had, and twice for every clip of one file."""
    read_frames(videos(name), [0])
    opened, av_open = [], av.open
    monkeypatch.setattr(av, "open", lambda *args, **options: opened.append(args) or av_open(*args, **options))
    read_frames(videos(name), [5, 0])
    assert len(opened) == 1


class OnlyTheseThree:
    """The least that is taken for a file object."""

    def __init__(self, content: bytes):
        self.file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def test_file_objects_are_rewound_and_stay_open(videos, oracle):
    """Would catch a decode from where the last reader stopped, a second pass from the end, and a closed file."""
    for name in ("b_frames.mp4", "open_gop.mkv", "vp8.webm", "transport.ts"):
        expected, _, _ = oracle(videos(name))
        with videos(name).open("rb") as file:
            for source in (file, OnlyTheseThree(videos(name).read_bytes())):
                source.seek(99)
                for indices in ([40, 2], lambda total: [40, 2]):
                    np.testing.assert_array_equal(read_frames(source, indices), expected[[40, 2]])
                assert probe(source, scan=True).num_frames == 70
                assert len(list(stream_frames(source))) == 70
            assert not file.closed


def test_a_file_object_is_not_taken_for_the_file_of_its_name(videos, oracle, tmp_path):
    """Would catch the remembered index of a path used for other content under the same name, and vice versa."""
    name, other = videos("b_frames.mp4"), videos("uneven.mp4")
    for _ in range(2):
        with other.open("rb") as file:
            named = io.BytesIO(file.read())
        named.name = str(name)
        for source in (name, named):
            expected, _, _ = oracle(name if source is name else other)
            np.testing.assert_array_equal(read_frames(source, [33, 50]), expected[[33, 50]])


def test_what_is_no_media_source_is_refused(tmp_path, video):
    """Would catch a number taken for an open file, text for a picture, and a traceback from inside a callback."""
    closed = video.open("rb")
    closed.close()
    unreadable = OnlyTheseThree(video.read_bytes())
    unreadable.read = lambda size=-1: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    for call in (read_frames, probe, read_image, lambda source: list(stream_frames(source))):
        for source in (3, None, io.StringIO("text"), bytearray(b"bytes")):
            with pytest.raises(InputError, match=f"must be a path, bytes or a .*, not {type(source).__name__}"):
                call(source)
        with pytest.raises(VideoDecodeError, match=rf"^{video}: .*closed file; give an open"):
            call(closed)
        with pytest.raises(VideoDecodeError, match=r"^<file object>: input/output error; "):
            call(unreadable)
        with pytest.raises(VideoDecodeError, match=r"^<bytes>: the file is empty; "):
            call(b"")


def test_a_file_object_that_fails_on_the_way_gives_what_was_read(tmp_path):
    """Would catch the OSError of a network file, and half a video taken for a whole one without a word."""
    video = write_video(tmp_path / "long.mp4", 70)  # of several reads
    content = video.read_bytes()

    class Failing(OnlyTheseThree):
        def read(self, size: int = -1) -> bytes:
            if len(content) // 3 < self.tell() < len(content) * 2 // 3:
                raise OSError(5, "Connection lost")
            return super().read(size)

    with pytest.warns(ClipVipWarning, match=r"^<file object>: damaged: reading breaks off after \d+ frames \(.*\); "):
        assert len(read_frames(Failing(content))) == 12
    with pytest.raises(VideoDecodeError, match=r"^<file object>: reading breaks off after \d+ frames \(.*\); "):
        read_frames(Failing(content), strict=True)
    assert len(read_frames(video, strict=True)) == 12


def broken_files(folder, video):
    whole = video.read_bytes()
    fast = write_video(folder / "fast.mp4", 70, faststart=True).read_bytes()
    m3u8 = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfast.mp4\n#EXT-X-ENDLIST\n"
    concat = "ffconcat version 1.0\nfile 'fast.mp4'\n"
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    return {
        "empty.mp4": (b"", "the file is empty"),
        "text.mp4": (b"a film about text " * 99, "not a media file"),
        "no_index.mp4": (whole[: len(whole) // 2], "moov atom missing"),
        "cut_early.mp4": (fast[: fast.index(b"mdat") + 8], "no decodable frame|after 0 frames"),
        "list.m3u8": (m3u8.encode(), "playlists, scripts .* refused"),
        "list.mp4": (m3u8.encode(), "playlists, scripts .* refused"),
        "list.ffconcat": (concat.encode(), "playlists, scripts .* refused"),
        "script.mp4": (concat.encode(), "playlists, scripts .* refused"),
        "session.sdp": (sdp.encode(), "playlists, scripts .* refused"),
        "session.mp4": (sdp.encode(), "playlists, scripts .* refused"),
    }


def test_every_broken_or_foreign_file_is_one_clear_error(tmp_path, video):
    """Would catch playlists that read other files, half videos taken for whole ones, and FFmpeg's error numbers."""
    for name, (content, reason) in broken_files(tmp_path, video).items():
        path = tmp_path / name
        path.write_bytes(content)
        refused = [probe, lambda source: probe(source, scan=True)] if "refused" in reason else []
        for call in (read_frames, lambda source: list(stream_frames(source)), *refused):
            for source, called in ((path, str(path)), (content, "<bytes>"), (io.BytesIO(content), "<file object>")):
                with pytest.raises(VideoDecodeError, match=reason) as error:
                    call(source)
                assert str(error.value).startswith(f"{called}: ")
                assert "; " in str(error.value)
                assert "\n" not in str(error.value)


def test_of_a_damaged_file_the_frames_that_decode_are_used(tmp_path):
    """Would catch a video left out whole for one bad packet, or used in part without a word."""
    fast = write_video(tmp_path / "fast.mp4", 70, faststart=True, g="10").read_bytes()
    zeroed = tmp_path / "zeroed.mp4"
    zeroed.write_bytes(fast[:-60000] + bytes(10000) + fast[-50000:])
    index._cache.clear()
    with pytest.warns(ClipVipWarning, match=r"zeroed\.mp4: damaged: decoding fails after \d\d frames \(.*\); "):
        frames = read_frames(zeroed, np.arange)
    assert 50 < len(frames) < 70
    with pytest.raises(VideoDecodeError, match="decoding fails"):
        read_frames(zeroed, strict=True)


def test_an_mp4_cut_between_two_frames_is_not_taken_for_whole(tmp_path):
    """Would catch FFmpeg's silent end of file where the cut happens to hit a frame boundary."""
    whole = write_video(tmp_path / "fast.mp4", 20, faststart=True, bf="0")
    with open_video(whole, 1) as opened:
        boundary = opened.stream.index_entries[10].pos
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:boundary])
    assert len(sequential_decode(cut)) == 10
    with pytest.warns(ClipVipWarning, match="cut short: it breaks off after 10 frames"):
        np.testing.assert_array_equal(read_frames(cut, np.arange), sequential_decode(cut))
    with pytest.raises(VideoDecodeError, match="cut short: it breaks off after 10 frames"):
        read_frames(cut, [10])
    assert read_frames(cut, [0, 9]).shape[0] == 2


@pytest.mark.parametrize("name", ["open_gop.mkv", "vp9.webm", "vp8.webm", "old.avi", "mpeg4.avi"])
def test_a_container_that_says_its_length_is_not_cut_unnoticed(videos, oracle, tmp_path, name):
    """Would catch FFmpeg's silent end of file: a clip sampled from the first half of a video as if it were all."""
    _, times, _ = oracle(videos(name))
    whole = videos(name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    expected = sequential_decode(cut)
    total = len(expected) - name.endswith(".avi")  # FFmpeg makes a frame of half a packet
    for source in (cut, cut.read_bytes()):
        for arguments, wanted in (
            ({}, uniform_indices(total, 12)),
            ({"indices": np.arange}, np.arange(total)),
            ({"indices": np.arange, "time_range": (2.0, 90.0)}, np.arange(20, total)),
        ):
            with pytest.warns(
                ClipVipWarning, match=r": damaged: the file was cut short: it breaks off after \d+ frames"
            ):
                np.testing.assert_array_equal(read_frames(source, **arguments), expected[wanted])
            with pytest.raises(VideoDecodeError, match=r": the file was cut short: it breaks off after \d+ frames"):
                read_frames(source, **arguments, strict=True)
        for arguments in ({"indices": [69]}, {"time_range": (6.5, 90.0)}):
            with pytest.raises(VideoDecodeError, match=r"cut short|beyond the end"):
                read_frames(source, **arguments)
        assert "cut short" in probe(source, scan=True).damage
        with pytest.warns(ClipVipWarning, match="cut short"):
            assert len(list(stream_frames(source))) == total
        assert not probe(source).exact
        for arguments, wanted in (picked([10, 0]), between(times, 0.5, 1.0), between(times, 0.72, 0.74)):
            np.testing.assert_array_equal(read_frames(source, **arguments), expected[wanted])


def test_a_header_that_claims_too_much_makes_no_file_damaged(videos, oracle, tmp_path):
    """Would catch an AVI refused, or called damaged, because its header says some bytes more than there are."""
    whole = videos("old.avi").read_bytes()
    claimed = tmp_path / "old.avi"
    claimed.write_bytes(whole[:4] + (len(whole) - 8 + 2048).to_bytes(4, "little") + whole[8:])
    np.testing.assert_array_equal(read_frames(claimed, np.arange, strict=True), oracle(videos("old.avi"))[0])
    assert probe(claimed, scan=True).damage is None


def test_a_live_recording_does_not_say_its_length(tmp_path):
    """Would catch whole files refused because their muxer could not go back to fill in their length."""
    path = write_video(tmp_path / "live.mkv", 20, muxer={"live": "1"})
    assert announced_bytes(path.read_bytes()) == 0
    np.testing.assert_array_equal(read_frames(path, range(20)), sequential_decode(path))


def test_a_file_says_how_long_it_should_be(videos):
    """Would catch a length counted from the wrong byte, a placeholder taken for one, and a traceback on odd headers."""
    for name in ("open_gop.mkv", "vp9.webm"):
        assert announced_bytes(videos(name).read_bytes()) == videos(name).stat().st_size
    avi = videos("old.avi").read_bytes()
    assert announced_bytes(avi) == len(avi) - 8
    for length in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        assert announced_bytes(avi[:4] + length + avi[8:]) == 0
    mkv = videos("open_gop.mkv").read_bytes()
    segment = mkv.index(b"\x18\x53\x80\x67") + 4
    for field in (b"\xff", b"\x01" + b"\xff" * 7, b"\0" * 8):
        assert announced_bytes(mkv[:segment] + field + mkv[segment + 8 :]) == 0
    for head in (b"", b"RIFF", mkv[:4], mkv[:5], mkv[:segment], b"\x1a\x45\xdf\xa3" + bytes(99)):
        assert announced_bytes(head) == 0


def test_audio_alone_is_named(tmp_path):
    """Would catch an IndexError from an empty list of video streams."""
    for name in ("voice.m4a", "voice.mp4"):
        with pytest.raises(VideoDecodeError, match=rf"{name}: no video stream \(audio only\); leave it out"):
            read_frames(write_audio(tmp_path / name))


@pytest.mark.parametrize(
    "name",
    ["nowhere.mp4", "http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "lavfi:testsrc", "pipe:0", "a\0b", "", "."],
)
def test_a_path_is_a_plain_local_file(name, tmp_path, monkeypatch):
    """Would catch FFmpeg's protocols behind a path, and directories or pipes opened as files."""
    monkeypatch.chdir(tmp_path)
    for call in (read_frames, probe, read_image):
        with pytest.raises(VideoDecodeError, match=r"no such file|not a regular file|null"):
            call(name)


@pytest.mark.parametrize(
    "name", ["-i.mp4", "a:b.mp4", "http:x.mp4", "%03d.mp4", "日本 ü.mp4", "concat:a|b.mp4", "[0].mp4"]
)
def test_awkward_names_are_opened(name, tmp_path, monkeypatch, video):
    """Would catch names taken for options, protocols or patterns, with relative and absolute paths."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, tmp_path / name)
    assert read_frames(name, [0]).shape == read_frames(tmp_path / name, [0]).shape == (1, 48, 64, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"indices": [70]},
        {"indices": [-1]},
        {"indices": []},
        {"indices": lambda total: [total]},
        {"size": 0},
        {"size": (10,)},
        {"size": (10, -1)},
        {"time_range": (2.0, 1.0)},
        {"time_range": (-1.0, 1.0)},
        {"time_range": (float("nan"), 1.0)},
    ],
)
def test_impossible_arguments_are_refused(video, arguments):
    """Would catch -1 as the last frame, and an empty array where frames were asked for."""
    with pytest.raises(InputError, match=r"must be"):
        read_frames(video, **arguments)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
def test_no_file_stays_open(tmp_path, video):
    """Would catch loaders that run out of file handles after a few thousand broken or half-read files."""
    (tmp_path / "text.mp4").write_bytes(b"text" * 99)
    before = len(os.listdir("/proc/self/fd"))
    half_read = stream_frames(video)
    next(half_read)
    half_read.close()
    read_frames(video, [0])
    with pytest.raises(VideoDecodeError):
        read_frames(tmp_path / "text.mp4")
    assert len(os.listdir("/proc/self/fd")) == before


def test_images_are_turned_and_made_rgb(tmp_path):
    """Would catch photographs lying on their side, grey pictures of two dimensions, and EPS reaching Ghostscript."""
    picture = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(picture).save(tmp_path / "grey.png", exif=exif)
    with (tmp_path / "grey.png").open("rb") as file:
        file.seek(9)
        for source in (tmp_path / "grey.png", (tmp_path / "grey.png").read_bytes(), file):
            np.testing.assert_array_equal(read_image(source), np.rot90(picture, -1)[..., None].repeat(3, -1))
        assert not file.closed
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "cut.png").write_bytes((tmp_path / "grey.png").read_bytes()[:-40])
    for name, reason in {"page.png": "not a picture", "cut.png": "damaged picture"}.items():
        for source, called in ((tmp_path / name, name), ((tmp_path / name).read_bytes(), "<bytes>")):
            with pytest.raises(VideoDecodeError, match=f"{called}: {reason}"):
                read_image(source)
