"""What an observer who makes no mistake reaches, computed from the world's construction.

Three observers: one who sees a single frame (any of the four, not knowing which), one who sees all four without their
order (a bag), and one who sees them as they come. All of them name objects, phases and states without error; they
differ in what the frames leave open, and toss coins there. What a caption leaves open is nobody's mistake either. A
fourth, who sees the first frame and knows that it is, is there to show what places give away.

Shapes: Q queries of a gallery = its videos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import product

import numpy as np

from study.families import Family
from study.world import (
    ATTRIBUTES,
    NUM_FRAMES,
    START_SPREAD,
    Scenario,
    Take,
    all_scenarios,
    galleries,
    phase,
    rest,
    state_of,
    take_groups,
)

OBSERVERS = ("one frame", "bag of frames", "all frames", "first frame")
Start = tuple[float, ...]
"""The phase of each object."""


def seen(scenario: Scenario, take: Take, observer: str, frame: int = 0) -> Hashable:
    """What an observer sees of a clip. frame: which one "one frame" was given."""
    frames = [
        (
            tuple((t.color, t.shape, round(phase(take, scenario, i, f), 6) % 1) for i, t in enumerate(scenario.things)),
            state_of(scenario, f),
        )
        for f in range(NUM_FRAMES)
    ]
    match observer:
        case "one frame" | "first frame":
            return frames[frame]
        case "bag of frames":
            return tuple(sorted(frames, key=repr))
        case "all frames":
            return tuple(frames)
    raise ValueError(f"unknown observer {observer!r}")


def distribution(scenario: Scenario, observer: str, starts: Sequence[Start]) -> dict[Hashable, float]:
    """What an observer may see of a clip of this scenario, and how often, if it begins like one of `starts`."""
    counts: Counter[Hashable] = Counter()
    for start in starts:
        take = Take(start, tuple(range(len(scenario.things))), (0.0, 0.0), 0, 0)
        for frame in range(NUM_FRAMES) if observer == "one frame" else (0,):
            counts[seen(scenario, take, observer, frame)] += 1
    return {sight: count / counts.total() for sight, count in counts.items()}


def ceilings(family: Family, asked: str, num_objects: int | None = None) -> dict[str, dict[str, float]]:
    """Observer -> expected "R@1", "R@5", "R@10", "MeanR@" (percent, t2v) and the accuracies of minimal pairs in the
    attributes asked for (percent), of one who scores a clip by the probability of the caption given what was seen.

    Figures are means over queries of all galleries of a full factorial.
    """
    universe = all_scenarios(family, num_objects)
    return {observer: _of_observer(universe, family, asked, observer) for observer in OBSERVERS}


def _of_observer(universe: list[Scenario], family: Family, asked: str, observer: str) -> dict[str, float]:
    # quarters stand for all phases: frames and hypotheses are quarters apart, and the rest carries no information
    starts = list(product(np.arange(0.0, START_SPREAD, 0.25).tolist(), repeat=len(universe[0].things)))
    groups = dict(zip(universe, take_groups(family, universe), strict=True))
    sights = {scenario: distribution(scenario, observer, starts) for scenario in universe}
    at = {(scenario, start): distribution(scenario, observer, [start]) for scenario in universe for start in starts}
    # what is not asked for may be anything: a caption means every scenario that agrees with what it says
    meant: dict[Hashable, Counter[Hashable]] = {}
    anything: Counter[Hashable] = Counter()
    for scenario in universe:
        meant.setdefault(_caption(scenario, asked), Counter()).update(sights[scenario])
        anything.update(sights[scenario])

    def scores(query: Scenario, seen_of_clip: dict[Hashable, float]) -> dict[float, float]:
        """Score of a caption and a clip -> how often."""
        found: dict[float, float] = {}
        said = meant[_caption(query, asked)]
        for sight, share in seen_of_clip.items():
            score = round(said[sight] / anything[sight], 9)
            found[score] = found.get(score, 0.0) + share
        return found

    rows: list[dict[int, float]] = []
    pairs: dict[str, list[float]] = {attribute: [] for attribute in asked}
    for members in galleries(universe, asked):
        clips = [universe[member] for member in members]
        for query in clips:
            strangers = [scores(query, sights[clip]) for clip in clips if groups[clip] != groups[query]]
            kin = [
                clip for clip in clips if groups[clip] == groups[query] and clip != query
            ]  # begin like the query's clip
            for start in starts:
                others = [scores(query, at[clip, start]) for clip in kin]
                rows.append(_recalls(scores(query, at[query, start]), others + strangers))
    for scenario, start, attribute in product(universe, starts, asked):
        twin = scenario.twin(attribute, family)
        if twin != scenario:
            pairs[attribute].append(
                _preferred(scores(scenario, at[scenario, start]), scores(scenario, at[twin, start]))
            )
    figures = {f"R@{k}": float(np.mean([row[k] for row in rows])) for k in (1, 5, 10)}
    figures["MeanR@"] = float(np.mean(list(figures.values())))
    return figures | {attribute: float(np.mean(values)) for attribute, values in pairs.items()}


def _caption(scenario: Scenario, asked: str) -> Hashable:
    """What a caption says, whatever its words."""
    return rest(scenario, "".join(attribute for attribute in ATTRIBUTES if attribute not in asked))


def _preferred(own: dict[float, float], other: dict[float, float]) -> float:
    """Percent of draws in which a caption's own clip scores above the other; a tie counts half."""
    return 100.0 * sum(p * q * ((a > b) + 0.5 * (a == b)) for a, p in own.items() for b, q in other.items())


def _recalls(own: dict[float, float], others: list[dict[float, float]]) -> dict[int, float]:
    """Expected recall of one query in percent: scores are drawn independently, ties are broken at random."""
    recalls = dict.fromkeys((1, 5, 10), 0.0)
    for score, share in own.items():
        counts = np.ones((1, 1))  # [number above, number equal] -> probability
        for other in others:
            above = sum(p for s, p in other.items() if s > score)
            equal = other.get(score, 0.0)
            if above or equal:
                grown = np.pad(counts, ((0, 1), (0, 1))) * (1.0 - above - equal)
                grown[1:, :-1] += above * counts
                grown[:-1, 1:] += equal * counts
                counts = grown
        for k in recalls:
            places = np.clip(k - np.arange(counts.shape[0]), 0, None)[:, None] / (1.0 + np.arange(counts.shape[1]))
            recalls[k] += 100.0 * share * float((counts * np.minimum(1.0, places)).sum())
    return recalls
