"""What machine captions cost: the demo's post-pre-training on its captioner's words against the world's own.

For each finished demo (`clipvip demo --out DEMO --seed N`) the two last stages are trained again on the world's own
auxiliary captions, in DEMO/true, with the same recipes and seed; then both models are asked for the test videos. The
difference's interval is a bootstrap's over seeds and queries.

    for n in 0 1 2; do clipvip demo --out runs/demo$n --seed $n; done
    python benchmarks/captions.py runs/demo0 runs/demo1 runs/demo2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from measure import describe, table

from clipvip.cli.demo import retrieve_test
from clipvip.encode import load
from clipvip.evaluation import retrieval_ranks
from clipvip.training import load_recipe, train

DRAWS = 10_000


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", nargs="+", type=Path)
    demos: list[Path] = parser.parse_args().demos
    ranks = {kind: [] for kind in ("machine", "true")}
    rows = []
    for demo in demos:
        metrics = json.loads((demo / "metrics.json").read_text())
        for kind, model in (("machine", demo / "model"), ("true", train_on_true_captions(demo, metrics["seed"]))):
            found = retrieve_test(load(model), demo / "world")
            ranks[kind].append(retrieval_ranks(found.similarity, found.text_to_video)["t2v"])
        hits = {kind: 100 * np.mean(of[-1] <= 1) for kind, of in ranks.items()}
        errors = " / ".join(f"{metrics['caption_errors'][name]:.1%}" for name in ("shape", "color", "scene"))
        rows.append([str(metrics["seed"]), errors, *(f"{hits[kind]:.1f}" for kind in ("machine", "true"))])
    hits = [np.stack(ranks[kind]) <= 1 for kind in ("machine", "true")]  # [seeds, queries]
    low, high = interval(hits[0].astype(float) - hits[1])
    rows.append(["mean", "", *(f"{100 * kind.mean():.1f}" for kind in hits)])
    print(describe(torch.device("cpu"), f"{hits[0].shape[1]} test videos a seed"))
    table(
        "Captions of a machine, and true ones",
        ["seed", "wrong shape / colour / scene", "R@1, machine captions", "R@1, true captions"],
        rows,
        f"Machine - true: {100 * (hits[0].mean() - hits[1].mean()):+.1f} R@1, 95 % interval {low:+.1f} to {high:+.1f}.",
    )


def train_on_true_captions(demo: Path, seed: int) -> Path:
    """The demo's last two stages with the world's own captions; finished ones are kept. Returns: the model folder."""
    world, runs = (demo / "world").absolute(), demo.absolute()
    start = runs / "runs" / "warmstart" / "model"
    for name, data in (("pretrain", "pretrain.jsonl"), ("finetune", "retrieval.jsonl")):
        work = runs / "true" / name
        if not (work / "model").exists():
            paths = {"model.init": start, "data.train": world / data, "data.val": world / "retrieval.jsonl"}
            train(load_recipe(f"demo/{name}", [f"train.seed={seed}", *(f"{k}={v}" for k, v in paths.items())]), work)
        start = work / "model"
    return start


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % of the mean of [seeds, queries], in percent: both drawn with replacement, queries within a seed."""
    rng = np.random.default_rng(0)
    num_seeds, num_queries = differences.shape
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        seeds = rng.integers(num_seeds, size=num_seeds)
        queries = rng.integers(num_queries, size=(num_seeds, num_queries))
        means[draw] = differences[seeds[:, None], queries].mean()
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
