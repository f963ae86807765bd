"""Does a model see time? What its scores do when its frames come in another order, or one frame is all it gets.

The frames are those the processor samples; only their order changes, so whatever a model sees in single frames stays.
A model that pools frames without regard to order moves under "frozen" alone.

Shapes: V videos, Q queries (captions).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipvip.analysis.frame_orders import ORDERS, PLAIN, encode_orders
from clipvip.analysis.plots import FULL_IN, drawing, look, note, write_table
from clipvip.encode import Encoder
from clipvip.errors import ManifestError
from clipvip.evaluation import (
    Interval,
    Retrieval,
    bootstrap_intervals,
    paired_difference,
    retrieval_ranks,
    score_gallery,
    twin_accuracy,
)
from clipvip.files import replace_text
from clipvip.records import Clip

RESOLUTION = 1e-5
"""A score that moved by no more counts as unmoved: embeddings of one clip agree so closely in float32, whatever the
order of the additions and the machine. `Change.largest` is the largest movement, as it was computed."""
_MEAN = "MnR"  # as a metric of paired_difference: the mean, of any number a query has


@dataclass(frozen=True, slots=True)
class Change:
    """What one order of the frames does; intervals are 95 %, over videos.

    mean_abs, mean: of the change of the true caption's score (cosine), over captions. relative: mean_abs / spread.
    unmoved: share of captions whose score counts as unmoved (see RESOLUTION). largest: the largest change of a score,
    as computed. recall: R@1 (t2v, percent) with all videos of the gallery changed, and recall_change what that is more.
    twins: twin accuracy. scores: of each caption with its own video, [Q].
    """

    name: str
    mean_abs: Interval
    mean: Interval
    relative: float | None
    unmoved: float
    largest: float
    recall: float
    recall_change: Interval
    twins: float | None
    scores: np.ndarray

    def figures(self) -> dict[str, float | Interval | None]:
        """By the names of JSON and tables."""
        return {
            "mean_abs_change": self.mean_abs,
            "mean_change": self.mean,
            "relative_change": self.relative,
            "unmoved": self.unmoved,
            "largest_change": self.largest,
            "R@1": self.recall,
            "R@1_change": self.recall_change,
            "twin_accuracy": self.twins,
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields: dict[str, Any] = {}
        for name, figure in self.figures().items():
            if isinstance(figure, Interval):
                fields |= {name: figure.value, f"{name}_interval": (figure.low, figure.high)}
            else:
                fields[name] = figure
        return fields

    def to_row(self) -> dict[str, Any]:
        """For a table."""
        row: dict[str, Any] = {"order": self.name}
        for name, figure in self.figures().items():
            if isinstance(figure, Interval):
                limits = name.removesuffix("_change") if name.startswith("mean") else name
                row |= {name: figure.value, f"{limits}_low_95": figure.low, f"{limits}_high_95": figure.high}
            else:
                row[name] = figure
        return row


@dataclass(frozen=True, slots=True)
class Probe:
    """The findings. plain: with the frames in order. recall (with its interval), twins: its figures.

    spread: standard deviation of a caption's scores over the gallery, mean over captions: what a change is large or
    small against. num_still: videos of a single frame, which no order changes.
    """

    plain: Retrieval
    seed: int
    recall: Interval
    twins: float | None
    spread: float
    num_still: int
    scores: np.ndarray
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        interval = (self.recall.low, self.recall.high)
        return {
            "fingerprint": self.plain.fingerprint,
            "num_texts": len(self.plain.texts),
            "num_videos": len(self.plain.clips),
            "num_still": self.num_still,
            "skipped": dict(self.plain.skipped),
            "seed": self.seed,
            "spread": self.spread,
            "resolution": RESOLUTION,
            "plain": {"R@1": self.recall.value, "R@1_interval": interval, "twin_accuracy": self.twins},
            "orders": {change.name: change.to_dict() for change in self.changes},
        }


def probe_time(
    encoder: Encoder,
    clips: Sequence[Clip],
    *,
    join_captions: bool = False,
    seed: int = 0,
    batch_size: int = 4,
    on_decode_error: Literal["raise", "skip"] = "raise",
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> Probe:
    """Score captions against videos whose frames come in order, and in every one of `ORDERS`.

    join_captions: one query per clip, its captions joined. seed: of the intervals, and of the shuffled order, which
    depends on it and the clip_id alone. batch_size: clips in one pass through the model, in all orders. progress:
    called with how many more clips are encoded, and of how many.
    Raises: ManifestError if a clip has no captions or the gallery is a single video; VideoDecodeError.
    """
    if len(clips) < 2:
        raise ManifestError(f"{len(clips)} clip: a probe compares a caption's scores over several videos")
    for clip in clips:
        if not clip.captions:  # not after all the work
            raise ManifestError(f"{clip.clip_id}: no 'captions' to score it with; remove the clip or add one")
    ordered = encode_orders(encoder, clips, seed, batch_size, on_decode_error, lambda: progress(1, len(clips)))
    encode_texts = cache(encoder.encode_texts)  # the texts of all orders are the same

    def retrieve(order: str) -> Retrieval:
        return score_gallery(ordered.of(order), clips, encode_texts, join_captions=join_captions)

    plain = retrieve(PLAIN)
    ranks = _ranks(plain)
    recall = bootstrap_intervals(ranks, plain.text_to_video, seed=seed)["R@1"]
    return Probe(
        plain=plain,
        seed=seed,
        recall=replace(recall, value=_recall(ranks)),  # to the last digit what `evaluate` prints
        twins=twin_accuracy(plain),
        spread=_spread(plain),
        num_still=ordered.num_still,
        scores=_own_scores(plain),
        changes=tuple(compare_orders(name, plain, retrieve(name), seed) for name in ORDERS),
    )


def compare_orders(name: str, plain: Retrieval, other: Retrieval, seed: int = 0) -> Change:
    """Compare the scores of the same queries and gallery, with the frames in order and in another one."""
    owners, spread = plain.text_to_video, _spread(plain)
    before = _own_scores(plain)
    largest = float(np.abs(_own_scores(other) - before).max())
    # One rule for all figures: what counts as unmoved must not swap two videos that score alike either.
    unmoved = np.abs(other.similarity - plain.similarity) <= RESOLUTION
    found = replace(other, similarity=np.where(unmoved, plain.similarity, other.similarity))
    now, ranks = _own_scores(found), _ranks(found)
    size = np.abs(now - before)
    mean_abs = paired_difference(size, np.zeros_like(size), _MEAN, owners, seed=seed)
    return Change(
        name=name,
        mean_abs=mean_abs,
        mean=paired_difference(now, before, _MEAN, owners, seed=seed),
        relative=mean_abs.value / spread if spread > 0 else None,
        unmoved=float(np.mean(size == 0)),
        largest=largest,
        recall=_recall(ranks),
        recall_change=paired_difference(ranks, _ranks(plain), "R@1", owners, seed=seed),
        twins=twin_accuracy(found),
        scores=now,
    )


def _own_scores(retrieval: Retrieval) -> np.ndarray:
    owners = retrieval.text_to_video
    return retrieval.similarity[np.arange(len(owners)), owners].astype(np.float64)


def _ranks(retrieval: Retrieval) -> np.ndarray:
    return retrieval_ranks(retrieval.similarity, retrieval.text_to_video)["t2v"]


def _recall(ranks: np.ndarray) -> float:
    return float(100.0 * np.mean(ranks <= 1))


def _spread(retrieval: Retrieval) -> float:
    return float(retrieval.similarity.std(axis=1, dtype=np.float64).mean())


def write_probe(out: Path, probe: Probe, report: dict[str, Any]) -> None:
    """Write probe.json, a figure with its table, and every caption's scores into `out`. report: for probe.json."""
    replace_text(out / "probe.json", json.dumps(report, indent=2) + "\n")
    draw_probe(out / "probe", probe, report["model"])
    retrieval = probe.plain
    by_order = {PLAIN: probe.scores, **{change.name: change.scores for change in probe.changes}}
    rows = [
        {"clip_id": retrieval.clips[owner].clip_id, "caption": text}
        | {name: float(scores[query]) for name, scores in by_order.items()}
        for query, (text, owner) in enumerate(zip(retrieval.texts, retrieval.text_to_video, strict=True))
    ]
    write_table(out / "scores.csv", rows)


