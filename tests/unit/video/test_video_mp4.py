"""Parts of videos written as MP4: whatever the source is, what plays is what was read."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clipvip.errors import VideoDecodeError
from clipvip.search import Hit
from clipvip.search.export import cut, export_hit
from clipvip.serve.decoding import browser_type, transcode
from clipvip.video import probe, read_frames, stream_frames
from clipvip.video.mp4 import write_mp4
from helpers_video import has_encoder, sequential_times, write_video

RATE = 48_000


def beat(count: int = 1) -> None:
    pass


def bars(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture that shows its number: eight bars, black or white."""
    bits = [(number >> bit & 1) * 235 for bit in range(8)]
    return np.repeat(np.repeat(np.array(bits, np.uint8), width // 8)[None], height, 0)[..., None].repeat(3, -1)


def number_of(picture: np.ndarray) -> int:
    width = picture.shape[1] // 8
    return sum((picture[:, width * bit + 2 : width * (bit + 1) - 2].mean() > 127) << bit for bit in range(8))


def tone(start: int, length: int, pitch: float, layout: str) -> av.AudioFrame:
    wave = np.sin(2 * np.pi * pitch * np.arange(start, start + length) / RATE, dtype=np.float32) * np.float32(0.3)
    channels = len(av.AudioLayout(layout).channels)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.tile(wave, (channels, 1))), "fltp", layout)
    frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
    return frame


