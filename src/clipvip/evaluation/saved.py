"""Ranks query by query in a file (JSON Lines), and two such files compared on the same queries.

A line: {"direction": "t2v" | "v2t", "query": number, "text", "clip_id", "rank": {kind: rank}, "ties": policy, "score",
"best", "best_score"}. Text and clip_id belong together: in t2v the query and its video, in v2t the query and its best
caption. "score" is theirs, "best" and "best_score" the first answer's (a clip_id in t2v, a text in v2t), all raw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.errors import InputError
from clipvip.evaluation.intervals import METRICS, Interval, paired_difference
from clipvip.evaluation.metrics import DIRECTIONS, Direction
from clipvip.evaluation.protocol import Retrieval
from clipvip.files import parse_json, replacing

Ranks = Mapping[str, Mapping[Direction, np.ndarray]]
"""By kind of score and direction, as `rank_retrieval` gives them."""


def write_ranks(path: Path, retrieval: Retrieval, ranks: Ranks, ties: str) -> None:
    """One line a query, t2v first; the file takes its name when it is complete."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in _rows(retrieval, ranks, ties):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class SavedRanks:
    """What a file holds. queries: by direction, what makes two files comparable; ranks: by kind and direction."""

    path: Path
    ties: str
    queries: Mapping[str, list[tuple[str, ...]]]
    ranks: Ranks


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
    retrieval: Retrieval, ranks: Ranks, ties: str, other: SavedRanks
) -> dict[str, dict[Direction, dict[str, Interval]]]:
    """Ours minus the other's, paired query by query, for every kind of score that both have.

    Raises: InputError if the other was not asked the same queries, in the same order, under the same policy of ties.
    """
    if other.ties != ties:
        raise InputError(
            f"{other.path}: ranks with ties={other.ties}, these have ties={ties}; evaluate one of them again"
        )
    ours = queries_of(retrieval)
    for direction in DIRECTIONS:
        if ours[direction] != other.queries[direction]:
            raise InputError(
                f"{other.path}: its {len(other.queries[direction]):,} {direction} queries are not these "
                f"{len(ours[direction]):,}, in this order; both models must be evaluated on the same clips and captions"
            )
    return {
        kind: {
            direction: {
                name: paired_difference(own, other.ranks[kind][direction], name, groups_of(retrieval, direction))
                for name in METRICS
            }
            for direction, own in directions.items()
        }
        for kind, directions in ranks.items()
        if kind in other.ranks
    }


def groups_of(retrieval: Retrieval, direction: Direction) -> np.ndarray | None:
    """What is drawn together by the bootstrap: the captions of a video; in v2t each video is one query."""
    return retrieval.text_to_video if direction == "t2v" else None


def queries_of(retrieval: Retrieval) -> dict[Direction, list[tuple[str, ...]]]:
    """By direction, what a query is."""
    clips = retrieval.clips
    of_texts = [
        _query("t2v", clips[owner].clip_id, text)
        for text, owner in zip(retrieval.texts, retrieval.text_to_video, strict=True)
    ]
    return {"t2v": of_texts, "v2t": [_query("v2t", clips[video].clip_id, "") for video in _asked(retrieval)]}


def _query(direction: Direction, clip_id: str, text: str) -> tuple[str, ...]:
    return (clip_id, text) if direction == "t2v" else (clip_id,)


def _asked(retrieval: Retrieval) -> np.ndarray:
    """The videos that are v2t queries: those with a caption."""
    return np.unique(retrieval.text_to_video)


def _rows(retrieval: Retrieval, ranks: Ranks, ties: str) -> Iterator[dict[str, Any]]:
    scores, owners = retrieval.similarity, retrieval.text_to_video
    best_video = scores.argmax(axis=1)  # [N]
    for query, owner in enumerate(owners):
        found = best_video[query]
        yield {
            "direction": "t2v",
            "query": query,
            "text": retrieval.texts[query],
            "clip_id": retrieval.clips[owner].clip_id,
            "rank": _of_query(ranks, "t2v", query),
            "ties": ties,
            "score": float(scores[query, owner]),
            "best": retrieval.clips[found].clip_id,
            "best_score": float(scores[query, found]),
        }
    true = scores[np.arange(len(owners)), owners]
    best_own = {int(owners[text]): int(text) for text in np.argsort(true, kind="stable")}  # the last one stays
    best_text = scores.argmax(axis=0)  # [V]
    for query, video in enumerate(_asked(retrieval)):
        own, found = best_own[int(video)], best_text[video]
        yield {
            "direction": "v2t",
            "query": query,
            "text": retrieval.texts[own],
            "clip_id": retrieval.clips[video].clip_id,
            "rank": _of_query(ranks, "v2t", query),
            "ties": ties,
            "score": float(scores[own, video]),
            "best": retrieval.texts[found],
            "best_score": float(scores[found, video]),
        }


def _of_query(ranks: Ranks, direction: Direction, query: int) -> dict[str, float]:
    return {kind: float(of[direction][query]) for kind, of in ranks.items() if direction in of}