def draw_probe(stem: Path, probe: Probe, model: str) -> None:
    """How far scores move (left), and what retrieval loses (right)."""
    plain = {"order": PLAIN, "mean_abs_change": 0.0, "mean_change": 0.0, "relative_change": 0.0}
    plain |= {"R@1": probe.recall.value, "R@1_change": 0.0, "twin_accuracy": probe.twins}
    rows = [plain, *(change.to_row() for change in probe.changes)]
    with drawing(stem, rows, width=FULL_IN, height=3.0) as figure:
        left, right = figure.subplots(1, 2)
        names = [change.name for change in probe.changes]
        style = look(0) | {"linestyle": "none", "capsize": 3}
        for axes, means in (
            (left, [change.mean_abs for change in probe.changes]),
            (right, [change.recall_change for change in probe.changes]),
        ):
            reach = [[mean.value - mean.low for mean in means], [mean.high - mean.value for mean in means]]
            axes.errorbar(range(len(names)), [mean.value for mean in means], yerr=reach, **style)
            axes.set_xticks(range(len(names)), names, rotation=20, ha="right", rotation_mode="anchor")
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.axhline(0, color="black", linewidth=0.8)
            axes.grid(axis="y")
        left.set_ylabel("mean |change of score| (cosine)")
        left.axhline(probe.spread, color="black", linestyle="--", linewidth=0.8)
        left.annotate(
            "spread over the gallery", (0.0, probe.spread), (2, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points",
        )  # fmt: skip
        left.set_ylim(bottom=min(0.0, -0.02 * probe.spread), top=1.25 * max(probe.spread, *left.get_ylim()))
        right.set_ylabel("change of R@1 (points, t2v)")
        note(
            figure,
            f"{model}: {len(probe.plain.texts):,} captions, {len(probe.plain.clips):,} videos, "
            f"R@1 {probe.recall.value:.1f} % with frames in order. Left: how far a caption's score with its own video "
            "moves; dashed: standard deviation of its scores over the gallery. Right: all videos changed. Bars: 95 % "
            "(bootstrap over videos).",
        )


def remarks(probe: Probe) -> list[str]:
    """What a reader of the table should know."""
    lines = [
        f"R@1 (t2v) {probe.recall.value:.1f} % in order ({probe.recall.low:.1f} to {probe.recall.high:.1f})"
        + ("" if probe.twins is None else f", twin accuracy {probe.twins:.1f} %")
        + f"; spread of a caption's scores over the gallery {probe.spread:.4f}",
        f"a score that moved by {RESOLUTION:g} or less counts as unmoved: rounding moves it as far",
    ]
    unmoved = [f"{change.name} (at most {change.largest:.1e})" for change in probe.changes if change.unmoved == 1.0]
    if unmoved:
        lines.append(f"no score moved: {', '.join(unmoved)}")
    if probe.num_still:
        lines.append(
            f"{probe.num_still:,} of {len(probe.plain.clips):,} videos have a single frame: no order changes it"
        )
    return lines