def write_film(
    path: Path, length_s: float = 6.0, *, late_s: float = 0.0, codec: str = "libx264", audio: str = "aac", **options
) -> Path:
    """Numbered pictures, 10 per second, from `late_s` on; sound from 0 on, each second of a pitch of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"g": "10", **options})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream(audio, rate=RATE)
        sound.layout = "stereo"
        for number in range(round(length_s * 10)):
            frame = av.VideoFrame.from_ndarray(bars(number), format="rgb24")
            frame.pts, frame.time_base = number + round(late_s * 10), Fraction(1, 10)
            container.mux(stream.encode(frame))
        for second in range(round(length_s + late_s)):
            container.mux(sound.encode(tone(second * RATE, RATE, 300 * (second + 1), "stereo")))
        for each in (stream, sound):
            container.mux(each.encode(None))
    return path


def pitches_of(path: Path) -> list[int]:
    """The loudest pitch of each second, in steps of 100 Hz."""
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].codec_context.sample_rate
    seconds = [sound[at + rate // 4 : at + 3 * rate // 4] for at in range(0, len(sound) - rate // 2, rate)]
    return [
        round(float(np.abs(np.fft.rfft(second)).argmax() * rate / len(second)), -2) for second in seconds if len(second)
    ]


def joined(path: Path, **options) -> Path:
    """Two recordings of 3 s, each with a clock of its own, in one transport stream."""
    one, two = (write_film(path.with_stem(f"part{i}"), 3.0, **options) for i in (0, 1))
    path.write_bytes(one.read_bytes() + two.read_bytes())
    return path


def numbers_of(path: Path) -> list[tuple[float, int]]:
    return [(time_s, number_of(frame.rgb())) for time_s, frame in stream_frames(path)]


# ---- two clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late_s", [0.0, 3.0])
@pytest.mark.parametrize(
    ("name", "options"), [("late.mp4", {}), ("late.webm", {"codec": "libvpx-vp9", "audio": "libopus"})]
)
def test_a_picture_that_starts_late_plays_where_it_was_found(tmp_path, name, options, late_s):
    """Catches a page that shows another moment than was found: browsers count from the sound, we from the picture."""
    source = write_film(tmp_path / name, 6.0, late_s=late_s, **options)
    assert (browser_type(source) is None) == (late_s > 0)
    copy = tmp_path / "copy.mp4"
    transcode(source, copy, 1 << 30, beat)
    assert browser_type(copy) == "video/mp4"
    for time_s, number in numbers_of(copy):
        assert number == round(time_s * 10)
    assert pitches_of(copy)[:3] == [300 * (late_s + second + 1) for second in range(3)]
    cut(source, 4.0, 5.0, tmp_path / "part.mp4")
    assert numbers_of(tmp_path / "part.mp4")[0] == (0.0, 40)
    assert pitches_of(tmp_path / "part.mp4")[0] == 300 * (late_s + 4 + 1)


def test_joined_recordings_play_as_they_were_indexed(tmp_path):
    """Catches a traceback of the muxer where time runs backwards, and sound of one part under pictures of another."""
    source = joined(tmp_path / "joined.ts")
    expected = [number for _, number in numbers_of(source)]
    assert expected == [*range(30), *range(30)]
    copy = tmp_path / "copy.mp4"
    transcode(source, copy, 1 << 30, beat)
    assert [number for _, number in numbers_of(copy)] == expected
    assert sequential_times(copy)[0][-1] == pytest.approx(5.9, abs=0.1)
    assert pitches_of(copy)[:6] == [300, 600, 900, 300, 600, 900]
    cut(source, 4.0, 5.5, tmp_path / "part.mp4")
    assert numbers_of(tmp_path / "part.mp4")[0][1] == 10
    assert pitches_of(tmp_path / "part.mp4")[:1] == [600]


def test_a_gap_of_many_hours_can_be_written(tmp_path):
    """Catches times that MP4 cannot hold, and a jump by years that fills the disk with one picture."""
    times = [0, 100, 200, 72_000_000, 72_000_100]
    source = write_video(tmp_path / "gap.mkv", 5, times_ms=times, grain=8)
    write_mp4(source, tmp_path / "copy.mp4")
    made = sequential_times(tmp_path / "copy.mp4")[0]
    assert made[:3] == pytest.approx([0, 0.1, 0.2], abs=0.001)
    assert made[-2:] == pytest.approx([72_000, 72_000.1], abs=0.001)
    years = write_video(tmp_path / "years.mkv", 4, times_ms=[0, 100, 1_690_000_000_000, 1_690_000_000_100], grain=8)
    with pytest.raises(VideoDecodeError, match=r"years\.mkv: its clock jumps by 19,5\d\d days; repair"):
        write_mp4(years, tmp_path / "copy.mp4")
    write_mp4(years, tmp_path / "end.mp4", time_range=(1_690_000_000, 1_690_000_012))
    assert probe(tmp_path / "end.mp4").num_frames == 2


# ---- whatever FFmpeg refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "tag"), [("libsvtav1", "av01"), ("libx265", "hvc1"), ("libx264", "avc1")])
def test_packets_are_copied_under_their_own_tag(tmp_path, codec, tag):
    """Catches AV1 that cannot be exported, as its decoder cannot encode, and HEVC that Apple's players refuse."""
    if not has_encoder(codec):
        pytest.skip("no encoder")
    plain = write_video(
        tmp_path / "plain.mp4", 20, codec=codec, height=64, grain=8, **({"g": "10"} if codec != "libx265" else {})
    )
    source = tmp_path / "source.mp4"
    with av.open(str(plain)) as read, av.open(str(source), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0], opaque=True)
        stream.codec_context.codec_tag = tag
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    cut(source, 0.0, 0.9, tmp_path / "part.mp4")
    with av.open(str(tmp_path / "part.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == tag
    np.testing.assert_array_equal(read_frames(tmp_path / "part.mp4", [0]), read_frames(source, [0]))


def test_what_cannot_be_copied_is_encoded(tmp_path, monkeypatch):
    """Catches an export that gives up where the muxer does not take the packets as they are."""
    source = write_film(tmp_path / "film.mp4")

    def refuse(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr("clipvip.search.export._copy_packets", refuse)
    cut(source, 1.0, 2.0, tmp_path / "part.mp4")
    assert [number for _, number in numbers_of(tmp_path / "part.mp4")] == list(range(10, 20))


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_sound_whose_layout_changes_comes_along(tmp_path, suffix):
    """Catches a resampler that takes one layout only: broadcasts change from stereo to mono or 5.1."""
    source = tmp_path / f"broadcast.{suffix}"
    if suffix == "ts":
        parts = []
        for number, layout in enumerate(("stereo", "mono", "5.1")):
            part = tmp_path / f"part{number}.ts"
            with av.open(str(part), "w") as container:
                stream = container.add_stream("libx264", rate=10)
                stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
                sound = container.add_stream("ac3", rate=RATE)
                sound.layout = layout
                for i in range(20):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(number * 20 + i), format="rgb24")))
                for second in (0, 1):
                    container.mux(sound.encode(tone(second * RATE, RATE, 300 * (2 * number + second + 1), layout)))
                for each in (stream, sound):
                    container.mux(each.encode(None))
            parts.append(part.read_bytes())
        source.write_bytes(b"".join(parts))
    else:
        write_film(source, 6.0)
    for name, span in (("all.mp4", None), ("part.mp4", (1.0, 5.0))):
        write_mp4(source, tmp_path / name, time_range=span)
        first = 0 if span is None else 1
        heard = pitches_of(tmp_path / name)
        assert heard[: 5 - first] == [300 * (second + 1) for second in range(first, 5)]


