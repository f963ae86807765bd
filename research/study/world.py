"""What a clip of the study shows: three attributes that do not know of each other, and nothing else that matters.

* appearance (A): the colour and shape of the object. Any one frame shows it.
* motion (M): stripes on the object drift by +90 or by -90 degrees of their period a frame. Any one frame, and the set
  of all four, has the same distribution either way.
* order (O): the first two frames show one state, the last two another. Each state is seen in a single frame.

A clip is four frames, which are the four that are sampled: a file holds no other. As permutations of its frames, the
other motion is (1, 0, 3, 2), the other order (2, 3, 0, 1), and both together time reversal. So four clips that differ
in motion and order alone have the same bag of frames, to the pixel, and whoever does not see the order of frames must
toss coins between them.

The phase a clip starts from is uniform over half a period (START_SPREAD): then a single frame whose place in time is
known leaves the motion open in half of the clips, and all four never do. Over a whole period motion would be a function
of pairs of frames alone, without a trace in what any frame shows on average: neither full attention nor late fusion
learnt that in the steps there are (README.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

from study.families import Family

NUM_FRAMES = 4
START_SPREAD = 0.5
ATTRIBUTES = ("A", "M", "O")
M_TWIN, O_TWIN = (1, 0, 3, 2), (2, 3, 0, 1)
"""Frames of the clip with the other motion, or the other order, as indices into this clip's frames."""


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One object. drift: +1 or -1, quarters of a period a frame."""

    color: str
    shape: str
    drift: int


@dataclass(frozen=True, slots=True, order=True)
class Told:
    """What a complete caption tells: the objects, by colour, and the two states in their order (none in worlds that
    count objects).
    """

    things: tuple[Thing, ...]
    states: tuple[str, ...] = ()

    def twin(self, attribute: str, family: Family) -> Told:
        """The nearest other in one attribute: the next colour, all motions reversed, the states swapped."""
        match attribute:
            case "A":
                colors = list(family.colors)
                other = {color: colors[i ^ 1] for i, color in enumerate(colors)}
                return replace(self, things=_sorted(replace(t, color=other[t.color]) for t in self.things))
            case "M":
                return replace(self, things=tuple(replace(t, drift=-t.drift) for t in self.things))
            case "O":
                return replace(self, states=self.states[::-1])
        raise ValueError(f"unknown attribute {attribute!r}")


@dataclass(frozen=True, slots=True)
class Take:
    """What a clip shows beside what is told. phases, places: of each object; offset: of all, in pixels.

    phases are in periods, of the first frame of a clip whose drift is +1 (see `phase`).
    """

    phases: tuple[float, ...]
    places: tuple[int, ...]
    offset: tuple[float, float]
    ground: int
    noise: int


def phase(take: Take, told: Told, thing: int, frame: int) -> float:
    """The phase of an object's stripes in a frame, in periods.

    It is such that twins with one take have the same frames in another order: the clip with drift -1 begins a quarter
    later, the clip whose states stand in the other order half a period.
    """
    drift = told.things[thing].drift
    start = take.phases[thing] + (0.25 if drift < 0 else 0.0)
    if told.states and told.states[0] > told.states[1]:
        start += 0.5
    return (start + 0.25 * drift * frame) % 1.0


def state_of(told: Told, frame: int) -> str | None:
    """The state a frame shows."""
    return told.states[frame // 2] if told.states else None


def all_told(family: Family, num_objects: int | None) -> list[Told]:
    """Every combination, in a fixed order. num_objects: None for the main world, else of a world that counts objects
    (the first so many colours, one shape, no states: motions are all there is to tell).
    """
    drifts = (1, -1)
    if num_objects is None:
        orders = list(permutations(family.states, 2))
        return [
            Told((Thing(color, shape, drift),), order)
            for shape, color, order, drift in product(family.shapes, family.colors, orders, drifts)
        ]
    colors = list(family.colors)[:num_objects]
    return [
        Told(_sorted(Thing(color, family.shapes[0], drift) for color, drift in zip(colors, signs, strict=True)))
        for signs in product(drifts, repeat=num_objects)
    ]


def draw_take(told: Told, family: Family, rng: np.random.Generator) -> Take:
    """A random take for as many objects."""
    count = len(told.things)
    return Take(
        phases=tuple(rng.uniform(0, START_SPREAD, count).tolist()),
        places=tuple(rng.permutation(4)[:count].tolist()),
        offset=tuple(rng.uniform(-2, 2, size=2).tolist()),
        ground=int(rng.integers(len(family.grounds))),
        noise=int(rng.integers(2**31)),
    )


def rest(told: Told, asked: str) -> tuple[object, ...]:
    """What is not asked for: clips that agree in it may share a gallery, and then no two have the same caption."""
    hidden: list[object] = []
    if "A" not in asked:
        hidden += [(thing.color, thing.shape) for thing in told.things]
    if "M" not in asked:
        hidden += [thing.drift for thing in told.things]
    if "O" not in asked:
        hidden += told.states
    return tuple(hidden)


def galleries(gallery: Sequence[Told], asked: str) -> list[list[int]]:
    """A full factorial cut into galleries in which each caption belongs to one clip only; indices into `gallery`."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, told in enumerate(gallery):
        groups.setdefault(rest(told, asked), []).append(index)
    return list(groups.values())


def take_groups(family: Family, universe: Sequence[Told]) -> list[int]:
    """For each combination the number of its take: twins in any attribute share one."""
    numbers: dict[Told, int] = {}
    for told in universe:
        flipped = told.twin("M", family)
        group = {told, flipped}
        if told.states:
            group |= {other.twin("O", family) for other in group}
        group |= {other.twin("A", family) for other in group}
        number = next((numbers[other] for other in group if other in numbers), len(numbers))
        for other in group:
            numbers.setdefault(other, number)
    return [numbers[told] for told in universe]


def _sorted(things: Iterable[Thing]) -> tuple[Thing, ...]:
    return tuple(sorted(things))
