"""What is shown of a file: the right stream, square pixels, frames of any size, pictures as they look."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from clipvip.errors import VideoDecodeError
from clipvip.video import Scales, SegmentFrames, probe, read_frames, read_image, stream_segments
from helpers_video import sequential_decode, write_video


def plain(height: int, width: int, colour: tuple[int, int, int]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((height, width, 3), colour, np.uint8), format="rgb24")


def write_anamorphic(path: Path, width: int, height: int, aspect: Fraction, *, rotation: int = 0) -> Path:
    """A white square on black, as it is shown: `aspect` is that of the pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        picture = np.zeros((height, width, 3), np.uint8)
        side = height // 2
        stored = round(side / aspect)
        top, left = height // 4, (width - stored) // 2
        picture[top : top + side, left : left + stored] = 255
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def square_of(picture: np.ndarray) -> tuple[int, int]:
    """Height and width of what is white."""
    white = picture.min(axis=-1) > 127
    return int(white.any(axis=1).sum()), int(white.any(axis=0).sum())


@pytest.mark.parametrize(
    ("name", "stored", "aspect", "rotation", "shown"),
    [
        ("wide.mp4", (160, 240), Fraction(2), 0, (320, 240)),
        ("wide.ts", (160, 240), Fraction(2), 0, (320, 240)),
        ("wide.mkv", (160, 240), Fraction(2), 0, (320, 240)),  # by its DisplayWidth
        ("pal.mp4", (720, 576), Fraction(64, 45), 0, (1024, 576)),
        ("narrow.mp4", (320, 240), Fraction(1, 2), 0, (160, 240)),
        ("turned.mp4", (160, 240), Fraction(2), 90, (240, 320)),
        ("nonsense.mp4", (160, 240), Fraction(1000), 0, (160, 240)),
    ],
)
def test_pixels_are_square(tmp_path, name, stored, aspect, rotation, shown):
    """Catches people as thin or wide as a video is stored: in probe, whole frames, and frames for `crop`."""
    width, height = stored
    square = 1 if "nonsense" in name else aspect
    path = write_anamorphic(tmp_path / name, width, height, aspect, rotation=rotation)
    if "nonsense" not in name:
        assert probe(path).pixel_aspect == pytest.approx(float(square))
    info = probe(path)
    assert (info.width, info.height) == shown
    (frame,) = read_frames(path, [3])
    assert frame.shape[:2] == shown[::-1]
    if "nonsense" not in name:
        assert square_of(frame)[0] == pytest.approx(square_of(frame)[1], abs=4)
    (cropped,) = read_frames(path, [3], size=100)
    assert min(cropped.shape[:2]) == 100
    assert max(cropped.shape[:2]) == 100 * max(shown) // min(shown)
    assert read_frames(path, [3], size=(50, 60)).shape == (1, 50, 60, 3)


def test_nearly_square_pixels_are_left_alone(tmp_path):
    """Catches every frame of an ordinary file scaled by half a percent, since its encoder rounded its size."""
    path = write_anamorphic(tmp_path / "scaled.mp4", 200, 112, Fraction(224, 225))
    assert (probe(path).width, probe(path).pixel_aspect) == (200, 1.0)
    np.testing.assert_array_equal(read_frames(path, np.arange), sequential_decode(path))


def write_streams(path: Path, *streams: tuple[int, Disposition | None]) -> Path:
    """Streams of so many grey levels, 64 pixels wide for dark ones and 128 for light ones, with a disposition."""
    with av.open(str(path), "w") as container:
        made = []
        for level, disposition in streams:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = (128 if level > 127 else 64), 48, "yuv420p"
            stream.disposition = disposition or Disposition(0)
            made.append((stream, level))
        for _ in range(5):
            for stream, level in made:
                container.mux(stream.encode(plain(48, stream.width, (level, level, level))))
        for stream, _ in made:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("streams", "shown"),
    [
        (((60, None), (200, Disposition.default)), 200),
        (((60, Disposition.default), (200, None)), 60),
        (((60, Disposition.default), (200, Disposition.default)), 200),
        (((60, None), (200, None)), 200),
    ],
)
def test_the_stream_is_the_one_players_show(tmp_path, streams, shown):
    """Catches a preview or a second camera that is indexed in place of the film."""
    path = write_streams(tmp_path / "several.mkv", *streams)
    assert read_frames(path, [0]).mean() == pytest.approx(shown, abs=3)
    parts = [p for p in stream_segments(path, Scales.of(9.0)) if isinstance(p, SegmentFrames)]
    assert parts[0].frames.mean() == pytest.approx(shown, abs=3)


