"""What is run: rows, factors and seeds of each table, as cells. Frozen by README.md before any test split was read.

Every row has one budget, and one learning-rate search over the same grid, on the validation split of a world of its own
(family A, TUNING_SEED). Test cells are of other worlds, with what the search chose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from study.cells import Cell
from study.stages import Settings, Stage
from study.views import View, World, WorldSize

TABLES = ("table1", "table2", "table3", "table4", "figure1", "annex")
TUNING_SEED = 0
DATA_SEEDS = (1, 2)
NUM_MODEL_SEEDS = 3
TUNING_WORLD = World("A", TUNING_SEED, size=WorldSize(val=3, test=0))
SEARCH_SEED, SPREAD_SEED = 100, 101
"""Model seeds of the search, and of a second look at what it chose: how far figures vary from seed to seed."""
BASE, BASE_ASKED = "base", "AO"
"""The level from which each factor departs, and what captions describe there."""

WARM_STEPS, PRETRAIN_STEPS, FEW_STEPS = 300, 150, 75
MOTION_STEPS, LONG_STEPS = 300, 400
"""Of fine-tuning where motion alone is asked for, which takes longer to learn, and at a level where the budget is not
what limits; else as in the recipe.
"""
SNAPSHOTS = (PRETRAIN_STEPS // 2, PRETRAIN_STEPS)
BASES = (BASE, f"step {PRETRAIN_STEPS}")
"""The levels at which the paper's claims are weighed, in both families."""
FEW = 0.375
"""Share of the training clips for fine-tuning after post-pre-training, which matters only where they do not suffice."""

CROWDS = {1: 192, 4: 24}
"""Numbers of objects, and how many full factorials of their motions are 384 test videos."""

AGGREGATORS: dict[str, Settings] = {
    "mean": (("model.aggregator", "mean"),),
    "transformer": (("model.aggregator", "transformer"),),
    "full": (("model.aggregator", "full"), ("model.num_proxies", 1)),
    **{
        f"vip{m}": (("model.aggregator", "vip"), ("model.num_proxies", m), ("model.proxy_init", "class"))
        for m in (1, 4, 8)
    },
}
"""The paper's Table 2: MeanPool, SeqTransformer, full attention, and the proxies' number."""
SIGHTED = ("transformer", "full", "vip4")
"""Those that can see motion; the frames' mean is the same for either, by construction."""
LATE_AND_PROXIES = ("mean", "transformer", "vip4")
"""What is compared at the other levels."""
STARTS_OF_NEW = (("class", 1), ("class", 10), ("normal", 1))
"""Start of the proxies, and factor of the learning rate of new parameters."""
LOSSES = {"vs": "vs", "a": "vs+fc", "b": "vs+vc", "c": "vs+vc+fc", "d": "vsc+fc"}
"""Table 3: V-S alone, and the paper's letters."""
RATES = (1e-3, 2e-3)
FACTORS = (1, 10)
"""The search: learning rate, times the factor of new parameters (of which frame averaging has none)."""

RELEVANCES = (0.1, 0.8)
"""Of subtitles; the base has 0.4."""
DATA_ROWS = ("subtitles", "captions", "both", "images", "both and images")
"""Table 4, next to "none"."""
SETS = {"fortieth": 0.025, "tenth": 0.1, "all": 1.0}
"""Figure 1: shares of the clips, at equal steps; the fortieth with captions for subtitles, as WebVid has."""
STARTS = ("scratch", "scratch, post-pre-trained", "warm", "warm, post-pre-trained")
"""Annex: with and without image-text weights, with and without post-pre-training."""

Chosen = Mapping[str, Settings]
"""Row -> what the search chose for it."""


def search_points(table: str) -> dict[tuple[str, str], Settings]:
    """(row, level) of the search's cells -> the grid point they try: the same points for each row."""
    rows: dict[str, Iterable[str]] = {
        "table2": AGGREGATORS, "table3": LOSSES, "table4": DATA_ROWS, "figure1": SETS, "annex": STARTS,
    }  # fmt: skip
    points: dict[tuple[str, str], Settings] = {}
    for row, rate in product(rows.get(table, ()), RATES):
        if table != "table2":
            points[row, f"try lr {rate:g}"] = (("optim.lr", rate),)
            continue
        for factor in FACTORS if row != "mean" else FACTORS[:1]:
            points[row, f"try lr {rate:g} x{factor}"] = (("optim.lr", rate), ("optim.new_lr_factor", factor))
    return points


