"""The texts of the study's clips: captions, paragraphs, auxiliary captions, alt texts, subtitles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from study.families import Family
from study.world import Told, state_of

MIDDLE_FRAME = 2
"""What auxiliary captions describe: int(frames / 2)."""
CAPTION_ERROR_RATE = 0.05
WORD_LOSS_RATE = 0.12


def sentence(told: Told, asked: str, family: Family, rng: np.random.Generator) -> str:
    """One sentence that tells the attributes asked for, all of them."""
    return ", ".join(_parts(told, asked, family, rng))


def partial_sentences(told: Told, asked: str, family: Family, rng: np.random.Generator) -> list[str]:
    """What people write who leave out what a still picture shows: what happens, all of it or one thing of it."""
    happens = [attribute for attribute in asked if attribute != "A"]
    kept = ["".join(happens), *happens] if len(happens) > 1 else happens
    return [sentence(told, attributes, family, rng) for attributes in kept]


def paragraph(told: Told, asked: str, family: Family, rng: np.random.Generator) -> list[str]:
    """Several sentences, one for each thing to tell; the order of the states is that of their sentences."""
    said = [part for part in _parts(told, asked.replace("O", ""), family, rng) if part]
    if "O" in asked:
        said += [_pick(family.states[state], rng) for state in told.states]
    return [f"{part} ." for part in said]


def alt_text(told: Told, frame: int, sides: Sequence[int], family: Family, rng: np.random.Generator) -> str:
    """The web's text for a still picture: objects, where they are, and the state, in a style of its own.

    sides: of each object, 0 or 1: the words for places are those for motions, as CLIP knows "left" from pictures alone.
    """
    seen = [
        f"{thing.color} {thing.shape} {_pick(family.drifts[side], rng)}"
        for thing, side in zip(told.things, sides, strict=True)
    ]
    state = state_of(told, frame)
    if state is not None:
        seen.insert(int(rng.integers(2)), _pick(family.states[state], rng))
    return _pick(("photo : {}", "{} - picture", "{}"), rng).format(" ; ".join(seen))


def auxiliary_caption(told: Told, family: Family, rng: np.random.Generator) -> str:
    """What an image captioner says of the middle frame: no motion, no order; the wrong shape in 5 % of cases."""
    state = state_of(told, MIDDLE_FRAME)
    said = []
    for thing in told.things:
        shape = thing.shape
        if rng.random() < CAPTION_ERROR_RATE:
            shape = _pick([other for other in family.shapes if other != shape], rng)
        said.append(f"a {thing.color} {shape}")
    if state is not None:
        said.append(_pick(family.states[state], rng))
    return _pick(("{}", "a picture of {}", "we see {}"), rng).format(" and ".join(said))


def subtitle(told: Told, others: Sequence[Told], relevance: float, family: Family, rng: np.random.Generator) -> str:
    """What is said over a clip: about it with probability `relevance`, then two of its three attributes; else about
    another clip (a third) or something else (two thirds). One word in eight is lost, fillers come in.
    """
    draw = rng.random()
    about = told if draw < relevance else others[int(rng.integers(len(others)))]
    if draw < relevance + (1 - relevance) / 3:
        said = " ".join(_parts(about, _pick(("AM", "AO", "MO"), rng), family, rng))
    else:
        said = _pick(family.sayings, rng)
    words = [word for word in said.split() if rng.random() >= WORD_LOSS_RATE]
    for _ in range(int(rng.integers(3))):
        words.insert(int(rng.integers(len(words) + 1)), _pick(family.fillers, rng))
    return " ".join(words) or _pick(family.fillers, rng)


def _parts(told: Told, asked: str, family: Family, rng: np.random.Generator) -> list[str]:
    """Clauses: the objects and their motions, then the order of states."""
    clauses = []
    for thing in told.things if set(asked) & set("AM") else ():
        words = []
        if "A" in asked or not told.states:  # of several objects, each motion needs its object
            words.append(_pick(family.subject, rng).format(color=thing.color, shape=thing.shape))
        if "M" in asked:
            drift = _pick(family.drifts[0 if thing.drift < 0 else 1], rng)
            words.append(_pick(family.moves, rng).format(drift=drift))
        clauses.append(" ".join(words))
    if "O" in asked and told.states:
        one, two = (_pick(family.states[state], rng) for state in told.states)
        clauses.append(_pick(family.orders, rng).format(one=one, two=two))
    return clauses


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
