"""One cell: a trained model and everything that is measured of it, as one record.

Shapes: G galleries, Q their queries, E embedding size.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip.versions import commit, versions
from study.families import FAMILIES
from study.records import Record
from study.stages import Stage, Workplace, digest
from study.views import View, World, world_files
from study.world import all_scenarios, galleries

if TYPE_CHECKING:
    from clipvip.encode import Encoder

TIE = 1e-5
"""Scores nearer than this are ties: the rounding of float32 cosines must not order what a model cannot distinguish."""
FIGURES = ("R@1", "R@5", "R@10")
RECORD_VERSION = 1
"""Raised whenever the same model would be measured otherwise."""


@dataclass(frozen=True)
class Cell:
    """One entry of a table: which row, at which level of which factor, from which seeds, measured on which split.

    kind: "search" and "spread" (validation split of the tuning world) or "test". stage: what is trained for it.
    downstream: the view whose clips are the galleries.
    """

    table: str
    kind: str
    row: str
    level: str
    world: World
    model_seed: int
    stage: Stage
    downstream: View

    @property
    def split(self) -> str:
        """Which clips are read."""
        return "test" if self.kind == "test" else "val"

    @property
    def key(self) -> str:
        """Digest of everything its figures depend on; the names of table, row and level are no part of it."""
        return digest([RECORD_VERSION, self.stage.key, asdict(self.world), asdict(self.downstream), self.split])

    @property
    def labels(self) -> dict[str, Any]:
        """Which entry of which table it is."""
        return {
            "table": self.table, "kind": self.kind, "row": self.row, "level": self.level,
            "family": self.world.family, "data_seed": self.world.seed, "model_seed": self.model_seed,
        }  # fmt: skip

    def shared(self) -> Iterator[Stage]:
        """What is trained before it, for it and maybe for others."""
        if self.stage.parent is not None:
            yield from self.stage.parent.chain()

    def views(self) -> Iterator[tuple[World, View]]:
        """The manifests it reads."""
        yield self.world, self.downstream
        for stage in self.stage.chain():
            yield stage.world, stage.view
            if stage.mixed is not None:
                yield stage.world, stage.mixed

    def run(self, workplace: Workplace) -> Record:
        """Train and measure. The run's own folder is deleted: only shared stages are kept."""
        from clipvip.encode import load

        start = time.perf_counter()
        summary = workplace.run(self.stage)
        # not optimised: that picks kernels by timing, which round differently from one process to another
        encoder = load(workplace.model(self.stage), optimize=False)
        scale = float(np.exp(logit_scale(workplace.model(self.stage))))
        measured = measure(encoder, scale, self, workplace)
        record = {
            **self.labels, "key": self.key, "split": self.split,
            "stages": [
                {"recipe": stage.recipe, "settings": dict(stage.settings), "key": stage.key}
                for stage in self.stage.chain()
            ],
            "fingerprint": encoder.fingerprint,
            **measured,
            "seconds": {"train": summary["seconds"], "cell": round(time.perf_counter() - start, 1)},
            "versions": made_with(),
        }  # fmt: skip
        shutil.rmtree(workplace.folder(self.stage))
        return record


def measure(encoder: Encoder, scale: float, cell: Cell, workplace: Workplace) -> dict[str, Any]:
    """Figures over all galleries, and what they are made of: "ranks" (of equal scores the middle one), "ties" (how many
    others score the same) and "nll" (centinats) of each query, t2v, and for each attribute asked for whether each
    caption prefers its clip to the twin's ("1", "0", "=" a tie).
    """
    from clipvip.data import read_manifest
    from clipvip.evaluation import retrieval_ranks

    clips = read_manifest(workplace.manifest(cell.world, cell.downstream), split=cell.split)
    scenarios = [file.scenario for file in world_files(cell.world)[cell.split]]
    videos = encoder.encode_clips(clips).vectors
    texts = encoder.encode_texts([" ".join(clip.captions) for clip in clips])

    family, asked = FAMILIES[cell.world.family], cell.downstream.asked
    universe = all_scenarios(family, cell.world.num_objects)
    place = {one: index for index, one in enumerate(universe)}
    size = len(universe)
    ranks, ties, losses = (np.empty(len(clips)) for _ in range(3))
    pairs: dict[str, list[str]] = {attribute: [] for attribute in asked}
    for start in range(0, len(clips), size):
        block = slice(start, start + size)
        similarity = texts[block] @ videos[block].T
        for members in galleries(universe, asked):
            scores = similarity[np.ix_(members, members)]
            rows = start + np.array(members)
            rounded = np.round(scores / TIE) * TIE
            best = retrieval_ranks(rounded, ties="optimistic")["t2v"]
            ranks[rows] = retrieval_ranks(rounded)["t2v"]
            ties[rows] = 2 * (ranks[rows] - best)
            losses[rows] = _nll(scale * scores.astype(np.float64))
        for attribute, outcomes in pairs.items():
            for index, one in enumerate(scenarios[block]):
                twin = place[one.twin(attribute, family)]
                if twin != index:
                    outcomes.append(_outcome(float(similarity[index, index] - similarity[index, twin])))
    return {
        "num_queries": len(clips),
        "figures": summarise(ranks, ties, losses) | {name: pair_accuracy("".join(of)) for name, of in pairs.items()},
        "logit_scale": round(float(np.log(scale)), 4),
        "ranks": [float(rank) if rank % 1 else int(rank) for rank in ranks],
        "ties": ties.astype(int).tolist(),
        "nll": np.round(100 * losses).astype(int).tolist(),
        "pairs": {name: "".join(of) for name, of in pairs.items()},
    }


def summarise(ranks: np.ndarray, ties: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """The figures of ranks, ties and losses [Q]."""
    recalls = {figure: float(100.0 * recall(ranks, ties, int(figure[2:])).mean()) for figure in FIGURES}
    figures = recalls | {"MeanR@": float(np.mean(list(recalls.values()))), "InfoNCE": float(losses.mean())}
    return {name: round(value, 4) for name, value in figures.items()}


def recall(ranks: np.ndarray, ties: np.ndarray, k: int) -> np.ndarray:
    """How likely each query's own video is among the first k if equal scores are put in random order, [Q].

    A model that cannot distinguish two videos then has one of two right, like the observers of `ceilings`.
    """
    best = ranks - ties / 2
    return np.clip((k + 1 - best) / (ties + 1), 0.0, 1.0)


def pair_accuracy(outcomes: str) -> float:
    """Percent; a tie counts half."""
    return round(100.0 * (outcomes.count("1") + 0.5 * outcomes.count("=")) / len(outcomes), 4)


def logit_scale(model: Path) -> float:
    """The trained log inverse temperature of a model folder."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "numpy") as weights:
        return float(weights.get_tensor("logit_scale"))


def made_with() -> dict[str, str]:
    """What decides the figures; the code's own commit with a "+" if it was changed since, "" outside of a checkout."""
    found = commit()
    name = "" if found is None else found["hash"][:12] + "+" * found["changed"]
    return {**versions("clipvip", "torch", "numpy", "transformers", "av"), "commit": name}


def _nll(logits: np.ndarray) -> np.ndarray:
    """Cross-entropy of each text's own video among the gallery's, [Q]."""
    top = logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - np.diag(logits)


def _outcome(difference: float) -> str:
    return "=" if abs(difference) <= TIE else "1" if difference > 0 else "0"
