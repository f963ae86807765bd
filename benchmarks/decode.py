"""Decoding for an encoder: 12 uniform frames at 224 x 224, ours against PyAV and decord2, as Markdown tables.

One thread each; paired and interleaved in one process, as in measure.py. Ratios are medians over rounds of row / peer:
below 1 is less time than the peer. The peer is decord2, or a sequential decode where decord2 is not installed
(`pip install 'clipvip[bench]'`). The videos are made on the spot (a minute or two) unless --files has them. Before
anything is timed, our frames are checked to be those of a sequential decode, byte for byte.

    python benchmarks/decode.py [--repeats 7] [--files FOLDER] [--clips h264-240p-10s ...] [--only decoders loader]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from measure import Case, Spent, describe, interleaved, interleaved_spent, ratio_cells, table
from torch import Tensor

from clipvip.data.dataset import Batch, ClipDataset, Collator, ManifestClips, Sources
from clipvip.data.loader import PassSampler, make_loader
from clipvip.records import Clip
from clipvip.video import read_frames, uniform_indices
from clipvip.video.transforms import to_pixel_values

try:
    import decord
except ImportError:
    decord = None

NUM_FRAMES, SIZE = 12, 224
FEWEST_REPEATS = 7
BATCHES_A_PASS = 4
CPU = torch.device("cpu")
Read = Callable[[Path, np.ndarray], np.ndarray | Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a video is encoded. suffix: of the file name; options: the encoder's, beyond its defaults."""

    codec: str
    suffix: str
    width: int
    height: int
    fps: int
    duration_s: int
    options: dict[str, str]


CLIPS = {
    "h264-240p-10s": Recipe("libx264", ".mp4", 320, 240, 25, 10, {"preset": "medium"}),
    "h264-720p-15s": Recipe("libx264", ".mp4", 1280, 720, 30, 15, {"preset": "medium"}),
    "h264-720p-120s": Recipe("libx264", ".mp4", 1280, 720, 30, 120, {"preset": "veryfast"}),
    "hevc-360p-20s": Recipe("libx265", ".mp4", 640, 360, 25, 20, {"x265-params": "log-level=error"}),
    "vp9-360p-20s": Recipe(
        "libvpx-vp9", ".webm", 640, 360, 25, 20, {"deadline": "realtime", "cpu-used": "8", "b": "700k"}
    ),
}

MARGIN = 64  # pixels by which the camera sways to either side
NUM_DISCS = 6


