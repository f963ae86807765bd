"""How fast an index is made, beside the decoder alone: both on the same 720p files, each with all cores.

python benchmarks/indexing.py --model runs/demo/model

The decoder alone: a process a core, each with one thread, decodes every frame of a file with PyAV and does nothing with
it. Indexing: `Library.add` into a new index, from the walk through the folder to the last commit; the model is loaded.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import torch
from decode import video_file
from measure import describe, ratio_cells, table

import clipvip
from clipvip.encode import Encoder
from clipvip.jobs import DecodePool
from clipvip.search import Library
from clipvip.video import Scales

CLIP = "h264-720p-15s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--clip", default=CLIP, help="a clip of benchmarks/decode.py")
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--loops", type=int, default=4, help="the clip, so often, makes the shortest file")
    parser.add_argument("--windows", type=float, nargs="+", default=[12.0], metavar="SECONDS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "clipvip-bench")
    options = parser.parse_args()

    clip = video_file(options.folder, options.clip)
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder, "videos")
        videos.mkdir()
        loops = [options.loops + number for number in range(options.files)]  # no two have the same content
        files = [looped(clip, videos / f"{number}.mp4", number) for number in loops]
        encoder = clipvip.load(options.model)
        decoding, indexing, hours, segments = [], [], 0.0, 0
        for number in range(options.repeats):
            steps = [lambda: decoding.append(seconds_to_decode(files))]
            index = Path(folder, f"index{number}")
            steps.append(lambda index=index: indexing.append(seconds_to_index(videos, index, encoder, options.windows)))
            for step in steps[:: 1 if number % 2 == 0 else -1]:
                step()
            status = Library(index).status()
            hours, segments = status.hours, status.segments

    rows = [
        ["decoder alone", *speed_cells(hours, decoding), "1"],
        ["indexing", *speed_cells(hours, indexing), " (".join(ratio_cells(decoding, indexing)) + ")"],
    ]
    windows = Scales.of(options.windows)
    table(
        "Indexing against the decoder",
        ["", "seconds", "hours of video an hour", "share of the decoder's speed"],
        rows,
        f"{options.files} files of {options.clip} repeated ({hours * 60:.1f} minutes), {windows}: {segments} segments; "
        f"{encoder.processor.num_frames} frames of {encoder.processor.image_size} pixels each. Medians and ranges of "
        f"{options.repeats} rounds. {describe(torch.device('cpu'), f'{torch.get_num_threads()} threads')}",
    )


def looped(clip: Path, path: Path, times: int) -> Path:
    """The packets of a clip, so often: a long file that costs no encoding."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        length = max(packet.pts + packet.duration for packet in packets) - min(packet.pts for packet in packets)
        for turn in range(times):
            source.seek(0, stream=stream)
            for packet in source.demux(stream):
                if packet.size:
                    packet.pts += turn * length
                    packet.dts += turn * length
                    packet.stream = copy
                    target.mux(packet)
    return path


def decode_all(path: Path) -> int:
    """Every frame, and nothing done with it."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def seconds_to_decode(files: list[Path]) -> float:
    """By processes as they index, longest file first."""
    started = time.perf_counter()
    with DecodePool() as pool, ThreadPoolExecutor(len(pool)) as threads:
        list(threads.map(lambda path: pool.call(decode_all, path), reversed(files)))
    return time.perf_counter() - started


def seconds_to_index(videos: Path, index: Path, encoder: Encoder, windows: list[float]) -> float:
    """Into a new index."""
    library = Library(index, encoder, windows_s=windows)
    started = time.perf_counter()
    library.add(videos)
    return time.perf_counter() - started


def speed_cells(hours: float, seconds: list[float]) -> list[str]:
    """Median and range of the seconds, and the speed at the median."""
    middle = statistics.median(seconds)
    return [f"{middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f})", f"{3600 * hours / middle:.1f}"]


if __name__ == "__main__":
    main()
