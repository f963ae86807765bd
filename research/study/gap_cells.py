"""Table 1's cells: how far the texts of post-pre-training are from those of the downstream sets (NMI, section 3.2)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipvip.data import read_manifest
from study import plan
from study.cells import RECORD_VERSION, made_with
from study.records import Record
from study.stages import Stage, Workplace, digest
from study.views import View, World

NUM_TEXTS, NUM_DRAWS = 500, 10
SOURCES = {
    "subtitles": (View("pretrain"), "subtitle"),
    "captions": (View("pretrain"), "caption"),
    "alt texts": (View("images"), "captions"),
    "sentences": (View("downstream", plan.BASE_ASKED), "captions"),
    "paragraphs": (View("downstream", plan.BASE_ASKED, paragraphs=True), "captions"),
}
"""Name -> (view, field). The last two are the downstream sets'."""


@dataclass(frozen=True)
class GapCell:
    """The gaps between all sources, in the text features of one warm start."""

    world: World
    model_seed: int
    stage: Stage

    @property
    def level(self) -> str:
        """Of no factor."""
        return plan.BASE

    @property
    def key(self) -> str:
        """Digest of everything its figures depend on."""
        sources = {name: [asdict(view), field] for name, (view, field) in SOURCES.items()}
        return digest([RECORD_VERSION, self.stage.key, asdict(self.world), sources, NUM_TEXTS, NUM_DRAWS])

    @property
    def labels(self) -> dict[str, Any]:
        """Which entry of which table it is."""
        return {
            "table": "table1", "kind": "test", "row": "gap", "level": self.level,
            "family": self.world.family, "data_seed": self.world.seed, "model_seed": self.model_seed,
        }  # fmt: skip

    def shared(self) -> Iterator[Stage]:
        """What is trained for it."""
        yield self.stage

    def views(self) -> Iterator[tuple[World, View]]:
        """The manifests it reads."""
        yield self.world, self.stage.view
        yield from ((self.world, view) for view, _ in SOURCES.values())

    def run(self, workplace: Workplace) -> Record:
        """Measure: NMI by "SOURCE | SOURCE", of a source and itself between halves."""
        from clipvip.analysis import measure_gap, open_sources
        from clipvip.encode import load

        start = time.perf_counter()
        encoder = load(workplace.model(self.stage))
        with tempfile.TemporaryDirectory(prefix="clipvip-") as folder:
            for name, (view, field) in SOURCES.items():
                texts = _texts(workplace.manifest(self.world, view), field, joined=view.paragraphs)
                Path(folder, f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
            sources = open_sources([f"{name}={folder}/{name}.txt" for name in SOURCES])
            gap = measure_gap(sources, encoder, num_texts=NUM_TEXTS, num_draws=NUM_DRAWS, seed=self.world.seed)
        return {
            **self.labels, "key": self.key, "stage": self.stage.key, "fingerprint": gap.fingerprint,
            "num_texts": NUM_TEXTS, "num_draws": NUM_DRAWS,
            "figures": {f"{pair.a} | {pair.b}": round(pair.nmi, 5) for pair in gap.pairs},
            "seconds": {"cell": round(time.perf_counter() - start, 1)},
            "versions": made_with(),
        }  # fmt: skip


def _texts(manifest: Path, field: str, *, joined: bool) -> list[str]:
    """Of the training clips; joined: a clip's captions are one text, as in retrieval of paragraphs."""
    texts: list[str] = []
    for clip in read_manifest(manifest, split="train"):
        of_clip = clip.captions if field == "captions" else (getattr(clip, field),)
        texts += [" ".join(of_clip)] if joined else of_clip
    return texts


def gap_cells(num_model_seeds: int) -> list[GapCell]:
    """Of both families and all seeds."""
    return [
        GapCell(world, seed, Stage("study/warmstart", world, View("images"), seed, (("train.steps", plan.WARM_STEPS),)))
        for world in (World(family, data_seed) for family in ("A", "B") for data_seed in plan.DATA_SEEDS)
        for seed in range(num_model_seeds)
    ]
