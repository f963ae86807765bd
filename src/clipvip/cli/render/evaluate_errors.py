"""The page of `clipvip evaluate --errors N`: the worst text queries, with what was found and what was meant."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from clipvip.cli.progress import progress_bar
from clipvip.cli.render.film_strips import film_strip, still
from clipvip.errors import VideoDecodeError
from clipvip.evaluation import Retrieval
from clipvip.files import replace_text
from clipvip.jobs import prefetch
from clipvip.records import Clip

NUM_FOUND = 3
NUM_FRAMES = 5
SHORT_SIDE = 96


def write_errors(path: Path, found: Retrieval, ranks: np.ndarray, report: dict[str, Any], num: int) -> int:
    """Render the `num` text queries with the highest ranks above 1 as one self-contained HTML file.

    ranks: of t2v by raw score, [Q]. A clip whose file cannot be read (any more) is shown without its strip.
    Returns: how many there are, at most `num`.
    """
    queries = [_query(found, ranks, query) for query in _worst(found, ranks, num)]
    shown = list(dict.fromkeys(hit["video"] for query in queries for hit in [query["meant"], *query["hits"]]))
    with progress_bar("film strips") as told:
        strips = {}
        for video, strip in zip(shown, prefetch(_strip, [found.clips[video] for video in shown], ahead=8), strict=True):
            strips[video] = strip
            told(1, len(shown))
    template = (resources.files("clipvip") / "cli" / "render" / "evaluate_errors.html").read_text(encoding="utf-8")
    html = (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(template)
        .render(
            queries=queries,
            strips=strips,
            report=report,
            num_wrong=int((ranks > 1).sum()),
        )
    )
    replace_text(path, html)
    return len(queries)


def _worst(found: Retrieval, ranks: np.ndarray, num: int) -> np.ndarray:
    """The queries of highest rank; among equals, those that prefer their first answer most."""
    true = found.similarity[np.arange(len(ranks)), found.text_to_video]
    margin = found.similarity.max(axis=1) - true
    order = np.lexsort((-margin, -ranks))
    return order[ranks[order] > 1][:num]


def _query(found: Retrieval, ranks: np.ndarray, query: int) -> dict[str, Any]:
    owner = int(found.text_to_video[query])
    order = np.argsort(-found.similarity[query], kind="stable")[:NUM_FOUND]
    return {
        "text": found.texts[query],
        "rank": f"{ranks[query]:g}",
        "meant": _hit(found, query, owner),
        "hits": [_hit(found, query, int(video)) | {"right": int(video) == owner} for video in order],
    }


def _hit(found: Retrieval, query: int, video: int) -> dict[str, Any]:
    clip = found.clips[video]
    return {
        "video": video,
        "clip_id": clip.clip_id,
        "score": float(found.similarity[query, video]),
        "caption": clip.captions[0],
        "more": len(clip.captions) - 1,
    }


def _strip(clip: Clip) -> dict[str, str]:
    """{"image": data URI} or {"problem": reason}."""
    try:
        if clip.image is not None:
            return {"image": still(clip.image, short_side=SHORT_SIDE)}
        return {"image": film_strip(clip.path, clip.time_range, num_frames=NUM_FRAMES, short_side=SHORT_SIDE)}
    except VideoDecodeError as error:
        return {"problem": str(error)}
