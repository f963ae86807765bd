"""What can happen in the small synthetic world: objects, scenes, events, and who is in which split.

A clip shows one object (4 shapes, 6 colours) in one of 4 scenes, and one event. Every event but "still" has a
time-reversed twin: the same frames backwards, described by another caption. Half of the test videos stand in the
gallery together with their twin, so a model that cannot see the order of frames can at best toss a coin on them:
its ceiling in R@1 is `order_blind_ceiling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SCENES = ("meadow", "desert", "night", "street")
TWIN_EVENTS = {
    "still": "still",
    "grow": "shrink",
    "shrink": "grow",
    "appear": "disappear",
    "disappear": "appear",
    "jump_dark": "dark_jump",
    "dark_jump": "jump_dark",
    "recolor": "recolor",
    "reshape": "reshape",
    "rescene": "rescene",
}
"""Event -> what it is when played backwards (changes from A to B swap A and B instead)."""


@dataclass(frozen=True, slots=True, order=True)
class Scenario:
    """What a clip shows. `target` is the B of a change from A to B (a colour, shape or scene), else empty."""

    shape: str
    color: str
    scene: str
    event: str
    target: str = ""

    @property
    def twin(self) -> Scenario:
        """The scenario of the same clip played backwards."""
        match self.event:
            case "recolor":
                return Scenario(self.shape, self.target, self.scene, self.event, self.color)
            case "reshape":
                return Scenario(self.target, self.color, self.scene, self.event, self.shape)
            case "rescene":
                return Scenario(self.shape, self.color, self.target, self.event, self.scene)
        return Scenario(self.shape, self.color, self.scene, TWIN_EVENTS[self.event])


@cache
def all_scenarios() -> tuple[Scenario, ...]:
    """The whole universe, 1,728 scenarios, in a fixed order."""
    plain = [event for event in TWIN_EVENTS if event not in ("recolor", "reshape", "rescene")]
    universe = [Scenario(*static, event) for static in product(SHAPES, COLORS, SCENES) for event in plain]
    universe += [
        Scenario(s, a, c, "recolor", b) for s, c in product(SHAPES, SCENES) for a, b in permutations(COLORS, 2)
    ]
    universe += [
        Scenario(a, k, c, "reshape", b) for k, c in product(COLORS, SCENES) for a, b in permutations(SHAPES, 2)
    ]
    universe += [
        Scenario(s, k, a, "rescene", b) for s, k in product(SHAPES, COLORS) for a, b in permutations(SCENES, 2)
    ]
    return tuple(universe)


@dataclass(frozen=True, slots=True)
class Splits:
    """Scenarios by split. In `val` and `test` each scenario is one video; the first half are twins, pair by pair."""

    train: tuple[Scenario, ...]
    val: tuple[Scenario, ...]
    test: tuple[Scenario, ...]


def split_scenarios(seed: int, num_val: int, num_test: int) -> Splits:
    """Draw held-out scenarios without overlap; what remains is for training.

    Of each held-out split, half are twin pairs, half are scenarios whose twin is not in that split.
    """
    rng = np.random.default_rng([seed, 1])
    universe = all_scenarios()
    pool = [universe[i] for i in rng.permutation(len(universe))]
    taken: set[Scenario] = set()

    def draw(count: int) -> tuple[Scenario, ...]:
        paired: list[Scenario] = []
        single: list[Scenario] = []
        forbidden: set[Scenario] = set()
        num_paired = count // 4 * 2
        for scenario in pool:
            if scenario in taken or scenario in forbidden:
                continue
            twin = scenario.twin
            if len(paired) < num_paired and twin != scenario and twin not in taken:
                paired += [scenario, twin]
                taken.update((scenario, twin))
            elif len(paired) == num_paired and len(single) < count - num_paired:
                single.append(scenario)
                taken.add(scenario)
                forbidden.add(twin)
        return (*paired, *single)

    test = draw(num_test)
    val = draw(num_val)
    return Splits(tuple(s for s in pool if s not in taken), val, test)


def order_blind_ceiling(gallery: tuple[Scenario, ...]) -> float:
    """The best R@1 (percent) in expectation of a model for which a clip and its reversal are the same.

    Every query without its twin in the gallery can be answered; between twins it must toss a coin.
    """
    present = set(gallery)
    scores = [0.5 if s.twin != s and s.twin in present else 1.0 for s in gallery]
    return 100.0 * sum(scores) / len(scores)
