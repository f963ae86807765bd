"""The four kinds of text the method needs, for any scenario of the small world.

Captions (downstream) say the whole event and, if complete, everything else; as in real sets some say less. Auxiliary
captions describe the middle frame only, as an image captioner would, and err on the shape in 5 % of cases; alt texts
describe still images in another style; subtitles are what a narrator might say: partly relevant, often not, with
words lost or garbled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from clipvip.data.synthetic.caption_truth import middle_frame
from clipvip.data.synthetic.clips import Take
from clipvip.data.synthetic.render import SIZE
from clipvip.data.synthetic.world import SHAPES, Scenario

T = TypeVar("T")

NAMES = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "cross": ("cross", "plus sign"),
}
PLACES = {
    "meadow": ("on the meadow", "on the grass"),
    "desert": ("in the desert", "on the sand"),
    "night": ("at night", "in the dark of night"),
    "street": ("on the street", "on the pavement"),
}
VERBS = {
    "still": ("stays still", "does not move", "remains at rest"),
    "grow": ("grows", "gets bigger", "becomes larger"),
    "shrink": ("shrinks", "gets smaller", "becomes smaller"),
    "appear": ("appears", "shows up", "comes into view"),
    "disappear": ("disappears", "vanishes", "goes out of view"),
    "jump_dark": ("jumps and then goes dark", "first hops, then turns dark"),
    "dark_jump": ("goes dark and then jumps", "first turns dark, then hops"),
}
FILLERS = ("so", "well", "okay", "you know", "right", "um", "now", "and", "look")
OFF_TOPIC = (
    "thanks for watching and see you next week",
    "do not forget to subscribe to the channel",
    "my sister called me about the weekend",
    "this part was recorded on another day",
    "the music is by a friend of mine",
    "let me tell you a story about my neighbour",
    "we had pasta and it was really good",
    "the weather report said rain tomorrow",
    "leave your questions in the comments",
    "I need a new chair for this room",
)
CAPTION_ERROR_RATE = 0.05
WORD_LOSS_RATE = 0.12


def caption(scenario: Scenario, rng: np.random.Generator) -> str:
    """A complete description of the clip: object, scene and event, in one of four forms with synonyms."""
    who, does, where = _clause(scenario, rng)
    forms = [f"{who} {does} {where}", f"we see how {who} {does} {where}"]
    if where:
        forms += [f"{where}, {who} {does}", f"{who} {where} {does}"]
    return pick(forms, rng).strip()


def training_captions(scenario: Scenario, rng: np.random.Generator) -> tuple[str, str, str]:
    """Three captions of one clip, as different people write them: a complete one, one that leaves out the scene or
    the object, one of the event alone.

    The last kind matters: the static part of this world is so large that a clip and its reversal seldom share a
    batch; were every caption complete, nothing but that rare meeting would teach the order of frames.
    """
    who, does, where = _clause(scenario, rng)
    less = pick((f"{who} {does}", f"something {does} {where}"), rng).strip()
    return caption(scenario, rng), less, f"it {_clause(scenario, rng)[1]}"


def auxiliary_caption(scenario: Scenario, take: Take, rng: np.random.Generator) -> str:
    """What an image captioner says of the middle frame; no word of motion, the wrong shape in 5 % of cases."""
    shown = middle_frame(scenario, take)
    where = pick(PLACES[shown.scene], rng)
    if not shown.shape:
        return f"an empty place {where}"
    shape = misname(shown.shape, SHAPES, rng)
    forms = ("a {c} {s} {w}", "there is a {c} {s} {w}", "a picture of a {c} {s} {w}")
    return pick(forms, rng).format(c=shown.color, s=pick(NAMES[shape], rng), w=where)


def alt_text(scenario: Scenario, take: Take, rng: np.random.Generator) -> str:
    """The web page's text for a still image: size and position words, another style than the captions'."""
    size = "small" if take.radius < 10 else "large"
    side = "left" if take.x < SIZE / 2 else "right"
    thing = f"{scenario.color} {pick(NAMES[scenario.shape], rng)}"
    where = pick(PLACES[scenario.scene], rng)
    forms = ("{z} {t} {w}, {d} side", "photo: {t} ({z}), {d}, {w}", "{t} {w}", "{w}: one {z} {t}")
    return pick(forms, rng).format(z=size, t=thing, w=where, d=side)


def subtitle(scenario: Scenario, others: Sequence[Scenario], rng: np.random.Generator) -> str:
    """What is said over the clip: 40 % relevant but partial, 20 % about another clip, 40 % off-topic."""
    kind = rng.random()
    if kind < 0.6:
        subject = scenario if kind < 0.4 else pick(others, rng)
        parts = list(_clause(subject, rng))
        del parts[rng.integers(3)]
        said = " ".join(parts)
    else:
        said = pick(OFF_TOPIC, rng)
    return speak(said, FILLERS, rng, garbled=True)


def _clause(scenario: Scenario, rng: np.random.Generator) -> tuple[str, str, str]:
    """(who, does, where); a change of scene is part of `does`, and `where` is then empty."""
    name = pick(NAMES[scenario.shape], rng)
    article = pick(("a", "the"), rng)
    who, where = f"{article} {scenario.color} {name}", pick(PLACES[scenario.scene], rng)
    match scenario.event:
        case "recolor":
            change = pick(("turns from {a} to {b}", "is {a} and then {b}"), rng)
            return f"{article} {name}", change.format(a=scenario.color, b=scenario.target), where
        case "reshape":
            change = pick(("turns into a {b}", "becomes a {b}"), rng)
            return who, change.format(b=pick(NAMES[scenario.target], rng)), where
        case "rescene":
            there = pick(PLACES[scenario.target], rng)
            return who, pick((f"is first {where} and then {there}", f"is {where} and later {there}"), rng), ""
    return who, pick(VERBS[scenario.event], rng), where


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of the options, all alike likely."""
    return options[int(rng.integers(len(options)))]


def misname(shape: str, shapes: Iterable[str], rng: np.random.Generator) -> str:
    """What an image captioner takes a shape for: another one in 5 % of cases."""
    if rng.random() < CAPTION_ERROR_RATE:
        return pick([other for other in shapes if other != shape], rng)
    return shape


def speak(said: str, fillers: Sequence[str], rng: np.random.Generator, *, garbled: bool = False) -> str:
    """What is heard of a sentence: one word in eight is lost, or garbled in half of these cases; fillers come in."""
    words: list[str] = []
    for word in said.split():
        if rng.random() >= WORD_LOSS_RATE:
            words.append(word)
        elif garbled and rng.random() < 0.5:
            words.append(_garble(word, rng))
    for _ in range(int(rng.integers(3))):
        words.insert(int(rng.integers(len(words) + 1)), pick(fillers, rng))
    return " ".join(words) or pick(fillers, rng)


def _garble(word: str, rng: np.random.Generator) -> str:
    letters = list(word)
    i = int(rng.integers(len(letters)))
    letters[i] = "abcdefghijklmnopqrstuvwxyz"[rng.integers(26)]
    return "".join(letters)
