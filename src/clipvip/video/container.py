"""Opening media safely: real containers and pictures only, plain local files or bytes only, one line for every failure.

FFmpeg would also follow playlists and scripts to other files and hosts; the whitelists here keep it from that. Pictures
are read as the encoder wants them: upright, 8-bit RGB, transparent parts on white. H x W pixels.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, BinaryIO, TypeAlias

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageOps, UnidentifiedImageError, features

from clipvip.errors import InputError, VideoDecodeError

StrPath: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = StrPath | bytes | BinaryIO  # a path, a file's content, or an open, seekable binary file

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's name for the family
# Self-contained formats; the audio ones only so that their error can say "audio only".
CONTAINERS = f"{MP4},matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,gif,ivf,mxf,dv,mp3,wav,flac,aac"
HEAD_BYTES = 4096  # more than enough for what a container says of its own length
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # the two elements that a Matroska file consists of
STILL_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif"))
SEQUENCE_BRANDS = frozenset((b"hevc", b"hevx", b"hevm", b"hevs", b"avis", b"msf1"))
MOVIE_BRANDS = frozenset((b"isom", b"iso2", b"mp41", b"mp42", b"qt  ", b"avc1", b"hvc1"))  # of motion photos
PROGRESSIVE = (0, 1)  # FFmpeg's numbers for an unknown field order, and for none
NOT_SHOWN = Disposition.attached_pic | Disposition.dependent | Disposition.timed_thumbnails
MAX_PIXEL_ASPECT = 16
"""Real pixels are at most twice as wide as high, or high as wide; a file may claim anything."""
SQUARE_WITHIN = Fraction(2, 100)
"""Pixels nearer to square than this come from scaling to whole or even sizes; no reason to scale every frame again."""


@dataclass(slots=True)
class OpenVideo:
    """An open source and the stream to decode.

    head: its first bytes. damage: why it could not be read as a whole, as far as decoding has shown by now.
    pixel_aspect: width of a pixel by its height, as stored (before rotation).
    """

    source: Source
    threads: int
    name: str
    head: bytes
    container: Any = None
    stream: Any = None
    audio: Any = None
    damage: str | None = None
    pixel_aspect: Fraction = Fraction(1)

    @property
    def step_s(self) -> float:
        """The time from frame to frame, for streams that carry no timestamps or durations."""
        return float(1 / (self.stream.guessed_rate or 25))

    @property
    def cut_short(self) -> bool:
        """Whether the file ends before the byte that it names itself; most formats name none, and then it is False."""
        if self.container.format.name == MP4:
            end = max((entry.pos + entry.size for entry in self.stream.index_entries), default=0)
        else:
            end = announced_bytes(self.head)
        return 0 < self.container.size < end

    def reopen(self) -> None:
        """Everything as if just opened: after a mere seek the decoder may yield other frames."""
        self.close()
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        try:
            self.container = av.open(_handle(self.source), "r", options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError, OSError) as error:
            raise decode_error(self.name, _why_unreadable(self.head, error)) from error
        streams = self.container.streams
        shown = shown_streams(self.container)
        if not shown:
            raise decode_error(self.name, f"no video stream{' (audio only)' if streams.audio else ''}", "leave it out")
        decodable = [stream for stream in shown if stream.codec_context is not None]
        if not decodable:
            raise decode_error(self.name, "no decoder for its codec")
        self.stream = max(decodable, key=lambda s: (bool(s.disposition & Disposition.default), _num_pixels(s)))
        self.stream.codec_context.thread_count = self.threads
        heard = [stream for stream in streams.audio if stream.codec_context is not None]
        self.audio = max(heard, key=lambda s: bool(s.disposition & Disposition.default), default=None)
        self.damage = None
        self.pixel_aspect = _pixel_aspect(self.stream)

    def close(self) -> None:
        """Let go of the file; a file object of the caller's stays open."""
        if self.container is not None:
            self.container.close()
        self.container = self.stream = self.audio = None


@contextmanager
def open_video(source: Source, threads: int) -> Iterator[OpenVideo]:
    """A source opened for decoding from its start. Raises: VideoDecodeError; InputError for what is no source."""
    video = OpenVideo(source, threads, source_name(source), read_head(source))
    if is_still(video.head):
        raise decode_error(video.name, "a HEIC or AVIF picture, not a video", "use it as an image or leave it out")
    try:
        video.reopen()
        yield video
    finally:
        video.close()


def shown_streams(container: Any) -> list[Any]:
    """The video streams that are films: no cover art, no tiles or layers of another stream, no thumbnails."""
    return [stream for stream in container.streams.video if not stream.disposition & NOT_SHOWN]


def is_still(head: bytes) -> bool:
    """Whether a file is a HEIF or AVIF picture, by its first bytes; FFmpeg would give the tiles it is made of."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4]), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if head[8:12] in STILL_BRANDS:
        return True
    return bool(brands & STILL_BRANDS) and not brands & (SEQUENCE_BRANDS | MOVIE_BRANDS)


def is_interlaced(video: OpenVideo) -> bool:
    """Whether its frames are made of two fields, as far as the container or the first packets show."""
    return video.stream.codec_context.field_order not in PROGRESSIVE


def source_name(source: Source) -> str:
    """What errors call it: the path, or the name that a file object has, or what kind of thing it is."""
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<file object>"


def announced_bytes(head: bytes) -> int:
    """The length of a whole file by its first bytes: Matroska's (and WebM's) segment, AVI's RIFF chunk; 0: unsaid.

    Live recordings leave it open. Of an AVI in several RIFF chunks (over 1 GiB) it is the length of the first.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        length = int.from_bytes(head[4:8], "little")
        # Without the header's own eight bytes: some writers count them in. The last eight are of the index anyway.
        return length if length < 2**32 - 1 else 0
    if head[:4] == EBML:
        end = _element_end(head, 4)
        if end and head[end : end + 4] == SEGMENT:
            return _element_end(head, end + 4)
    return 0


