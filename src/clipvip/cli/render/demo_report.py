"""`report.html` of the demo: one self-contained file with curves, tables and film strips."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.cli.render.film_strips import data_uri, film_strip
from clipvip.evaluation import Retrieval, retrieval_ranks
from clipvip.training.state import WorkDir

STAGES = {"warmstart": "image-text warm start", "pretrain": "post-pre-training", "finetune": "fine-tuning"}
SHOWN_QUERIES = 5


def write_report(out: Path, metrics: dict[str, Any], found: Retrieval, searches: Sequence[dict[str, Any]]) -> None:
    """Render `out/report.html` from the runs' logs, the test scores and the retrieval itself."""
    from jinja2 import Environment, StrictUndefined

    template = (resources.files("clipvip") / "cli" / "render" / "demo_report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    right, wrong = _examples(found)
    html = environment.from_string(template).render(
        metrics=metrics,
        world=json.loads((out / "world" / "world.json").read_text(encoding="utf-8")),
        num_videos=len(found.clips),
        curves=_curves(out / "runs"),
        right=right,
        wrong=wrong,
        searches=[{"query": s["query"], "hits": [_shown(hit) for hit in s["results"]]} for s in searches],
        directions=("t2v", "v2t"),
        keys=("R@1", "R@5", "R@10", "MdR", "MnR"),
    )
    (out / "report.html").write_text(html, encoding="utf-8")


def _examples(found: Retrieval) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first queries answered rightly, and the first answered wrongly (the raw score decides)."""
    ranks = retrieval_ranks(found.similarity, found.text_to_video)["t2v"]
    order = np.argsort(-found.similarity, axis=1)[:, :3]
    groups = []
    for rows in (np.flatnonzero(ranks <= 1), np.flatnonzero(ranks > 1)):
        examples = []
        for query in rows[:SHOWN_QUERIES]:
            owner = int(found.text_to_video[query])
            hits = [
                {
                    "strip": film_strip(found.clips[video].path),
                    "score": float(found.similarity[query, video]),
                    "right": video == owner,
                    "name": found.clips[video].clip_id,
                }
                for video in order[query]
            ]
            meant = {"strip": film_strip(found.clips[owner].path), "name": found.clips[owner].clip_id}
            examples.append({"text": found.texts[query], "rank": int(ranks[query]), "hits": hits, "meant": meant})
        groups.append(examples)
    return groups[0], groups[1]


def _shown(hit: dict[str, Any]) -> dict[str, Any]:
    path = Path(hit["video"])
    return {**hit, "name": path.name, "strip": film_strip(path)}


def _curves(runs: Path) -> list[dict[str, str]]:
    """Loss and validation R@1 of every stage, as PNG data URIs."""
    from matplotlib.figure import Figure  # the Figure API needs no display and no global state

    curves = []
    for name, title in STAGES.items():
        rows = WorkDir(runs / name).read_log()
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.subplots()
        losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        axes.plot(*zip(*losses, strict=True), color="#1f6fb2", linewidth=1)
        axes.set(title=title, xlabel="step", ylabel="training loss")
        scores = [(row["step"], row["val_R@1"]) for row in rows if "val_R@1" in row]
        if scores:
            right = axes.twinx()
            right.plot(*zip(*scores, strict=True), "o-", color="#c2410c", markersize=3, linewidth=1)
            right.set_ylabel("validation R@1 (%)", color="#c2410c")
            right.set_ylim(0, 100)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        curves.append({"title": title, "image": data_uri(buffer.getvalue(), "png")})
    return curves