def test_a_refusal_is_one_clear_error(tmp_path):
    """Catches FFmpeg's exceptions of many kinds, and half a file left behind."""
    tiny = write_video(tmp_path / "tiny.gif", 3, width=1, height=1, codec="gif", pix_fmt="rgb8")
    with pytest.raises(VideoDecodeError, match=r"tiny\.gif: 1 x 1 pixels are too few"):
        cut(tiny, 0.0, 1.0, tmp_path / "part.mp4")
    with pytest.raises(FileNotFoundError, match="nowhere"):  # no fault of the video
        write_mp4(write_film(tmp_path / "film.mp4", 1.0), tmp_path / "nowhere" / "part.mp4")
    assert not list(tmp_path.glob("part.mp4*"))


@pytest.mark.parametrize("stem", ["😀" * 62, "x" * 250, "é" * 120, "a\x1b[31mb\x9b", "..."])
def test_names_at_the_limit(tmp_path, stem):
    """Catches an export that fails for a name that the file system took: rank and times are put around it."""
    source = write_video(tmp_path / f"{stem}.mp4", 10, grain=8)
    made = export_hit(Hit(7, 0.5, source, 0.0, 0.9, "s", "v"), tmp_path / "cuts")
    assert made.exists()
    assert made.name.startswith("007 ")
    assert made.name.endswith(" 0.00-0.00.mp4")
    assert made.name.isprintable()


# ---- colours and fields ----------------------------------------------------------------------------------------------


def write_tagged(
    path: Path, colour: tuple[int, int, int], *, matrix: int, trc: int, primaries: int, pix_fmt: str
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = matrix, trc, primaries, 1
        picture = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), colour, np.uint8), format="rgb24")
        for _ in range(3):
            frame = picture.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=1)
            frame.pict_type = 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tags_of(path: Path) -> tuple[int, int, int]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.colorspace, frame.color_trc, frame.color_primaries


@pytest.mark.parametrize(
    ("matrix", "trc", "primaries", "pix_fmt"),
    [(1, 1, 1, "yuv420p"), (9, 16, 9, "yuv420p10le"), (9, 18, 9, "yuv420p10le")],
)
def test_colours_keep_their_meaning(tmp_path, matrix, trc, primaries, pix_fmt):
    """Catches HD whose red becomes orange in players, and HDR that looks grey since its tags were lost."""
    source = write_tagged(
        tmp_path / "film.mkv", (200, 29, 30), matrix=matrix, trc=trc, primaries=primaries, pix_fmt=pix_fmt
    )
    write_mp4(source, tmp_path / "part.mp4")
    assert tags_of(source) == tags_of(tmp_path / "part.mp4") == (matrix, trc, primaries)
    before, after = (read_frames(path, [1])[0, 360, 640].astype(int) for path in (source, tmp_path / "part.mp4"))
    assert np.abs(before - after).max() <= 3
    assert np.abs(before - (200, 29, 30)).max() <= 3


