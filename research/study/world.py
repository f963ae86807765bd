"""What a clip of the study shows: three independent attributes, and nothing else that matters.

* appearance (A): the colour and shape of the object. Any one frame shows it.
* motion (M): stripes on the object drift by +90 or by -90 degrees of their period a frame. Any one frame, and the set
  of all four, has the same distribution either way.
* order (O): the first two frames show one state, the last two another. Each state is seen in a single frame.

A clip is four frames, which are the four that are sampled: a file holds no other. As permutations of its frames, the
other motion is (1, 0, 3, 2), the other order (2, 3, 0, 1), and both together time reversal. So four clips that differ
in motion and order alone have the same bag of frames, to the pixel, and a model that does not see the order of frames
must toss coins between them.

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

from clipvip.data.synthetic import SIZE, Sprite, paint_background, paint_stripes, render_frames, shape_depth
from study.families import Family

NUM_FRAMES = 4
PERIOD = 16
"""Of the stripes, in pixels: that of a patch, so that motion is something inside patches."""
START_SPREAD = 0.5
ATTRIBUTES = ("A", "M", "O")
M_TWIN, O_TWIN = (1, 0, 3, 2), (2, 3, 0, 1)
"""Frames of the clip with the other motion, or the other order, as indices into this clip's frames."""
_LARGE, _SMALL = 17.0, 7.5  # radius of the one object, and of several, each in a patch of its own
_AXIS = np.arange(SIZE, dtype=np.float32) + 0.5


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One object. drift: +1 or -1, quarters of a period a frame."""

    color: str
    shape: str
    drift: int


@dataclass(frozen=True, slots=True, order=True)
class Scenario:
    """What a complete caption describes: the objects, by colour, and the two states in their order (none in worlds
    that count objects).
    """

    things: tuple[Thing, ...]
    states: tuple[str, ...] = ()

    def twin(self, attribute: str, family: Family) -> Scenario:
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
    """What a clip shows in addition to its scenario. phases, places: of each object; offset: of all, in pixels.

    phases are in periods, of the first frame of a clip whose drift is +1 (see `phase`).
    """

    phases: tuple[float, ...]
    places: tuple[int, ...]
    offset: tuple[float, float]
    ground: int
    noise: int


def phase(take: Take, scenario: Scenario, thing: int, frame: int) -> float:
    """The phase of an object's stripes in a frame, in periods.

    It is such that twins with one take have the same frames in another order: the clip with drift -1 begins a quarter
    later, the clip whose states stand in the other order half a period.
    """
    drift = scenario.things[thing].drift
    start = take.phases[thing] + (0.25 if drift < 0 else 0.0)
    if scenario.states and scenario.states[0] > scenario.states[1]:
        start += 0.5
    return (start + 0.25 * drift * frame) % 1.0


def state_of(scenario: Scenario, frame: int) -> str | None:
    """The state a frame shows."""
    return scenario.states[frame // 2] if scenario.states else None


def all_scenarios(family: Family, num_objects: int | None) -> list[Scenario]:
    """Every combination, in a fixed order. num_objects: None for the main world, else of a world that counts objects
    (the first so many colours, one shape, no states: motions are all there is to describe).
    """
    drifts = (1, -1)
    if num_objects is None:
        orders = list(permutations(family.states, 2))
        return [
            Scenario((Thing(color, shape, drift),), order)
            for shape, color, order, drift in product(family.shapes, family.colors, orders, drifts)
        ]
    colors, shape = list(family.colors)[:num_objects], next(iter(family.shapes))
    return [
        Scenario(_sorted(Thing(color, shape, drift) for color, drift in zip(colors, signs, strict=True)))
        for signs in product(drifts, repeat=num_objects)
    ]


def draw_take(scenario: Scenario, family: Family, rng: np.random.Generator) -> Take:
    """A random take for as many objects."""
    count = len(scenario.things)
    return Take(
        phases=tuple(rng.uniform(0, START_SPREAD, count).tolist()),
        places=tuple(rng.permutation(4)[:count].tolist()),
        offset=tuple(rng.uniform(-2, 2, size=2).tolist()),
        ground=int(rng.integers(len(family.grounds))),
        noise=int(rng.integers(2**31)),
    )


def render_clip(
    scenario: Scenario, take: Take, family: Family, frames: Sequence[int] = range(NUM_FRAMES)
) -> np.ndarray:
    """The frames with these numbers, uint8 [F, S, S, 3]; twins with one take have the same frames, to the pixel."""
    background = [paint_background(family.grounds[take.ground], state_of(scenario, frame)) for frame in frames]
    sprites = []
    for number, thing in enumerate(scenario.things):
        if scenario.states:
            x, y, radius = SIZE / 2, SIZE / 2, _LARGE
        else:
            place = take.places[number]
            x, y, radius = SIZE * (0.25 + 0.5 * (place % 2)), SIZE * (0.25 + 0.5 * (place // 2)), _SMALL
        dx, dy = (_AXIS - x - take.offset[0])[None, :], (_AXIS - y - take.offset[1])[:, None]
        depth = shape_depth(family.shapes[thing.shape], dx, dy, radius)  # [S, S]
        color = family.colors[thing.color]
        phases = [phase(take, scenario, number, frame) for frame in frames]
        stripes = np.stack([paint_stripes(color, start, family.axis, PERIOD) for start in phases])
        sprites.append(Sprite(depth[None], stripes, is_outlined=False))
    return render_frames(np.stack(background), sprites, np.random.default_rng(take.noise))


def rest(scenario: Scenario, asked: str) -> tuple[object, ...]:
    """What is not asked for: clips that agree in it may share a gallery, and then no two have the same caption."""
    hidden: list[object] = []
    if "A" not in asked:
        hidden += [(thing.color, thing.shape) for thing in scenario.things]
    if "M" not in asked:
        hidden += [thing.drift for thing in scenario.things]
    if "O" not in asked:
        hidden += scenario.states
    return tuple(hidden)


def galleries(gallery: Sequence[Scenario], asked: str) -> list[list[int]]:
    """A full factorial cut into galleries in which each caption belongs to one clip only; indices into `gallery`."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, scenario in enumerate(gallery):
        groups.setdefault(rest(scenario, asked), []).append(index)
    return list(groups.values())


def take_groups(family: Family, universe: Sequence[Scenario]) -> list[int]:
    """For each combination the number of its take: twins in any attribute share one."""
    numbers: dict[Scenario, int] = {}
    for scenario in universe:
        flipped = scenario.twin("M", family)
        group = {scenario, flipped}
        if scenario.states:
            group |= {other.twin("O", family) for other in group}
        group |= {other.twin("A", family) for other in group}
        number = next((numbers[other] for other in group if other in numbers), len(numbers))
        for other in group:
            numbers.setdefault(other, number)
    return [numbers[scenario] for scenario in universe]


def _sorted(things: Iterable[Thing]) -> tuple[Thing, ...]:
    return tuple(sorted(things))
