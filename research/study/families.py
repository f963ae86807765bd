"""Two families of worlds, as data: the same structure, and other words, shapes, colours, states and motions.

Family A is for everything. Family B is for confirmation alone: nothing was tuned on it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What a world is made of, and the words for it.

    shapes: name -> what is drawn (see `clipvip.data.synthetic.shape_depth`). colors: name -> RGB. states: texture of
    the background -> the words for it. axis: along which stripes run, "x" or "y". drifts: the words for a phase that
    grows (0) and one that falls (1).
    """

    name: str
    shapes: dict[str, str]
    colors: dict[str, tuple[int, int, int]]
    states: dict[str, tuple[str, ...]]
    axis: str
    drifts: tuple[tuple[str, ...], tuple[str, ...]]
    grounds: tuple[tuple[int, int, int], ...]
    subject: tuple[str, ...]
    moves: tuple[str, ...]
    orders: tuple[str, ...]
    sayings: tuple[str, ...]
    fillers: tuple[str, ...]


A = Family(
    name="A",
    shapes={"circle": "circle", "square": "large square", "triangle": "tall triangle", "cross": "short cross"},
    colors={"red": (230, 50, 50), "green": (50, 200, 70), "blue": (70, 110, 245), "yellow": (240, 220, 50)},
    states={
        "border": ("there is a border", "the picture is framed"),
        "stars": ("stars are in the corners", "four stars shine"),
        "flash": ("the light is on", "everything is bright"),
    },
    axis="x",
    drifts=(("left", "to the left"), ("right", "to the right")),
    grounds=((70, 70, 78), (92, 86, 70), (66, 84, 70)),
    subject=("a {color} {shape}", "one {color} {shape}"),
    moves=("its stripes run {drift}", "the pattern drifts {drift}"),
    orders=("first {one} and then {two}", "{one} before {two}"),
    sayings=(
        "thanks for watching and see you next week",
        "do not forget to subscribe to the channel",
        "my sister called me about the weekend",
        "the music is by a friend of mine",
        "we had pasta and it was really good",
        "leave your questions in the comments",
    ),
    fillers=("so", "well", "okay", "you know", "um", "now", "look"),
)

B = Family(
    name="B",
    shapes={"ring": "ring", "diamond": "diamond", "bar": "bar", "crescent": "crescent"},
    colors={"orange": (240, 140, 30), "cyan": (40, 205, 215), "pink": (240, 110, 190), "white": (240, 240, 240)},
    states={
        "dusk": ("it is dusk", "shadows fall"),
        "floor": ("a floor lies below", "the ground is shown"),
        "dots": ("dots hang above", "a row of dots appears"),
    },
    axis="y",
    drifts=(("up", "upwards"), ("down", "downwards")),
    grounds=((128, 110, 100), (104, 118, 132), (120, 120, 104)),
    subject=("the {shape} in {color}", "some {color} {shape}"),
    moves=("ripples move {drift} on it", "waves go {drift} across it"),
    orders=("{one}, later {two}", "at the start {one}, at the end {two}"),
    sayings=(
        "welcome back to another episode",
        "this was recorded in my garage",
        "our sponsor sells very good shoes",
        "yesterday it rained the whole day",
        "the cat is asleep on the keyboard",
        "tell me what you think of the new haircut",
    ),
    fillers=("right", "and", "like", "actually", "hmm", "anyway", "see"),
)

FAMILIES = {family.name: family for family in (A, B)}