def search_cells(table: str) -> list[Cell]:
    """Cells that choose the learning rates of a table."""
    return [
        cell
        for (row, level), settings in search_points(table).items()
        for cell in _cells(table, "search", [row], TUNING_WORLD, SEARCH_SEED, {row: settings}, level=level)
    ]


def spread_cells(table: str, chosen: Chosen) -> list[Cell]:
    """The chosen points with another model seed, from which the least detectable difference is computed before any
    test split is read; for one table of each kind.
    """
    levels = {(row, settings): level for (row, level), settings in search_points(table).items()}
    return [
        cell
        for row, settings in (chosen.items() if table in ("table2", "table3") else ())
        for cell in _cells(
            table, "spread", [row], TUNING_WORLD, SPREAD_SEED, {row: settings}, level=levels[row, settings]
        )
    ]


def choose(table: str, records: Iterable[Mapping[str, Any]]) -> dict[str, Settings]:
    """For each row the grid point with the best validation MeanR@; of equal ones, that of the lower InfoNCE."""
    points = search_points(table)
    scores: dict[str, dict[Settings, tuple[float, float]]] = defaultdict(dict)
    for record in records:
        point = points.get((record["row"], record["level"]))
        if record["kind"] == "search" and point is not None:  # a grid that was tried before may have had others
            figures = record["figures"]
            scores[record["row"]][point] = (figures["MeanR@"], -figures["InfoNCE"])
    return {row: max(of, key=of.__getitem__) for row, of in scores.items()}


def final_cells(table: str, chosen: Chosen, num_model_seeds: int = NUM_MODEL_SEEDS) -> list[Cell]:
    """Cells that read the test split, with the settings the search chose."""
    cells = []
    for family in ("A", "B"):
        for data_seed in DATA_SEEDS:
            for seed in range(num_model_seeds):
                cells += list(_of_seeds(table, World(family, data_seed), seed, chosen))
    return cells


def _of_seeds(table: str, world: World, seed: int, chosen: Chosen) -> Iterator[Cell]:
    """All test cells of one world and model seed. Family B confirms what is claimed: the base level."""
    rows = {"table2": tuple(AGGREGATORS), "table3": ("none", *LOSSES), "table4": ("none", *DATA_ROWS)}.get(table)
    if table == "table2":
        assert rows is not None
        yield from _cells(table, "test", rows, world, seed, chosen)
        if world.family == "A":
            yield from _cells(table, "test", SIGHTED, world, seed, chosen, asked="M")
            yield from _cells(table, "test", ("transformer", "vip4"), world, seed, chosen, asked="AMO")
            for count, factorials in CROWDS.items():
                crowd = replace(world, num_objects=count, size=WorldSize(pretrain=0, test=factorials))
                yield from _cells(table, "test", ("full", "vip1", "vip4"), crowd, seed, chosen, asked="M")
            for start, factor in STARTS_OF_NEW:
                settings = dict(chosen["vip4"]) | {"optim.new_lr_factor": factor, "model.proxy_init": start}
                started = {"vip4": tuple(settings.items())}
                yield from _cells(table, "test", ("vip4",), world, seed, started, level=f"start {start} x{factor}")
            yield from _cells(table, "test", LATE_AND_PROXIES, world, seed, chosen, warm_steps=0)
            long = {row: tuple((dict(of) | {"train.steps": LONG_STEPS}).items()) for row, of in chosen.items()}
            yield from _cells(table, "test", LATE_AND_PROXIES, world, seed, long, level="long")
            yield from _cells(table, "test", LATE_AND_PROXIES, world, seed, chosen, paragraphs=True)
    elif table in ("table3", "table4"):
        assert rows is not None
        yield from _cells(table, "test", rows, world, seed, chosen)
        if world.family == "A":
            yield from _cells(table, "test", rows, world, seed, chosen, paragraphs=True)
            for relevance in RELEVANCES if table == "table3" else ():
                yield from _cells(table, "test", ("vs",), world, seed, chosen, relevance=relevance)
    elif table == "figure1":
        for steps in SNAPSHOTS if world.family == "A" else SNAPSHOTS[-1:]:
            yield from _cells(table, "test", tuple(SETS), world, seed, chosen, snapshot=steps)
        yield from _cells(table, "test", ("none",), world, seed, chosen)
    elif table == "annex":
        yield from _cells(table, "test", STARTS, world, seed, chosen)