def _element_end(head: bytes, at: int) -> int:
    """Where an EBML element ends whose size stands `at` there: 7 bits in each of 1 to 8 bytes; all ones: unknown, 0."""
    num_bytes = 9 - int.from_bytes(head[at : at + 1]).bit_length()
    most = 2 ** (7 * num_bytes) - 1
    size = int.from_bytes(head[at : at + num_bytes]) & most
    return at + num_bytes + size if num_bytes <= 8 and size < most else 0


def _num_pixels(stream: Any) -> int:
    return stream.codec_context.width * stream.codec_context.height


def _pixel_aspect(stream: Any) -> Fraction:
    """As the container has it, or else the codec; 1 where they are silent, it makes no sense or is nearly 1."""
    aspect = stream.sample_aspect_ratio
    if not aspect or not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT or abs(aspect - 1) < SQUARE_WITHIN:
        return Fraction(1)
    return aspect


def _handle(source: Source) -> str | BinaryIO:
    """What to give to FFmpeg, at its start."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return f"file:{os.fspath(source)}"  # any name a plain local path: "concat:a|b", "http://...", "-x", "%03d"
    source.seek(0)
    return source


def _why_unreadable(head: bytes, error: Exception) -> str:
    if isinstance(error, OSError):
        return _reason_of(error)
    if isinstance(error, av.error.ArgumentError) or head.startswith(b"#EXTM3U"):
        return "not a media container; playlists, scripts and pictures are refused as video"
    if head[4:8] == b"ftyp":
        return "mp4 without its index (moov atom missing), usually an unfinished copy or recording"
    return "not a media file, or its header is damaged"


def read_head(source: Source) -> bytes:
    """The first bytes of a source that can be read and is not empty; a file object is left at its start."""
    way_out = "give an open, seekable file with something in it"
    if isinstance(source, str | os.PathLike):
        way_out = "correct the path or leave it out"
    elif isinstance(source, io.TextIOBase) or not (isinstance(source, bytes) or _is_seekable_file(source)):
        raise InputError(f"a media source must be a path, bytes or a binary file object, not {type(source).__name__}")
    name = source_name(source)
    try:
        if isinstance(source, bytes):
            head = source[:HEAD_BYTES]
        elif isinstance(source, str | os.PathLike):
            if not stat.S_ISREG(os.stat(source).st_mode):  # before it is opened: a pipe would block
                raise decode_error(name, "not a regular file", way_out)
            with open(source, "rb") as file:
                head = file.read(HEAD_BYTES)
        else:
            source.seek(0)
            head = source.read(HEAD_BYTES)
            source.seek(0)
    except FileNotFoundError as error:
        raise decode_error(name, "no such file", way_out) from error
    except (OSError, ValueError) as error:
        raise decode_error(name, _reason_of(error), way_out) from error
    if not head:
        raise decode_error(name, "the file is empty", way_out)
    return head


def _is_seekable_file(source: object) -> bool:
    return all(hasattr(source, method) for method in ("read", "seek", "tell"))


def _reason_of(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def decode_error(name: str, reason: str, way_out: str = "re-encode it or leave it out") -> VideoDecodeError:
    return VideoDecodeError(f"{name}: {reason}; {way_out}")


# Pillow knows more formats, among them EPS, which runs a program.
IMAGES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(["AVIF"] if features.check("avif") else []))
WHITES = {"I": (255.0, 65_535.0), "F": (1.0, 255.0, 65_535.0)}
"""What white may be in grey pictures of 32 bits, by Pillow's mode: integers, floats."""


def read_image(source: Source) -> np.ndarray:
    """Read a picture (path, bytes or binary file object) and turn it as its EXIF tag says.

    Grey pictures of 16 bits are scaled to 8. In those of 32 bits, and of floats, white is the smallest of `WHITES` that
    no pixel exceeds, or else the largest pixel. Transparent parts show white.

    Returns: uint8 [H, W, 3], RGB.
    Raises: VideoDecodeError; InputError for what is no source.
    """
    head = read_head(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats_of(head)) as image:
            return image_to_array(image)
    except UnidentifiedImageError as error:
        if is_still(head):
            reason = "a HEIC or AVIF picture that cannot be read here"
            raise decode_error(source_name(source), reason, "pip install pi-heif, or save it as JPEG") from error
        raise decode_error(source_name(source), f"not a picture in one of the formats {', '.join(IMAGES)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise decode_error(source_name(source), f"damaged picture ({error})") from error


def image_to_array(image: Image.Image) -> np.ndarray:
    """An opened image as `read_image` returns it, uint8 [H, W, 3]."""
    return np.array(_rgb(ImageOps.exif_transpose(image)))


def formats_of(head: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that are read, for a file that begins so: HEIC needs a package of its own."""
    return (*IMAGES, "HEIF") if is_still(head) and _reads_heif() else IMAGES


@lru_cache(maxsize=1)
def _reads_heif() -> bool:
    try:
        importlib.import_module("pi_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # of these, Pillow would clip all above 255
        return Image.fromarray(_eight_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bit(grey: np.ndarray, mode: str) -> np.ndarray:
    """Grey values [H, W] of Pillow's modes F, I and I;16 (any byte order) to uint8."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0.0).clip(min=0.0)
    largest = float(values.max())
    whites = WHITES.get(mode, (65_535.0,))
    white = next((white for white in whites if largest <= white), largest)
    return np.rint(values * (255 / white)).astype(np.uint8)
