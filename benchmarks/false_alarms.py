"""Is the rate of false alarms the one that was asked for? Libraries of a demo's world, each without something.

Each library holds the demo's test and validation videos, less those that show one of the colours, less those that show
one of the scenes, less a --share of the others: each thing in these is there, their combination is not. Queries are
captions of what is missing (found: a false alarm) and of what is there (found: power). Background queries are those
that come with clipvip, then near misses: half of the captions of missing combinations, of which the other half are
queries. Those are exactly like each other, as the test wants it.

    clipvip demo --out runs/demo
    python benchmarks/false_alarms.py runs/demo --out runs/false-alarms
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measure import describe, table
from scipy.stats import binom

from clipvip.data.manifest import read_manifest
from clipvip.data.synthetic import COLORS, SCENES, Scenario, split_scenarios
from clipvip.encode import Encoder, load
from clipvip.records import Clip
from clipvip.search import Library, Query, Term, default_texts

RATE = 0.05
COMBINATION = "a combination"
KINDS = ("a colour", "a scene", COMBINATION, "nothing")
"""What the library lacks of what the query asks for."""
BANKS = ("clipvip's", "near misses")


def main() -> None:
    """Make libraries, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="A finished demo.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the libraries; those there are kept.")
    parser.add_argument("--libraries", type=int, default=20)
    parser.add_argument("--queries", type=int, default=25, help="Of each kind, to each library (%(default)s).")
    parser.add_argument("--share", type=float, default=0.2, help="Of combinations that are missing (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    encoder = load(given.demo / "model")
    clips, scenarios = read_held_out(given.demo / "world")
    found: dict[tuple[str, str], list[bool]] = {(bank, kind): [] for bank in BANKS for kind in KINDS}
    for number in range(given.libraries):
        rng = np.random.default_rng([given.seed, number])
        is_drawn = rng.random(len(scenarios)) < given.share
        lacks = what_is_missing(scenarios, COLORS[number % len(COLORS)], SCENES[number % len(SCENES)], is_drawn)
        library = Library(given.out / f"library{number:02d}", encoder)
        library.add([clip.path for clip, kind in zip(clips, lacks, strict=True) if kind == "nothing"])
        texts = {kind: captions_in_any_order(clips, lacks, kind, rng) for kind in KINDS}
        half = len(texts[COMBINATION]) // 2
        banks = dict(zip(BANKS, (default_texts(), texts[COMBINATION][:half]), strict=True))
        texts[COMBINATION] = texts[COMBINATION][half:]
        asked = {kind: terms_of(of_kind[: given.queries], encoder) for kind, of_kind in texts.items()}
        for bank, background in banks.items():
            library.set_background(background)
            for kind in KINDS:
                wanted = (Query(terms=(term,), k=1, merge=False, false_alarm=RATE) for term in asked[kind])
                found[bank, kind] += [library.search(query).found for query in wanted]
    report(found)


def read_held_out(world: Path) -> tuple[list[Clip], list[Scenario]]:
    """Test and validation clips, and what each shows."""
    facts = json.loads((world / "world.json").read_text())
    splits = split_scenarios(facts["seed"], facts["size"]["val"], facts["size"]["test"])
    shown = {f"test{i:05d}": scenario for i, scenario in enumerate(splits.test)}
    shown |= {f"val{i:05d}": scenario for i, scenario in enumerate(splits.val)}
    clips = [clip for clip in read_manifest(world / "retrieval.jsonl") if clip.clip_id in shown]
    return clips, [shown[clip.clip_id] for clip in clips]


def what_is_missing(scenarios: Sequence[Scenario], color: str, scene: str, is_drawn: np.ndarray) -> list[str]:
    """Of each scenario, what a library without this colour, this scene and those that are drawn lacks of it.

    One of KINDS, or "" for two of them.
    """
    lacks = []
    for scenario, drawn in zip(scenarios, is_drawn, strict=True):
        is_colored = color in (scenario.color, scenario.target)
        is_placed = scene in (scenario.scene, scenario.target)
        if is_colored and is_placed:
            lacks.append("")
        else:
            lacks.append(KINDS[0] if is_colored else KINDS[1] if is_placed else COMBINATION if drawn else KINDS[3])
    return lacks


def captions_in_any_order(
    clips: Sequence[Clip], lacks: Sequence[str], kind: str, rng: np.random.Generator
) -> list[str]:
    """Of the clips of a kind."""
    texts = [clip.captions[0] for clip, lack in zip(clips, lacks, strict=True) if lack == kind]
    return [texts[i] for i in rng.permutation(len(texts))]


def terms_of(texts: Sequence[str], encoder: Encoder) -> list[Term]:
    """The texts, encoded together."""
    return [Term(text=text, vector=vector) for text, vector in zip(texts, encoder.encode_texts(texts), strict=True)]


def report(found: dict[tuple[str, str], list[bool]]) -> None:
    """Print shares, each beside what chance allows at the rate that was asked for."""
    print(describe(torch.device("cpu"), f"--false-alarm {RATE}"))
    rows = []
    for (bank, kind), answers in found.items():
        low, high = (binom.ppf(level, len(answers), RATE) / len(answers) for level in (0.025, 0.975))
        share = float(np.mean(answers))
        verdict = "below" if share < low else "inside" if share <= high else "above"
        is_null = kind != "nothing"
        interval = [f"{100 * low:.1f} to {100 * high:.1f}", verdict] if is_null else ["", "power"]
        rows.append([bank, kind, str(len(answers)), f"{100 * share:.1f}", *interval])
    table(
        "False alarms",
        ["background queries", "the library lacks", "queries", "found, %", f"95 % of chance at {100 * RATE:g} %", ""],
        rows,
        "One row a bank and a kind of query, over all libraries.",
    )


if __name__ == "__main__":
    main()