@pytest.mark.parametrize("film", [False, True])
def test_cover_art_is_no_video(tmp_path, film):
    """Catches an album cover indexed as a film of one frame, or in place of the film because it is larger."""
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 128, 128, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        shown = container.add_stream("libx264", rate=10) if film else None
        if shown is not None:
            shown.width, shown.height, shown.pix_fmt = 64, 48, "yuv420p"
        container.mux(cover.encode(plain(128, 128, (200, 200, 200)).reformat(format="yuvj420p")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        if shown is not None:
            for _ in range(5):
                container.mux(shown.encode(plain(48, 64, (60, 60, 60))))
        for stream in container.streams:
            container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert any(stream.disposition & Disposition.attached_pic for stream in container.streams.video)
    if film:
        assert read_frames(path, [0]).mean() == pytest.approx(60, abs=3)
    else:
        with pytest.raises(VideoDecodeError, match="no video stream"):
            read_frames(path)


def write_turned(path: Path, order: tuple[tuple[int, int], ...] = ((320, 240), (240, 320))) -> Path:
    """Parts of different sizes, one after the other; a red left half in each."""
    contents = []
    for number, (width, height) in enumerate(order):
        part = path.with_stem(f"size{number}")
        with av.open(str(part), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:, : width // 2] = (220, 20, 20)
            for _ in range(25):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        contents.append(part.read_bytes())
    path.write_bytes(b"".join(contents))
    return path


def test_each_frame_is_scaled_on_its_own_where_the_size_changes(tmp_path):
    """Catches a file skipped as a whole, with advice for programmers, when a phone was turned while it filmed."""
    path = write_turned(tmp_path / "turned.ts")
    squashed = read_frames(path, [0, 49], size=(64, 64))
    assert np.abs(squashed[0].astype(int) - squashed[1]).mean() < 6
    cropped = read_frames(path, [0, 49], size=60)
    assert cropped.shape == (2, 60, 60, 3)  # the part that both have, of which the model takes the centre
    assert np.abs(cropped[:, :, :25].astype(int) - (220, 20, 20)).mean() < 12
    whole = read_frames(path, [0, 49])
    assert whole.shape == (2, 240, 320, 3)
    assert np.abs(whole[0].astype(int) - whole[1]).mean() < 6
    parts = [p for p in stream_segments(path, Scales.of(9.0), size=60) if isinstance(p, SegmentFrames)]
    assert parts[0].frames.shape == (12, 60, 60, 3)


def test_a_wide_strip_takes_no_wide_memory(tmp_path):
    """Catches frames of 1.8 million pixels a row: a strip scaled until its short side has 224."""
    path = write_video(tmp_path / "strip.mkv", 3, codec="ffv1", width=8192, height=16, pix_fmt="yuv420p", grain=8)
    assert read_frames(path, size=224).shape == (12, 224, 224 * 64, 3)


def heif(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(64)


def test_an_avif_is_a_picture(tmp_path):
    """Catches an AVIF that is searched by as a video of one frame, and one whose hidden colours show."""
    picture = np.zeros((48, 64, 4), np.uint8)
    picture[:24] = (200, 30, 30, 255)
    path = tmp_path / "photo.avif"
    Image.fromarray(picture).save(path, quality=95)
    shown = read_image(path)
    np.testing.assert_allclose(shown[4, 4], (200, 30, 30), atol=8)
    np.testing.assert_array_equal(shown[-1, -1], (255, 255, 255))
    for call in (read_frames, probe):
        with pytest.raises(VideoDecodeError, match=r"photo\.avif: a HEIC or AVIF picture, not a video"):
            call(path)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_a_heic_that_cannot_be_read_says_so(tmp_path, brand):
    """Catches one tile of an iPhone's picture in place of all of it, and a sentence that does not name the format."""
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heif(brand))
    with pytest.raises(VideoDecodeError, match=r"IMG_0001\.HEIC: .*HEIC.*; .*JPEG"):
        read_image(path)
    with pytest.raises(VideoDecodeError, match="not a video"):
        read_frames(path)


@pytest.mark.parametrize(
    ("values", "format", "expected"),
    [
        (np.array([[0, 32768, 65535]], np.uint16), "PNG", [0, 128, 255]),
        (np.array([[0, 32768, 65535]], np.uint16), "TIFF", [0, 128, 255]),
        (np.array([[0, 128, 255]], np.int32), "TIFF", [0, 128, 255]),
        (np.array([[0, 1000, 60000]], np.int32), "TIFF", [0, 4, 233]),
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), "TIFF", [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), "TIFF", [0, 128, 255]),
        (np.array([[-1, 127.6, 255]], np.float32), "TIFF", [0, 128, 255]),
        (np.array([[0, np.nan, 1e6]], np.float32), "TIFF", [0, 0, 255]),
    ],
)
def test_grey_pictures_of_any_depth(values, format, expected):
    """Catches X-rays, depth maps and scans read as all white or all black."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, format)
    shown = read_image(file.getvalue())
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[0], np.repeat(np.array(expected)[:, None], 3, axis=1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_parts_of_pictures_are_white(mode):
    """Catches the colours that a program left under what it made transparent."""
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (90, 90, 90, 255)
    image = Image.fromarray(rgba)
    if mode == "P":
        image = Image.fromarray(np.array([[1, 0], [0, 0]], np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 90, 90, 90])
        image.info["transparency"] = 0
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG" if mode != "PA" else "TIFF")
    shown = read_image(file.getvalue())
    assert shown[0, 0].tolist() == [90, 90, 90] or mode == "PA"
    assert shown[1, 1].tolist() == [255, 255, 255] or mode == "PA"


def test_crop_sees_what_is_shown(tmp_path):
    """Catches model input of `crop` that is stretched: the same scene, stored with wide pixels and with square ones."""
    wide = write_anamorphic(tmp_path / "wide.mp4", 160, 240, Fraction(2))
    square = write_anamorphic(tmp_path / "square.mp4", 320, 240, Fraction(1))
    a, b = (read_frames(path, [2], size=64).astype(int) for path in (wide, square))
    assert a.shape == b.shape
    assert np.abs(a - b).mean() < 6
