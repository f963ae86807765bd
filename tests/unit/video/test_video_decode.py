"""Decoding against a plain sequential decode, and against files and names that try to break it."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from clipvip.errors import InputError, VideoDecodeError
from clipvip.video import decode, probe, read_frames, read_image, stream_frames, uniform_indices
from clipvip.video.container import open_video
from helpers_video import FPS, sequential_decode, write_audio, write_video

KINDS = {
    "b_frames.mp4": {"bf": "3", "g": "7"},
    "open_gop.mkv": {"bf": "3", "g": "7", "x264-params": "open-gop=1"},
    "late_start.mp4": {"first_pts": 37},
    "odd.mp4": {"width": 65, "height": 49, "pix_fmt": "yuv444p"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "7"},
    "transport.ts": {"bf": "2", "g": "7"},
    "old.avi": {"bf": "0"},
    "moving.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """One file of each kind, 70 frames (7 s) long."""
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / name, 70, **options) for name, options in KINDS.items()}


@pytest.fixture(scope="module")
def video(videos):
    return videos["b_frames.mp4"]


@pytest.mark.parametrize("name", KINDS)
def test_frames_equal_those_of_a_sequential_decode(videos, name):
    """Would catch B-frames in decoding order, a lost last frame, a start that is not 0, header counts taken as true."""
    expected = sequential_decode(videos[name])
    np.testing.assert_array_equal(read_frames(videos[name]), expected[uniform_indices(len(expected), 12)])
    picked = [5, 0, 5, len(expected) - 1, 3]
    np.testing.assert_array_equal(read_frames(videos[name], picked), expected[picked])
    every = np.stack([frame.rgb() for _, frame in stream_frames(videos[name])])
    np.testing.assert_array_equal(every, expected)


@pytest.mark.parametrize("spare_bytes", [0, 100_000])
@pytest.mark.parametrize("name", ["vp9.webm", "b_frames.mp4"])
def test_a_video_larger_than_the_memory_budget_gives_the_same_frames(videos, name, spare_bytes, monkeypatch):
    """Would catch frames forgotten by the first pass, or a second pass that counts from elsewhere."""
    monkeypatch.setattr(decode, "SPARE_BYTES", spare_bytes)
    expected = sequential_decode(videos[name])
    np.testing.assert_array_equal(read_frames(videos[name], lambda total: [total - 1, 0]), expected[[-1, 0]])
    cut = read_frames(videos[name], lambda total: np.arange(total), time_range=(1.0, 3.0))
    np.testing.assert_array_equal(cut, expected[10:30])


@pytest.mark.parametrize("seek_from_s", [0.0, float("inf")])
@pytest.mark.parametrize("name", [name for name in KINDS if name != "moving.gif"])
def test_a_time_range_means_the_frames_between_its_ends(videos, name, seek_from_s, monkeypatch):
    """Would catch seeks that land late or on frames without their references, and float fuzz at the ends of a range."""
    monkeypatch.setattr(decode, "SEEK_FROM_S", seek_from_s)
    expected = sequential_decode(videos[name])
    for first in range(0, len(expected), 3):
        time_range = (first * (1 / FPS), (first + 3) * 0.1)
        cut = read_frames(videos[name], lambda total: np.arange(total), time_range=time_range)
        np.testing.assert_array_equal(cut, expected[first : first + 3], err_msg=f"{time_range}")


def test_a_range_without_a_frame_of_its_own_gives_the_one_shown(video):
    """Would catch an empty clip where a short range falls between two frames."""
    expected = sequential_decode(video)
    np.testing.assert_array_equal(read_frames(video, time_range=(0.21, 0.29)), expected[[2]])
    np.testing.assert_array_equal(read_frames(video, time_range=(6.95, 90.0)), expected[[69]])


@pytest.mark.parametrize("name", KINDS)
def test_a_range_beyond_the_end_is_an_error(videos, name):
    """Would catch annotations of another cut of the film that silently train on its last frame."""
    for time_range in [(7.01, 8.0), (50.0, 60.0)]:
        with pytest.raises(VideoDecodeError, match=rf"{name}: the range .* s lies beyond the end \([67]\.\d+ s\); "):
            read_frames(videos[name], time_range=time_range)


def test_indices_may_depend_on_the_true_count(videos):
    """Would catch sampling from an estimate: this webm's header has no frame count."""
    totals = []
    read_frames(videos["vp9.webm"], lambda total: totals.append(total) or [0])
    assert totals == [70]
    assert probe(videos["vp9.webm"]).num_frames is None


def test_one_frame_gives_one_frame(tmp_path):
    """Would catch a still picture copied twelve times, twelve times the work."""
    path = write_video(tmp_path / "still.mp4", 1)
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


def test_stream_gives_times_after_the_first_frame(videos):
    """Would catch segments of a search index that start at the container's clock instead of 0."""
    times = [time_s for time_s, _ in stream_frames(videos["late_start.mp4"])]
    np.testing.assert_allclose(times, np.arange(70) / FPS, atol=1e-9)


def test_probe_reads_the_header(video):
    """Would catch a frame rate turned upside down, and durations in time base units."""
    info = probe(video)
    assert (info.duration_s, info.num_frames, info.fps) == (7.0, 70, 10.0)
    assert (info.width, info.height, info.rotation, info.codec) == (64, 48, 0, "h264")


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
        "cut.mp4": (fast[: len(fast) * 6 // 10], r"breaks off after \d\d frames"),
        "cut_early.mp4": (fast[: fast.index(b"mdat") + 8], "no decodable frame|after 0 frames"),
        "zeroed.mp4": (fast[:-20000] + bytes(10000) + fast[-10000:], r"breaks off after \d\d frames"),
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
        for call in (read_frames, lambda path: list(stream_frames(path))):
            with pytest.raises(VideoDecodeError, match=reason) as error:
                call(path)
            assert str(error.value).startswith(f"{path}: ")
            assert "; " in str(error.value)
            assert "\n" not in str(error.value)


def test_an_mp4_cut_between_two_frames_is_an_error(tmp_path):
    """Would catch FFmpeg's silent end of file where the cut happens to hit a frame boundary."""
    whole = write_video(tmp_path / "fast.mp4", 20, faststart=True, bf="0")
    with open_video(whole, 1) as opened:
        boundary = opened.stream.index_entries[10].pos
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:boundary])
    assert len(sequential_decode(cut)) == 10
    with pytest.raises(VideoDecodeError, match="cut short: it breaks off after 10 frames"):
        read_frames(cut)
    assert read_frames(cut, [0, 9]).shape[0] == 2


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
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.rot90(picture, -1)[..., None].repeat(3, -1))
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "cut.png").write_bytes((tmp_path / "grey.png").read_bytes()[:-40])
    for name, reason in {"page.png": "not a picture", "cut.png": "damaged picture"}.items():
        with pytest.raises(VideoDecodeError, match=f"{name}: {reason}"):
            read_image(tmp_path / name)