def render(recipe: Recipe) -> Iterator[np.ndarray]:
    """The pictures of a video as yuv420p, uint8 [3 H / 2, W]: one shot without cuts, the same at every call.

    A camera sways over a landscape by half pixels, discs cross it at up to some 20 pixels a frame, a band of light
    wanders and the sensor is a little noisy: work for motion search, residuals and loop filters, as in a recording.
    """
    rng, height, width = np.random.default_rng(0), recipe.height, recipe.width
    ground = (height + 2 * MARGIN, width + 2 * MARGIN)
    luma = _landscape(2 * ground[0], 2 * ground[1], rng, contrast=1.0)  # twice the resolution, for the half pixels
    chroma = [_landscape(*ground, rng, contrast=0.4) for _ in range(2)]
    discs = [_Disc(recipe, rng) for _ in range(NUM_DISCS)]
    noise = rng.normal(0, 2, (height + MARGIN, width + MARGIN)).round().astype(np.int16)
    columns = np.arange(width) / width
    for i in range(recipe.fps * recipe.duration_s):
        t = i / recipe.fps
        top, left = (int(2 * MARGIN * (1 + math.sin(2 * math.pi * t / period_s))) for period_s in (11, 17))
        y = luma[top : top + 2 * height : 2, left : left + 2 * width : 2].astype(np.int16)
        u, v = (plane[top // 2 : top // 2 + height : 2, left // 2 : left // 2 + width : 2].copy() for plane in chroma)
        for disc in discs:
            disc.paint(t, y, u, v)
        y += (12 * np.sin(2 * math.pi * (columns + t / 8))).astype(np.int16)
        down, right = rng.integers(MARGIN, size=2)
        y += noise[down : down + height, right : right + width]
        planes = (y.clip(0, 255).astype(np.uint8), u, v)
        yield np.concatenate([plane.ravel() for plane in planes]).reshape(-1, width)


class _Disc:
    """A textured disc of its own colour that swings through the whole picture, several seconds a swing."""

    def __init__(self, recipe: Recipe, rng: np.random.Generator):
        radius = int(recipe.height * rng.uniform(0.06, 0.18))
        self.room = np.array([recipe.height, recipe.width]) - 2 * radius
        self.period_s, self.phase = rng.uniform(5, 15, 2), rng.uniform(0, 2 * math.pi, 2)
        from_centre = np.arange(2 * radius) - radius + 0.5
        self.mask = np.hypot(from_centre[:, None], from_centre[None]) < radius
        self.texture = _landscape(2 * radius, 2 * radius, rng, contrast=0.5).astype(np.int16) + rng.integers(-60, 60)
        self.colour = rng.integers(60, 200, 2)

    def paint(self, t: float, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        """Paint the disc where it is at `t` seconds into the planes of a picture."""
        swing = 0.5 + 0.5 * np.sin(2 * math.pi * t / self.period_s + self.phase)
        top, left = (int(start) for start in swing * self.room)
        _under(y, top, left, self.mask)[self.mask] = self.texture[self.mask]
        mask = self.mask[::2, ::2]
        for plane, colour in zip((u, v), self.colour, strict=True):
            _under(plane, top // 2, left // 2, mask)[mask] = colour


def _under(plane: np.ndarray, top: int, left: int, mask: np.ndarray) -> np.ndarray:
    return plane[top : top + mask.shape[0], left : left + mask.shape[1]]


def _landscape(height: int, width: int, rng: np.random.Generator, contrast: float) -> np.ndarray:
    """Random hills of four sizes, uint8 [H, W]; as in photographs, most of the contrast is in the large ones."""
    field = torch.zeros(1, 1, height, width)
    for cell, strength in ((512, 40), (128, 20), (32, 10), (8, 5)):
        grid = rng.standard_normal((1, 1, height // cell + 2, width // cell + 2), np.float32)
        field += strength * F.interpolate(torch.from_numpy(grid), (height, width), mode="bicubic")
    return (128 + contrast * field[0, 0]).clamp(16, 235).byte().numpy()


def video_file(folder: Path, name: str) -> Path:
    """The file of a clip; made if the folder does not have it."""
    recipe = CLIPS[name]
    path = folder / f"{name}{recipe.suffix}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{name}.partial{recipe.suffix}"
    with av.open(str(unfinished), "w") as container:
        stream = container.add_stream(recipe.codec, rate=recipe.fps, options=recipe.options)
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
        stream.codec_context.thread_count = 2  # not the machine's number: x264's output depends on it
        for i, picture in enumerate(render(recipe)):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    unfinished.replace(path)
    return path


def sequential(path: Path, wanted: np.ndarray, size: int | None = SIZE) -> np.ndarray:
    """Decode everything, scale what is wanted: uint8 [T, H, W, 3]. It is told what is wanted and need not count."""
    keep = set(wanted.tolist())
    scaling = {"width": size, "height": size, "interpolation": "BICUBIC"} if size else {}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        decoded = enumerate(container.decode(video=0))
        frames = {i: frame.to_ndarray(format="rgb24", threads=1, **scaling) for i, frame in decoded if i in keep}
    return np.stack([frames[i] for i in wanted.tolist()])


def with_decord(path: Path, wanted: np.ndarray) -> np.ndarray:
    """decord2's frames, scaled by it: uint8 [T, H, W, 3]. It counts for itself, as we do."""
    reader = decord.VideoReader(str(path), width=SIZE, height=SIZE, num_threads=1)
    return reader.get_batch(uniform_indices(len(reader), NUM_FRAMES)).asnumpy()


def in_decoder(path: Path, wanted: np.ndarray) -> np.ndarray:
    """Ours as a processor of resize_in="decoder" reads: uint8 [T, S, S, 3]."""
    return read_frames(path, num_frames=NUM_FRAMES, size=(SIZE, SIZE))


def in_decoder_to_pixels(path: Path, wanted: np.ndarray) -> Tensor:
    """The same and the processor's conversion: float32 [T, 3, S, S]."""
    return to_pixel_values(in_decoder(path, wanted), SIZE)


def in_tensor_to_pixels(path: Path, wanted: np.ndarray) -> Tensor:
    """Ours as a processor of resize_in="tensor" reads and converts: float32 [T, 3, S, S]."""
    return to_pixel_values(read_frames(path, num_frames=NUM_FRAMES), SIZE)


def for_the_first_time(read: Read) -> Read:
    """`read` of a file whose packet index is not known: a new modification time makes it another file."""

    def first(path: Path, wanted: np.ndarray) -> np.ndarray | Tensor:
        status = os.stat(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
        return read(path, wanted)

    return first


SEQUENTIAL, DECORD, OURS = "PyAV, sequential", "decord2", 'clipvip, resize_in="decoder"'
PEER = SEQUENTIAL if decord is None else DECORD
WAYS: dict[str, Read] = {
    SEQUENTIAL: sequential,
    **({} if decord is None else {DECORD: with_decord}),
    OURS: for_the_first_time(in_decoder),
    f"{OURS}, index known": in_decoder,
    f"{OURS}, to float pixels": for_the_first_time(in_decoder_to_pixels),
    'clipvip, resize_in="tensor", to float pixels': for_the_first_time(in_tensor_to_pixels),
}
CLOCKS: dict[str, Callable[[Spent], float]] = {"CPU": lambda spent: spent.cpu_ms, "wall": lambda spent: spent.wall_ms}


def decoders_table(options: argparse.Namespace, files: dict[str, Path]) -> None:
    """Print what each way costs for each clip, and how the headline came about."""
    wanted = {name: uniform_indices(_count_frames(path), NUM_FRAMES) for name, path in files.items()}
    differences = {name: _checked(path, wanted[name]) for name, path in files.items()}
    rounds = {}
    for name, path in files.items():
        cases = {way: Case(partial(_discard, read, path, wanted[name])) for way, read in WAYS.items()}
        rounds[name] = interleaved_spent(cases, options.repeats, CPU)
    for clock, time_of in CLOCKS.items():
        spent = {
            name: {way: [time_of(step) for step in steps] for way, steps in of_clip.items()}
            for name, of_clip in rounds.items()
        }
        rows = [_row(way, [of_clip[way] for of_clip in spent.values()], spent.values()) for way in WAYS]
        caption = (
            f"Milliseconds a clip (ratio to {PEER}). clipvip reads a file for the first time unless its row says that "
            "the packet index is known. Rows with float pixels do more than the others: float32, normalised."
        )
        table(f"{NUM_FRAMES} frames at {SIZE} x {SIZE}, {clock} time", ["way", *files, "geometric mean"], rows, caption)
        headline = [
            [name, *ratio_cells(of_clip[OURS], of_clip[PEER]), differences[name]] for name, of_clip in spent.items()
        ]
        caption = "Differences: in grey levels, to the same frames by PyAV. clipvip's frames are PyAV's, byte for byte."
        headings = ["clip", "ratio", "range", f"{PEER}'s frames: mean, largest difference"]
        table(f"{OURS} / {PEER}, {clock} time", headings, headline, caption)


def _row(way: str, times: list[list[float]], of_clips: Sequence[dict[str, list[float]]]) -> list[str]:
    ratios = [
        statistics.median(ours / theirs for ours, theirs in zip(mine, of_clip[PEER], strict=True))
        for mine, of_clip in zip(times, of_clips, strict=True)
    ]
    cells = [f"{statistics.median(mine):.1f} ({ratio:.2f})" for mine, ratio in zip(times, ratios, strict=True)]
    return [way, *cells, f"{statistics.geometric_mean(ratios):.2f}"]


def _discard(read: Read, path: Path, wanted: np.ndarray) -> None:
    read(path, wanted)


def _count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _checked(path: Path, wanted: np.ndarray) -> str:
    """How the peer's frames differ from a sequential decode's. Raises: SystemExit if ours differ at all."""
    expected = sequential(path, wanted)
    for size in (SIZE, None):
        ours = read_frames(path, num_frames=NUM_FRAMES, size=size and (size, size))
        if not np.array_equal(ours, expected if size else sequential(path, wanted, size)):
            raise SystemExit(f"{path.name}: our frames are not those of a sequential decode; nothing was timed")
    difference = np.abs(WAYS[PEER](path, wanted).astype(np.int16) - expected)
    return f"{difference.mean():.2f}, {difference.max()}"


def loader_table(options: argparse.Namespace, files: dict[str, Path]) -> None:
    """Print the training loader's speed with one and with two worker processes."""
    clips = [Clip(name, path, captions=("a disc",)) for name, path in files.items()]
    sources, decoder_size = Sources(), (SIZE, SIZE)
    datasets = [
        ClipDataset(
            ManifestClips(clips),
            num_frames=NUM_FRAMES,
            sources=sources,
            seed=0,
            jitter=False,
            decoder_size=decoder_size,
        )
    ]
    collator = Collator(_no_tokens, partial(to_pixel_values, image_size=SIZE), SIZE, "squash", sources)
    cases = {}
    for workers in (1, 2):
        # Every batch holds every clip, so that all batches cost the same and neither worker waits for the other.
        sampler = PassSampler(datasets, len(clips), BATCHES_A_PASS, seed=0)
        cases[f"{workers}"] = Case(partial(_drain, make_loader(datasets, sampler, collator, num_workers=workers)))
    spent = interleaved(cases, options.repeats, CPU)
    per_pass = BATCHES_A_PASS * len(clips)
    rows = [
        [workers, f"{1000 * per_pass / statistics.median(times):.2f}", *ratio_cells(spent["1"], times)]
        for workers, times in spent.items()
    ]
    caption = (
        f"Over {BATCHES_A_PASS} batches of all clips, from running workers that know the packet indices: decoding to "
        f"uint8 at {SIZE} x {SIZE}, batching and the way to the main process. Ratio: to 1 worker, above 1 is faster."
    )
    table("The training loader", ["worker processes", "clips/s", "ratio", "range"], rows, caption)


def _no_tokens(texts: Sequence[str]) -> dict[str, Tensor]:
    empty = torch.zeros(len(texts), 1, dtype=torch.int64)
    return {"input_ids": empty, "attention_mask": empty}


def _drain(loader: torch.utils.data.DataLoader[Batch]) -> None:
    for _ in loader:
        pass


TABLES = {"decoders": decoders_table, "loader": loader_table}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=FEWEST_REPEATS)
    parser.add_argument("--files", type=Path, help="where the videos are kept (default: a temporary folder)")
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=list(CLIPS), help="these clips")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="these tables")
    options = parser.parse_args()
    if options.repeats < (FEWEST_REPEATS if len(options.clips) > 1 else 1):
        parser.error(f"--repeats {options.repeats}: figures need at least {FEWEST_REPEATS} (a single clip takes fewer)")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(1)
    peers = f"av {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    peers += ", no decord2" if decord is None else f", decord2 {version('decord2')}"
    print(describe(CPU, f"{peers}, medians of {options.repeats}"), flush=True)
    if decord is None:
        print("\ndecord2 is not installed (pip install 'clipvip[bench]'): no row for it, ratios are to", SEQUENTIAL)
    with tempfile.TemporaryDirectory() as temporary:
        files = {name: video_file(options.files or Path(temporary), name) for name in CLIPS if name in options.clips}
        for name, print_table in TABLES.items():
            if name in options.only:
                print_table(options, files)


if __name__ == "__main__":
    main()