def test_full_range_is_not_stretched(tmp_path):
    """Catches copies of MJPEG cameras with too much contrast: their grey levels use all of 0 to 255."""
    source = tmp_path / "camera.avi"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, options={"q:v": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        ramp = np.tile(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (64, 1, 3))
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(ramp, format="rgb24").reformat(format="yuvj420p", dst_color_range=2)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_mp4(source, tmp_path / "copy.mp4")
    before, after = (read_frames(path, [1])[0].astype(int) for path in (source, tmp_path / "copy.mp4"))
    assert np.abs(before - ramp).mean() < 3
    assert np.abs(before - after).mean() < 3


def test_rgb_sources_get_tags(tmp_path):
    """Catches screen recordings whose colours depend on what a player guesses."""
    source = write_video(tmp_path / "screen.mkv", 5, codec="ffv1", pix_fmt="bgr0", width=96, height=64, grain=16)
    write_mp4(source, tmp_path / "copy.mp4", crf=5)
    assert tags_of(tmp_path / "copy.mp4") == (1, 1, 1)
    before, after = (read_frames(path, [1])[0].astype(int) for path in (source, tmp_path / "copy.mp4"))
    assert np.abs(before - after).mean() < 8


def test_interlaced_video_is_deinterlaced(tmp_path):
    """Catches combs in copies and exports: what moves is in two places, line by line."""
    source = tmp_path / "camcorder.ts"
    with av.open(str(source), "w") as container:
        options = {"x264-params": "interlaced=1", "crf": "5"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(25):
            fields = [np.full((96, 128, 3), 30, np.uint8) for _ in (0, 1)]
            for parity, field in enumerate(fields):
                at = 4 * (2 * i + parity) % 100
                field[:, at : at + 24] = 220
            picture = fields[0].copy()
            picture[1::2] = fields[1][1::2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))

    def comb(path: Path) -> float:
        frames = read_frames(path, [8, 9, 10, 11]).astype(int)
        return float(np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean())

    write_mp4(source, tmp_path / "copy.mp4")
    assert comb(source) > 5
    assert comb(tmp_path / "copy.mp4") < comb(source) / 3
    assert probe(tmp_path / "copy.mp4").num_frames == 25


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_wide_pixels_and_rotation_are_written_as_shown(tmp_path, rotation):
    """Catches exports as thin as a video is stored, or on their side."""
    source = tmp_path / "wide.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 240, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        stream.set_display_rotation(rotation)
        picture = np.zeros((240, 160, 3), np.uint8)
        picture[:60, :40] = (220, 30, 30)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    write_mp4(source, tmp_path / "part.mp4")
    with av.open(str(tmp_path / "part.mp4")) as container:
        written = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)  # as any program would
    expected = read_frames(source, [0])[0].astype(int)
    assert written.shape == expected.shape == ((240, 320, 3) if rotation % 180 == 0 else (320, 240, 3))
    assert np.abs(written - expected).mean() < 6


def test_frames_of_another_size_are_fitted_in(tmp_path):
    """Catches an encoder that refuses the second size of a file, and pictures stretched to the first."""
    parts = []
    for number, (width, height) in enumerate(((320, 240), (240, 320))):
        parts.append(write_video(tmp_path / f"{number}.ts", 10, width=width, height=height, grain=20).read_bytes())
    source = tmp_path / "turned.ts"
    source.write_bytes(b"".join(parts))
    write_mp4(source, tmp_path / "copy.mp4")
    copy = read_frames(tmp_path / "copy.mp4", np.arange)
    assert copy.shape == (20, 240, 320, 3)
    assert copy[15, :, :60].max() < 30  # black bars beside the upright picture
    assert copy[15, :, 80:240].mean() > 60