def _cells(
    table: str,
    kind: str,
    rows: Iterable[str],
    world: World,
    seed: int,
    chosen: Chosen,
    *,
    level: str | None = None,
    asked: str = BASE_ASKED,
    paragraphs: bool = False,
    warm_steps: int = WARM_STEPS,
    relevance: float = 0.4,
    snapshot: int | None = None,
) -> Iterator[Cell]:
    """Cells of some rows at one level, which is named by what differs from the base."""
    named = {
        f"objects {world.num_objects}": world.num_objects is not None,
        f"asked {asked}": asked != BASE_ASKED and world.num_objects is None,
        "paragraphs": paragraphs,
        f"warm {warm_steps}": warm_steps != WARM_STEPS,
        f"relevance {relevance:g}": relevance != 0.4,
        f"step {snapshot}": snapshot is not None,
    }
    level = level or ", ".join(name for name, there in named.items() if there) or BASE
    for row in rows:
        view = View("downstream", asked, paragraphs, share=1.0 if table == "table2" else FEW)
        settings = dict(chosen.get(row, ())) | ({"train.steps": MOTION_STEPS} if asked == "M" else {})
        stage = _stage(table, row, world, seed, settings, view, warm_steps, relevance, snapshot)
        yield Cell(table, kind, row, level, world, seed, stage, view)


def _stage(
    table: str,
    row: str,
    world: World,
    seed: int,
    settings: dict[str, Any],
    view: View,
    warm_steps: int,
    relevance: float,
    snapshot: int | None,
) -> Stage:
    """The chain of runs behind a cell. In table2 `settings` are fine-tuning's, elsewhere post-pre-training's."""
    warm = Stage("study/warmstart", world, View("images"), seed, (("train.steps", warm_steps),))
    if table == "table2":
        settings = dict(AGGREGATORS[row]) | settings
        if not warm_steps:
            return Stage("study/finetune-scratch", world, view, seed, tuple(settings.items()))
        return Stage("study/finetune", world, view, seed, tuple(settings.items()), warm)
    few: dict[str, Any] = {"train.steps": FEW_STEPS, "model.aggregator": "mean" if table == "figure1" else "vip"}
    if table == "annex":
        return _annex_stage(row, world, seed, settings, view, few, warm)
    if row == "none":
        return Stage("study/finetune", world, view, seed, tuple(few.items()), warm)
    before = _pretraining(table, row, world, seed, settings, relevance, warm)
    at = snapshot if snapshot != PRETRAIN_STEPS else None
    return Stage("study/finetune", world, view, seed, tuple(few.items()), before, at)


def _pretraining(
    table: str, row: str, world: World, seed: int, settings: dict[str, Any], relevance: float, warm: Stage
) -> Stage:
    share, images = 1.0, None
    settings = settings | {"train.steps": PRETRAIN_STEPS}
    if table == "figure1":
        share = SETS[row]
        settings |= {"model.aggregator": "mean", "loss.variant": "vs", "train.snapshot_every": SNAPSHOTS[0]}
        settings["data.subtitle"] = "caption" if row == "fortieth" else "subtitle"
    elif table == "table3":
        settings["loss.variant"] = LOSSES[row]
    elif row in ("subtitles", "captions", "images"):
        field = {"subtitles": "subtitle", "captions": "caption", "images": "captions"}[row]
        settings |= {"loss.variant": "vs", "data.subtitle": field}
        if row == "images":
            return Stage("study/pretrain", world, View("images"), seed, tuple(settings.items()), warm)
    elif row == "both and images":
        images = View("images")
    view = View("pretrain", share=share, relevance=relevance)
    recipe = "study/pretrain" if images is None else "study/pretrain-mixed"
    return Stage(recipe, world, view, seed, tuple(settings.items()), warm, mixed=images)


def _annex_stage(
    row: str, world: World, seed: int, settings: dict[str, Any], view: View, few: dict[str, Any], warm: Stage
) -> Stage:
    """Without image-text weights both stages start as CLIP does, with one learning rate for all parameters."""
    start, _, before = row.partition(", ")
    pretraining = View("pretrain")
    if start == "scratch":
        if not before:
            return Stage("study/finetune-scratch", world, view, seed, tuple((few | settings).items()))
        parent = Stage("study/pretrain-scratch", world, pretraining, seed, tuple(settings.items()))
        return Stage("study/finetune", world, view, seed, tuple(few.items()), parent)
    if not before:
        return Stage("study/finetune", world, view, seed, tuple((few | settings).items()), warm)
    parent = Stage("study/pretrain", world, pretraining, seed, tuple(settings.items()), warm)
    return Stage("study/finetune", world, view, seed, tuple(few.items()), parent)
