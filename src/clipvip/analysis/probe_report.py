"""What `clipvip analyse probe --out DIR` leaves: probe.json, a figure with its table, and every caption's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipvip.analysis.frame_orders import PLAIN
from clipvip.analysis.plots import FULL_IN, drawing, look, note, write_table
from clipvip.analysis.probe import RESOLUTION, Probe
from clipvip.files import replace_text


def write_probe(out: Path, probe: Probe, report: dict[str, Any]) -> None:
    """Write the files into the folder `out`. report: what probe.json holds."""
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
    with drawing(stem, table_rows(probe), width=FULL_IN, height=3.0) as figure:
        left, right = figure.subplots(1, 2)
        names = [change.name for change in probe.changes]
        style = look(0) | {"linestyle": "none", "capsize": 3}
        for axes, values, intervals in (
            (left, [c.mean_abs for c in probe.changes], [c.mean_abs_interval for c in probe.changes]),
            (right, [c.recall_change for c in probe.changes], [c.recall_change_interval for c in probe.changes]),
        ):
            reach = [
                [value - low for value, (low, _) in zip(values, intervals, strict=True)],
                [high - value for value, (_, high) in zip(values, intervals, strict=True)],
            ]
            axes.errorbar(range(len(names)), values, yerr=reach, **style)
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
            f"{model}: {len(probe.plain.texts):,} captions, {len(probe.plain.clips):,} videos, R@1 {probe.recall:.1f} "
            "% with frames in order. Left: how far a caption's score with its own video moves; dashed: standard "
            "deviation of its scores over the gallery. Right: all videos changed. Bars: 95 % (bootstrap over videos).",
        )


def table_rows(probe: Probe) -> list[dict[str, Any]]:
    """One row an order of the frames, the plain one first."""
    rows: list[dict[str, Any]] = [
        {"order": PLAIN, "mean_abs_change": 0.0, "mean_change": 0.0, "relative_change": 0.0}
        | {"R@1": probe.recall, "R@1_change": 0.0, "twin_accuracy": probe.twins}
    ]
    for change in probe.changes:
        rows.append(
            {
                "order": change.name,
                "mean_abs_change": change.mean_abs,
                "mean_abs_low_95": change.mean_abs_interval[0],
                "mean_abs_high_95": change.mean_abs_interval[1],
                "mean_change": change.mean,
                "mean_low_95": change.mean_interval[0],
                "mean_high_95": change.mean_interval[1],
                "relative_change": change.relative,
                "unmoved": change.unmoved,
                "largest_change": change.largest,
                "R@1": change.recall,
                "R@1_change": change.recall_change,
                "R@1_change_low_95": change.recall_change_interval[0],
                "R@1_change_high_95": change.recall_change_interval[1],
                "twin_accuracy": change.twins,
            }
        )
    return rows


def remarks(probe: Probe) -> list[str]:
    """What a reader of the table should know."""
    lines = [
        f"R@1 (t2v) {probe.recall:.1f} % in order ({probe.recall_interval[0]:.1f} to {probe.recall_interval[1]:.1f})"
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