def test_a_still_is_as_long_as_it_is_shown(tmp_path):
    """Catches a copy that ends with its last frame's first moment."""
    source = write_video(tmp_path / "slides.mkv", 3, times_ms=[0, 2000, 5000], grain=8)
    write_mp4(source, tmp_path / "copy.mp4")
    assert sequential_times(tmp_path / "copy.mp4")[0] == pytest.approx([0, 2, 5], abs=0.01)
    assert probe(tmp_path / "copy.mp4").duration_s == pytest.approx(probe(source, scan=True).duration_s, abs=0.05)


def test_of_a_damaged_file_what_decodes_is_written(tmp_path):
    """Catches a film that cannot be played at all for its last minute's sake."""
    whole = write_video(tmp_path / "whole.mp4", 100, faststart=True, grain=8, g="10").read_bytes()
    source = tmp_path / "cut.mp4"
    source.write_bytes(whole[: len(whole) * 2 // 3])
    damage = write_mp4(source, tmp_path / "copy.mp4")
    assert "frames" in damage
    assert 40 < probe(tmp_path / "copy.mp4").num_frames < 80


# ---- sound at seams and gaps -----------------------------------------------------------------------------------------


def write_part(path: Path, first: int, *, seconds: int = 3, silent: bool = False, late_s: int = 0) -> bytes:
    """A transport stream with a clock of its own: numbered pictures, and for each second a pitch of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = None if silent else container.add_stream("mp2", rate=RATE)
        if sound is not None:
            sound.layout = "stereo"
        for i in range(seconds * 10):
            frame = av.VideoFrame.from_ndarray(bars(10 * first + i), format="rgb24")
            frame.pts, frame.time_base = i + 10 * late_s, Fraction(1, 10)
            container.mux(stream.encode(frame))
            if sound is not None and i % 10 == 0:
                second = first + i // 10
                container.mux(sound.encode(tone(i // 10 * RATE, RATE, 300 * (second + 1), "stereo")))
        for each in (stream, sound):
            if each is not None:
                container.mux(each.encode(None))
    return path.read_bytes()


def test_sound_stays_with_its_part_where_another_has_none(tmp_path):
    """Catches sound of the third recording under the pictures of the second, which is silent."""
    parts = [write_part(tmp_path / f"{n}.ts", 3 * n, silent=n == 1) for n in range(3)]
    (tmp_path / "abc.ts").write_bytes(b"".join(parts))
    write_mp4(tmp_path / "abc.ts", tmp_path / "copy.mp4")
    heard = pitches_of(tmp_path / "copy.mp4")
    assert heard[:3] == [300, 600, 900]
    assert heard[6:9] == [2100, 2400, 2700]


@pytest.mark.parametrize("overlap_s", [0.2, 0.4, 0.6])
def test_sound_goes_on_where_parts_overlap(tmp_path, overlap_s):
    """Catches a copy that is silent from the first overlap on: sound may go back where pictures only slip."""
    parts = []
    for n in range(3):
        write_part(tmp_path / f"{n}.ts", 2 * n, seconds=2)
        shift = n * (2 - overlap_s)
        with av.open(str(tmp_path / f"{n}.ts")) as read, av.open(str(tmp_path / f"s{n}.ts"), "w") as write:
            made = {stream.index: write.add_stream_from_template(stream, opaque=True) for stream in read.streams}
            for packet in read.demux():
                if packet.dts is not None:
                    ticks = round(shift / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = made[packet.stream.index]
                    write.mux(packet)
        parts.append((tmp_path / f"s{n}.ts").read_bytes())
    (tmp_path / "overlap.ts").write_bytes(b"".join(parts))
    write_mp4(tmp_path / "overlap.ts", tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    length_s = probe(tmp_path / "copy.mp4").duration_s
    assert len(sound) / RATE == pytest.approx(length_s, abs=0.7)
    last = sound[int((length_s - 0.9) * RATE) : int((length_s - 0.2) * RATE)]
    assert np.abs(last).max() > 0.1


def test_slideshows_keep_the_slide_that_is_shown_and_their_sound(tmp_path):
    """Catches exports whose first seconds are silent, that begin with the next slide, or outlast what was found."""
    source = tmp_path / "lecture.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        sound = container.add_stream("aac", rate=RATE)
        sound.layout = "stereo"
        for second in range(75):
            if second in (0, 30, 60):
                frame = av.VideoFrame.from_ndarray(bars(second), format="rgb24")
                frame.pts, frame.time_base = second * 10, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(sound.encode(tone(second * RATE, RATE, 300 * (second % 7 + 1), "stereo")))
        for each in (stream, sound):
            container.mux(each.encode(None))
    for start_s, end_s, slides in ((2, 22, [0]), (31, 51, [30]), (26, 38, [0, 30])):
        write_mp4(source, tmp_path / "part.mp4", time_range=(start_s, end_s))
        assert [number for _, number in numbers_of(tmp_path / "part.mp4")] == slides
        heard = pitches_of(tmp_path / "part.mp4")
        expected = [300 * (second % 7 + 1) for second in range(start_s, end_s)]
        assert heard[: len(expected) - 1] == expected[:-1]
        assert probe(tmp_path / "part.mp4").duration_s <= end_s - start_s + 0.2


def test_colours_that_nobody_can_convert_are_named(tmp_path):
    """Catches an error number without a file, and a traceback for each such file at every run."""
    source = tmp_path / "odd.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 14  # ICtCp
        frame = av.VideoFrame.from_ndarray(bars(3, 64, 48), format="rgb24").reformat(format="yuv420p")
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    try:
        read_frames(source)
    except VideoDecodeError as error:
        assert str(error).startswith(f"{source}: its frames (yuv420p, colour matrix 14) cannot be converted")  # noqa: PT017
    with pytest.raises(VideoDecodeError, match=r"odd\.mkv: ") if not _converts(source) else nullcontext():
        write_mp4(source, tmp_path / "copy.mp4")


def _converts(source: Path) -> bool:
    with av.open(str(source)) as container:
        try:
            next(container.decode(video=0)).to_ndarray(format="rgb24")
        except av.FFmpegError:
            return False
    return True


@pytest.mark.parametrize("name", ["late.mp4", "late.webm", "picture.mp4", "joined.webm", "fields.mp4"])
def test_what_browsers_would_show_at_another_time_or_combed_is_copied(tmp_path, name):
    """Catches files whose clock does not begin at 0, with sound or without, joined ones, and interlaced ones."""
    source = tmp_path / name
    if name == "picture.mp4":
        write_video(source, 20, first_pts=50, grain=8)
    elif name == "fields.mp4":
        write_video(source, 20, grain=8, **{"x264-params": "interlaced=1"})
        cut(source, 0.0, 1.0, tmp_path / "part.mp4")
        with av.open(str(tmp_path / "part.mp4")) as container:
            assert not any(frame.interlaced_frame for frame in container.decode(video=0))
    elif name == "joined.webm":
        parts = [write_video(tmp_path / f"{n}.webm", 20, codec="libvpx", grain=8 + n).read_bytes() for n in (0, 1)]
        source.write_bytes(b"".join(parts))
    else:
        write_film(
            tmp_path / f"plain{source.suffix}",
            3.0,
            **({"codec": "libvpx-vp9", "audio": "libopus"} if "webm" in name else {}),
        )
        with av.open(str(tmp_path / f"plain{source.suffix}")) as read, av.open(str(source), "w") as write:
            made = {stream.index: write.add_stream_from_template(stream, opaque=True) for stream in read.streams}
            for packet in read.demux():
                if packet.dts is not None:
                    ticks = round(5 / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = made[packet.stream.index]
                    write.mux(packet)
    if name == "joined.webm" and len(numbers_of(source)) == 20:
        pytest.skip("this FFmpeg reads one part only")
    assert browser_type(source) is None
