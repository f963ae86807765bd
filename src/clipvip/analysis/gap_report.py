"""What `clipvip analyse gap --out DIR` leaves: gap.json, a heat map, and the texts in the plane, with tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.analysis.gap import NUM_STARTS, Gap, project
from clipvip.analysis.plots import FULL_IN, HEAT, drawing, look, note
from clipvip.files import replace_text

PROJECTIONS = {"pca": "PCA", "tsne": "t-SNE"}


def write_gap(out: Path, gap: Gap, report: dict[str, Any], projection: str) -> None:
    """Write the files into the folder `out`. report: what gap.json holds; projection: "pca" or "tsne"."""
    replace_text(out / "gap.json", json.dumps(report | {"projection": projection}, indent=2) + "\n")
    draw_matrix(out / "gap", gap, report["model"])
    draw_plane(out / "projection", gap, report["model"], projection)


def draw_matrix(stem: Path, gap: Gap, model: str) -> None:
    """The NMI of every row with every column as a heat map."""
    rows = []
    for pair in gap.pairs:
        low, high = pair.interval or (None, None)
        rows.append(
            {
                "source_a": pair.a,
                "source_b": pair.b,
                "nmi": pair.nmi,
                "low_95": low,
                "high_95": high,
                "num_draws": len(pair.draws),
                "texts_of_a": gap.num_texts // 2 if pair.a == pair.b else gap.num_texts,
            }
        )
    cell = 0.75
    height = min(max(2.6, cell * len(gap.rows) + 1.6), 8.5)
    with drawing(stem, rows, width=FULL_IN, height=height) as figure:
        axes = figure.subplots()
        matrix = gap.matrix()
        image = axes.imshow(matrix, cmap=HEAT, vmin=0.0, vmax=1.0)
        for (i, j), value in np.ndenumerate(matrix):
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value > 0.6 else "black")
        axes.set_xticks(range(len(gap.columns)), gap.columns, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(gap.rows)), gap.rows)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="NMI (0 to 1; larger = wider gap)", shrink=0.9)
        note(
            figure,
            f"Normalised mutual information between source and k-means cluster (k = 2, best of {NUM_STARTS} starts) of "
            f"{gap.num_texts:,} texts of each of two sources; mean of {len(gap.pairs[0].draws)} draws. "
            f"{'' if gap.num_rows else 'Diagonal: two halves of one source. '}Text features: {model}.",
        )


def draw_plane(stem: Path, gap: Gap, model: str, method: str) -> None:
    """The texts of the first draw as points in the plane."""
    plane, shares = project(gap.features, method, gap.seed)
    names = [source.name for source in gap.sources for _ in range(gap.num_texts)]
    rows = [
        {"source": name, "x": float(x), "y": float(y), "text": text}
        for name, (x, y), text in zip(names, plane, gap.texts, strict=True)
    ]
    with drawing(stem, rows, height=4.4) as figure:
        axes = figure.subplots()
        for number, source in enumerate(gap.sources):
            points = plane[number * gap.num_texts : (number + 1) * gap.num_texts]
            style = look(number) | {"linestyle": "none"}
            axes.plot(*points.T, **style, markersize=3, alpha=0.6, markeredgewidth=0, label=source.name)
        if shares is None:
            axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
            meaning = "near points are alike; distances between groups, and their sizes, mean nothing."
        else:
            first, second = (f"({share:.1%} of the variance)" for share in shares)
            axes.set(xlabel=f"principal component 1 {first}", ylabel=f"principal component 2 {second}")
            meaning = "the plane in which the features vary most; sources that overlap here may differ elsewhere."
        figure.legend(loc="outside upper left", ncols=min(4, len(gap.sources)), markerscale=2)
        note(
            figure,
            f"{PROJECTIONS[method]} of the text features of {model}, {gap.num_texts:,} texts of each source (the first "
            f"draw): {meaning}",
        )
