"""Finding moments in long videos: clipvip against frame features averaged, through the index and with oracle windows.

The videos (see `long_videos.py`) hold each test scenario of a finished demo once, for 0.9 to 30 s, among others. Both
models had the same data, recipes and steps: `mean` is post-pre-trained and fine-tuned here, from the demo's own warm
start, with another aggregator. Each indexes the videos in windows of several lengths; every caption is a query to the
library. "Oracle windows" are all events with their true times instead: the rest is the model's doing.

    clipvip demo --out runs/demo
    python -m moments runs/demo --out runs/moments

Everything goes to --out, and what is there already is kept; moments.png, .pdf and .csv are the figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.analysis import FULL_IN, drawing, look
from clipvip.data import read_manifest
from clipvip.encode import Encoder, load
from clipvip.evaluation import Interval, bootstrap_intervals, paired_difference
from clipvip.records import Clip
from clipvip.search import Library
from clipvip.training import load_recipe, train
from clipvip.versions import commit, versions
from moments.long_videos import write_long_videos
from moments.overlap import Moment, best_iou, moment_rank

WINDOWS_S = (1.6, 5.0, 16.0)
"""Steps of about 3, from the lengths alone: each from 0.9 to 30 s can have an IoU of 0.53 or more with one of them."""
IOUS, KS = (0.3, 0.5), (1, 5)
STRICT = IOUS[-1]
MODELS = ("clipvip", "mean")
WAYS = ("index", "oracle windows")


def main() -> None:
    """Make the videos and the other model, index, search, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="A finished demo.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for videos, indexes, the other model, figure.")
    parser.add_argument("--windows", type=float, nargs="+", default=WINDOWS_S, help="Seconds (%(default)s).")
    parser.add_argument("--seed", type=int, default=0, help="Of the videos; that of training is the demo's.")
    given = parser.parse_args()
    out: Path = given.out.absolute()
    if not (out / "events.jsonl").exists():
        write_long_videos(given.demo / "world", out, given.seed)
    events = read_manifest(out / "events.jsonl")
    asked = [event for event in events if event.split == "asked"]
    folders = {"clipvip": (given.demo / "model").absolute(), "mean": train_mean(given.demo, out / "mean")}

    ranks: dict[tuple[str, str, float], np.ndarray] = {}
    for name in MODELS:
        encoder = load(folders[name])
        library = Library(out / f"index-{name}", encoder, windows_s=given.windows)
        summary = library.add(out / "videos")
        assert not summary.skipped, summary.skipped
        hits = {"index": ask(library, asked), "oracle windows": ask_oracle(encoder, events, asked)}
        for way, found in hits.items():
            for iou in IOUS:
                pairs = zip(found, asked, strict=True)
                ranks[name, way, iou] = np.array([moment_rank(hits, moment_of(clip), iou) for hits, clip in pairs])
    report(ranks, asked, library, given.windows)
    draw(ranks, asked, out / "moments")


def train_mean(demo: Path, work: Path) -> Path:
    """Train the demo's last two stages with aggregator=mean, all else the same; kept if done. Returns: its folder."""
    start = (demo / "runs" / "warmstart" / "model").absolute()
    for stage in ("pretrain", "finetune"):
        recipe = demo / "runs" / stage / "recipe.yaml"  # as the demo ran it
        train(load_recipe(str(recipe), ["model.aggregator=mean", f"model.init={start}"]), work / stage)
        start = work / stage / "model"
    return start


def moment_of(clip: Clip) -> Moment:
    """Where an event is."""
    start_s, end_s = clip.time_range or (0.0, float("inf"))
    return Moment(clip.path.name, start_s, end_s)


def ask(library: Library, asked: Sequence[Clip]) -> list[list[Moment]]:
    """The library's first hits for each caption."""
    answers = (library.search(clip.captions[0], k=max(KS)) for clip in asked)
    return [[Moment(hit.video.name, hit.start_s, hit.end_s) for hit in hits] for hits in answers]


def ask_oracle(encoder: Encoder, events: Sequence[Clip], asked: Sequence[Clip]) -> list[list[Moment]]:
    """The best of all events, as if their times were known."""
    gallery = encoder.encode_clips(events).vectors
    best = np.argsort(-encoder.encode_texts([clip.captions[0] for clip in asked]) @ gallery.T, kind="stable")
    return [[moment_of(events[i]) for i in row[: max(KS)]] for row in best]


