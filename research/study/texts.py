"""The texts of the study's clips: captions, paragraphs, auxiliary captions, alt texts, subtitles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipvip.data.synthetic import misname, pick, speak
from study.families import Family
from study.world import Scenario, state_of

MIDDLE_FRAME = 2
"""What auxiliary captions describe: int(frames / 2)."""


def sentence(scenario: Scenario, asked: str, family: Family, rng: np.random.Generator) -> str:
    """One sentence that describes the attributes asked for, all of them."""
    return ", ".join(_parts(scenario, asked, family, rng))


def partial_sentences(scenario: Scenario, asked: str, family: Family, rng: np.random.Generator) -> list[str]:
    """What people write who leave out what a still picture shows: what happens, all of it or one thing of it."""
    happens = [attribute for attribute in asked if attribute != "A"]
    kept = ["".join(happens), *happens] if len(happens) > 1 else happens
    return [sentence(scenario, attributes, family, rng) for attributes in kept]


def paragraph(scenario: Scenario, asked: str, family: Family, rng: np.random.Generator) -> list[str]:
    """Several sentences, one for each thing to say; the order of the states is that of their sentences."""
    said = [part for part in _parts(scenario, asked.replace("O", ""), family, rng) if part]
    if "O" in asked:
        said += [pick(family.states[state], rng) for state in scenario.states]
    return [f"{part} ." for part in said]


def alt_text(scenario: Scenario, frame: int, sides: Sequence[int], family: Family, rng: np.random.Generator) -> str:
    """The web's text for a still picture: objects, where they are, and the state, in a style of its own.

    sides: of each object, 0 or 1: the words for places are those for motions, as CLIP knows "left" from pictures alone.
    """
    seen = [
        f"{thing.color} {thing.shape} {pick(family.drifts[side], rng)}"
        for thing, side in zip(scenario.things, sides, strict=True)
    ]
    state = state_of(scenario, frame)
    if state is not None:
        seen.insert(int(rng.integers(2)), pick(family.states[state], rng))
    return pick(("photo : {}", "{} - picture", "{}"), rng).format(" ; ".join(seen))


def auxiliary_caption(scenario: Scenario, family: Family, rng: np.random.Generator) -> str:
    """What an image captioner says of the middle frame: no motion, no order; the wrong shape in 5 % of cases."""
    state = state_of(scenario, MIDDLE_FRAME)
    said = []
    for thing in scenario.things:
        said.append(f"a {thing.color} {misname(thing.shape, family.shapes, rng)}")
    if state is not None:
        said.append(pick(family.states[state], rng))
    return pick(("{}", "a picture of {}", "we see {}"), rng).format(" and ".join(said))


def subtitle(
    scenario: Scenario, others: Sequence[Scenario], relevance: float, family: Family, rng: np.random.Generator
) -> str:
    """What is said over a clip: about it with probability `relevance`, then two of its three attributes; else about
    another clip (a third) or something else (two thirds). One word in eight is lost, fillers come in.
    """
    draw = rng.random()
    about = scenario if draw < relevance else others[int(rng.integers(len(others)))]
    if draw < relevance + (1 - relevance) / 3:
        said = " ".join(_parts(about, pick(("AM", "AO", "MO"), rng), family, rng))
    else:
        said = pick(family.sayings, rng)
    return speak(said, family.fillers, rng)


def _parts(scenario: Scenario, asked: str, family: Family, rng: np.random.Generator) -> list[str]:
    """Clauses: the objects and their motions, then the order of states."""
    clauses = []
    for thing in scenario.things if set(asked) & set("AM") else ():
        words = []
        if "A" in asked or not scenario.states:  # of several objects, each motion needs its object
            words.append(pick(family.subject, rng).format(color=thing.color, shape=thing.shape))
        if "M" in asked:
            drift = pick(family.drifts[0 if thing.drift < 0 else 1], rng)
            words.append(pick(family.moves, rng).format(drift=drift))
        clauses.append(" ".join(words))
    if "O" in asked and scenario.states:
        one, two = (pick(family.states[state], rng) for state in scenario.states)
        clauses.append(pick(family.orders, rng).format(one=one, two=two))
    return clauses
