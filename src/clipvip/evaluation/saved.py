"""Ranks query by query in a file (JSON Lines), and two such files compared on the same queries.

A line: {"direction": "t2v" | "v2t", "query": number, "text", "clip_id", "rank": {kind: rank}, "ties": policy, "score",
"best", "best_score"}. Text and clip_id belong together: in t2v the query and its video, in v2t the query and its best
caption. "score" is theirs, "best" and "best_score" the first answer's (a clip_id in t2v, a text in v2t), all raw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.errors import InputError
from clipvip.evaluation.intervals import METRICS, Interval, paired_difference
from clipvip.evaluation.metrics import DIRECTIONS, Direction
from clipvip.evaluation.protocol import Retrieval, RivalCounts
from clipvip.files import parse_json, replacing


def write_ranks(path: Path, retrieval: Retrieval, rivals: RivalCounts, ties: str) -> None:
    """One line per query, t2v first; the file takes its name when it is complete. rivals: of `rank_retrieval`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in _rows(retrieval, _ranks(rivals, ties), ties):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class SavedRanks:
    """What a file holds. queries: by direction, what makes two files comparable; ranks: by kind and direction, [Q]."""

    path: Path
    ties: str
    queries: Mapping[str, list[tuple[str, ...]]]
    ranks: Mapping[str, Mapping[Direction, np.ndarray]]


def read_ranks(path: Path) -> SavedRanks:
    """What `write_ranks` wrote. Raises: InputError naming the file and line that is something else."""
    queries: dict[str, list[tuple[str, ...]]] = {direction: [] for direction in DIRECTIONS}
    ranks: dict[str, dict[Direction, list[float]]] = {}
    policies: set[str] = set()
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = parse_json(line)
                direction = DIRECTIONS[DIRECTIONS.index(row["direction"])]
                queries[direction].append(_query(direction, row["clip_id"], row["text"]))
                for kind, rank in row["rank"].items():
                    ranks.setdefault(kind, {}).setdefault(direction, []).append(float(rank))
                policies.add(row["ties"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(f"{path}, line {number}: no rank as `clipvip evaluate --ranks` writes them") from None
    if len(policies) != 1:
        raise InputError(f"{path}: ranks under {len(policies)} policies of ties, expected one; write it again")
    arrays = {kind: {way: np.array(of) for way, of in directions.items()} for kind, directions in ranks.items()}
    return SavedRanks(path, policies.pop(), queries, arrays)


def differences(
    retrieval: Retrieval, rivals: RivalCounts, ties: str, other: SavedRanks
) -> dict[str, dict[Direction, dict[str, Interval]]]:
    """Ours minus the other's, paired query by query, for every kind of score that both have.

    Raises: InputError if the other was not asked the same queries, in the same order, under the same policy of ties.
    """
    if other.ties != ties:
        raise InputError(
            f"{other.path}: ranks with ties={other.ties}, these have ties={ties}; evaluate one of them again"
        )
    ours = _queries(retrieval)
    for direction in DIRECTIONS:
        if ours[direction] != other.queries[direction]:
            raise InputError(
                f"{other.path}: its {len(other.queries[direction]):,} {direction} queries are not these "
                f"{len(ours[direction]):,}, in this order; both models must be evaluated on the same clips and captions"
            )
    compared: dict[str, dict[Direction, dict[str, Interval]]] = {}
    for kind, directions in _ranks(rivals, ties).items():
        if kind in other.ranks:
            compared[kind] = {}
            for way, ranks in directions.items():
                theirs, groups = other.ranks[kind][way], retrieval.groups(way)
                compared[kind][way] = {name: paired_difference(ranks, theirs, name, groups) for name in METRICS}
    return compared


def _ranks(rivals: RivalCounts, ties: str) -> dict[str, dict[Direction, np.ndarray]]:
    return {kind: {way: counts.ranks(ties) for way, counts in ways.items()} for kind, ways in rivals.items()}


def _queries(retrieval: Retrieval) -> dict[Direction, list[tuple[str, ...]]]:
    """By direction, what a query is."""
    names = [clip.clip_id for clip in retrieval.clips]
    pairs = zip(retrieval.texts, retrieval.text_to_video, strict=True)
    return {
        "t2v": [_query("t2v", names[owner], text) for text, owner in pairs],
        "v2t": [_query("v2t", names[video], "") for video in np.unique(retrieval.text_to_video)],
    }


def _query(direction: Direction, clip_id: str, text: str) -> tuple[str, ...]:
    return (clip_id, text) if direction == "t2v" else (clip_id,)


def _rows(
    retrieval: Retrieval, ranks: Mapping[str, Mapping[Direction, np.ndarray]], ties: str
) -> Iterator[dict[str, Any]]:
    scores, owners = retrieval.similarity, retrieval.text_to_video
    names, texts = [clip.clip_id for clip in retrieval.clips], retrieval.texts
    true = scores[np.arange(len(owners)), owners]  # [N]
    best_own = {int(owners[text]): int(text) for text in np.argsort(true, kind="stable")}  # the last one stays
    videos = np.unique(owners)
    pairs: dict[Direction, Iterable[tuple[int, int, int]]] = {  # text, video, and the first answer
        "t2v": zip(range(len(owners)), owners, scores.argmax(axis=1), strict=True),
        "v2t": zip((best_own[int(video)] for video in videos), videos, scores.argmax(axis=0)[videos], strict=True),
    }
    for direction, found in pairs.items():
        for query, (text, video, best) in enumerate(found):
            place = (text, best) if direction == "t2v" else (best, video)
            yield {
                "direction": direction,
                "query": query,
                "text": texts[text],
                "clip_id": names[video],
                "rank": {kind: float(of[direction][query]) for kind, of in ranks.items() if direction in of},
                "ties": ties,
                "score": float(scores[text, video]),
                "best": names[best] if direction == "t2v" else texts[best],
                "best_score": float(scores[place]),
            }