def fit(library: Library, asked: Sequence[Clip]) -> np.ndarray:
    """The best IoU that some window of the index, as it is, has with each moment."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for video in library.store.videos().values():
        spans[video.absolute.name] = [(part.start_s, part.end_s) for part in library.segments_of(video.video_id)]
    return np.array([best_iou(spans[moment.video], [moment[1:]])[0] for moment in map(moment_of, asked)])


def intervals(ranks: np.ndarray, asked: Sequence[Clip]) -> dict[str, Interval]:
    """R@1 and R@5; twins are drawn together."""
    return bootstrap_intervals(ranks, pairs_of(asked))


def pairs_of(asked: Sequence[Clip]) -> list[str]:
    """A label that twins share."""
    return [min(clip.clip_id, clip.extra.get("twin", clip.clip_id)) for clip in asked]


def groups_of(asked: Sequence[Clip]) -> dict[str, np.ndarray]:
    """Which queries are of each length, and which have the reversal of their moment in the same video: masks."""
    lengths = np.array([round(moment.end_s - moment.start_s, 1) for moment in map(moment_of, asked)])
    twins = np.array(["twin" in clip.extra for clip in asked])
    by_length = {f"{length:g} s": lengths == length for length in np.unique(lengths)}
    return by_length | {"with their reversal": twins, "without": ~twins}


Ranks = Mapping[tuple[str, str, float], np.ndarray]


def report(ranks: Ranks, asked: Sequence[Clip], library: Library, windows_s: Sequence[float]) -> None:
    """Print all of it."""
    videos = library.store.videos().values()
    made_with = ", ".join(f"{name} {version}" for name, version in versions("torch", "transformers").items())
    hours = sum(video.duration_s for video in videos) / 3600
    code = commit()
    print(f"{made_with}; {len(asked)} queries, {hours:.1f} hours; commit {code['hash'][:7] if code else 'unknown'}")
    measured = [(k, iou) for k in KS for iou in IOUS]
    rows = []
    for way in WAYS:
        recalls = {(name, iou): intervals(ranks[name, way, iou], asked) for name in MODELS for iou in IOUS}
        rows += [[name, way, *(cell(recalls[name, iou][f"R@{k}"]) for k, iou in measured)] for name in MODELS]
        pair = [
            paired_difference(ranks["clipvip", way, iou], ranks["mean", way, iou], f"R@{k}", pairs_of(asked))
            for k, iou in measured
        ]
        rows.append(["difference", way, *(cell(found, "+") for found in pair)])
    fits = fit(library, asked)
    lengths = ", ".join(f"{window:g}" for window in windows_s)
    reach = " and ".join(f"{100 * np.mean(fits >= iou):.1f} % of the moments with an IoU of {iou}" for iou in IOUS)
    table(
        "Moments in ten-minute videos",
        ["model", "windows", *(f"R@{k}, IoU {iou}" for k, iou in measured)],
        rows,
        f"Percent, 95 % intervals (bootstrap; twins together). {len(videos)} videos; windows of {lengths} s, one of "
        f"which fits {reach}.",
    )
    columns = [(way, k, name) for way in WAYS for k in KS for name in MODELS]
    table(
        f"The same by length of the event, IoU {STRICT}",
        ["events", "queries", "some window fits", *(f"{name}, {way}, R@{k}" for way, k, name in columns)],
        [
            [group, str(mask.sum()), f"{100 * np.mean(fits[mask] >= STRICT):.0f}"]
            + [f"{100 * np.mean(ranks[name, way, STRICT][mask] <= k):.1f}" for way, k, name in columns]
            for group, mask in groups_of(asked).items()
        ],
        '"With their reversal": the same frames backwards are in the same video. IoU 0.3: in the figure\'s table.',
    )


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """Print a Markdown section."""
    lines = [headings, ["---"] * len(headings), *rows]
    print(f"\n### {title}\n", *("| " + " | ".join(line) + " |" for line in lines), f"\n{caption}", sep="\n", flush=True)


def cell(found: Interval, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{found.value:{sign}.1f} ({found.low:{sign}.1f} to {found.high:{sign}.1f})"


def draw(ranks: Ranks, asked: Sequence[Clip], stem: Path) -> None:
    """Recall against length: a panel for each of R@1 and R@5 at each IoU."""
    groups = {name: mask for name, mask in groups_of(asked).items() if name.endswith(" s")}
    rows: list[dict[str, Any]] = []
    for (name, way, iou), of_queries in ranks.items():
        for group, mask in groups.items():
            found = intervals(of_queries[mask], [clip for clip, wanted in zip(asked, mask, strict=True) if wanted])
            for k in KS:
                recall = found[f"R@{k}"]
                limits = {"percent": recall.value, "low": recall.low, "high": recall.high}
                labels = {
                    "model": name,
                    "windows": way,
                    "iou": iou,
                    "k": k,
                    "length_s": float(group.removesuffix(" s")),
                }
                rows.append(labels | limits | {"queries": int(mask.sum())})
    with drawing(stem, rows, width=FULL_IN, height=4.2) as figure:
        panels = figure.subplots(len(KS), len(IOUS), sharex=True, sharey=True)
        for (i, k), (j, iou) in ((a, b) for a in enumerate(KS) for b in enumerate(IOUS)):
            axes = panels[i][j]
            for number, (name, way) in enumerate((name, way) for way in WAYS for name in MODELS):
                wanted = {"model": name, "windows": way, "iou": iou, "k": k}
                mine = [row for row in rows if wanted.items() <= row.items()]
                y = [row["percent"] for row in mine]
                reach = [[row["percent"] - row["low"] for row in mine], [row["high"] - row["percent"] for row in mine]]
                x = [row["length_s"] * 1.05 ** (number - 1.5) for row in mine]
                axes.errorbar(x, y, yerr=reach, elinewidth=0.6, label=f"{name}, {way}", **look(number))
            axes.set_title(f"R@{k} at IoU {iou}")
            axes.set_xscale("log")
            axes.set_ylim(0, 100)
            axes.grid(axis="y")
            lengths = sorted({row["length_s"] for row in rows})
            axes.set_xticks(lengths, [f"{length:.0f}" for length in lengths])
            axes.minorticks_off()
        figure.supxlabel("length of the event, seconds", size="medium")
        figure.supylabel("percent of queries", size="medium")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)


if __name__ == "__main__":
    main()
