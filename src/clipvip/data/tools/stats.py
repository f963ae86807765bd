"""What is in a manifest: counts, lengths, repeats, and what leaks from train into the other splits.

One pass collects numbers and 64-bit hashes (about 60 bytes a clip and 16 a caption), a second one looks up the few
examples that the report names.

N clips; a caption's or clip's ordinal is its place in the manifest, from 0.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.data.manifest import iter_manifest
from clipvip.data.media import MediaFolder
from clipvip.data.tools._repeats import as_numpy, count_repeats, text_key
from clipvip.errors import ManifestError
from clipvip.records import Clip

NO_SPLIT = "(none)"
_SHOWN = 5
_NO_TEXT = -1  # the one number that is never a hash
_TEXTS = ("captions", "subtitle", "caption")
_LAST_MS = (1 << 36) - 1  # an open end; times of up to 10**8 files then fit into int64, see `_overlap_train`


@dataclass(slots=True)
class _Tally:
    """Everything that is counted on the way through."""

    splits: dict[str, int] = field(default_factory=dict)  # name -> code
    clips: Counter[str] = field(default_factory=Counter)
    carrying: Counter[str] = field(default_factory=Counter)
    per_clip: Counter[int] = field(default_factory=Counter)
    words: dict[str, Counter[int]] = field(default_factory=lambda: {kind: Counter() for kind in _TEXTS})
    durations_s: array = field(default_factory=lambda: array("d"))
    split: array = field(default_factory=lambda: array("i"))  # [N] code
    id_key: array = field(default_factory=lambda: array("q"))  # [N]
    file_key: array = field(default_factory=lambda: array("q"))  # [N] the media file
    span_key: array = field(default_factory=lambda: array("q"))  # [N] the media file and the part of it
    start_ms: array = field(default_factory=lambda: array("q"))  # [N]
    end_ms: array = field(default_factory=lambda: array("q"))  # [N]
    caption_key: array = field(default_factory=lambda: array("q"))  # [captions]
    caption_of: array = field(default_factory=lambda: array("q"))  # [captions] ordinal of the clip
    missing: list[str] = field(default_factory=list)
    num_missing: int = 0

    def add(self, clip: Clip, ordinal: int) -> None:
        name = clip.split or NO_SPLIT
        self.clips[name] += 1
        self.split.append(self.splits.setdefault(name, len(self.splits)))
        self.per_clip[len(clip.captions)] += 1
        texts = {"captions": clip.captions, "subtitle": (clip.subtitle,), "caption": (clip.caption,)}
        for kind in _TEXTS:
            lengths = [len(text.split()) for text in texts[kind] if text]
            self.words[kind].update(lengths)
            self.carrying[kind] += bool(lengths)
        self.carrying["image" if clip.image else "video"] += 1
        start_s, end_s = clip.start_s, clip.end_s
        if start_s is not None or end_s is not None:
            self.carrying["span"] += 1
        if end_s is not None:
            self.durations_s.append(end_s - (start_s or 0.0))
        path = str(clip.path)
        self.id_key.append(hash(clip.clip_id))
        self.file_key.append(hash(path))
        self.span_key.append(hash((path, start_s or 0.0, end_s)))
        self.start_ms.append(min(int((start_s or 0.0) * 1000), _LAST_MS - 1))
        self.end_ms.append(_LAST_MS if end_s is None else min(int(end_s * 1000), _LAST_MS))
        for text in clip.captions:
            self.caption_key.append(text_key(text))
            self.caption_of.append(ordinal)


def manifest_stats(
    path: Path | str,
    *,
    videos: Path | str | None = None,
    watch: Callable[[Iterable[Clip]], Iterable[Clip]] = iter,
) -> dict[str, Any]:
    """What `clipvip data stats` prints, ready for JSON.

    videos: the media folder; the files are then looked for. watch: is handed the clips on their way (progress).
    Raises: ManifestError for a malformed line (a repeated clip_id is counted, not an error), or no clip at all.
    """
    tally = _Tally()
    folder = MediaFolder()
    for ordinal, clip in enumerate(watch(iter_manifest(path, videos=videos, unique=False))):
        tally.add(clip, ordinal)
        if videos is not None and not folder.exists(str(clip.path)):
            tally.num_missing += 1
            if len(tally.missing) < _SHOWN:
                tally.missing.append(str(clip.path))
    if not tally.clips:
        raise ManifestError(f"{path}: no clips")
    duplicates, leaks = _duplicates(tally), _leaks(tally)
    found = [*duplicates.values(), *(leak for kind in leaks.values() for leak in kind.values())]
    _name_examples(found, path, videos)
    return {
        "manifest": str(path),
        "clips": sum(tally.clips.values()),
        "by_split": dict(tally.clips),
        "with": {key: tally.carrying[key] for key in ("video", "image", *_TEXTS, "span")},
        "captions_per_clip": _spread(tally.per_clip),
        "words": {kind: _spread(tally.words[kind]) for kind in _TEXTS},
        "durations_s": _durations(as_numpy(tally.durations_s)),
        "duplicates": duplicates,
        "leaks": leaks,
        "media": {"checked": videos is not None, "missing": tally.num_missing, "examples": tally.missing},
    }


def _duplicates(tally: _Tally) -> dict[str, dict[str, Any]]:
    """What stands more than once; examples are ordinals of clips for now."""
    found = {}
    for kind, keys in (("clip_ids", tally.id_key), ("media", tally.span_key), ("captions", tally.caption_key)):
        values = as_numpy(keys)
        different, together = count_repeats(values)
        _, first = np.unique(values, return_index=True)
        again = np.ones(len(values), bool)
        again[first] = False
        places = np.flatnonzero(again)[:_SHOWN]
        if kind == "captions":
            examples = list(zip(as_numpy(tally.caption_of)[places], values[places], strict=True))
        else:
            examples = [(place, _NO_TEXT) for place in places]
        found[kind] = {"different": different, "together": together, "examples": examples}
    return found


def _leaks(tally: _Tally) -> dict[str, dict[str, dict[str, Any]]]:
    """By split: clips that overlap a training clip, captions that are training captions too."""
    leaks: dict[str, dict[str, dict[str, Any]]] = {"media": {}, "captions": {}}
    if "train" not in tally.splits:
        return leaks
    split = as_numpy(tally.split)
    keys, clip_of = as_numpy(tally.caption_key), as_numpy(tally.caption_of)
    train = split == tally.splits["train"]
    overlapping = _overlap_train(tally, train)
    known = np.isin(keys, np.unique(keys[train[clip_of]]))
    for name, code in tally.splits.items():
        if name not in ("train", NO_SPLIT):
            clips = np.flatnonzero(overlapping & (split == code))
            captions = np.flatnonzero(known & (split[clip_of] == code))
            leaks["media"][name] = {"clips": len(clips), "examples": [(i, _NO_TEXT) for i in clips[:_SHOWN]]}
            examples = [(clip_of[i], keys[i]) for i in captions[:_SHOWN]]
            leaks["captions"][name] = {"captions": len(captions), "examples": examples}
    return leaks


def _overlap_train(tally: _Tally, train: np.ndarray) -> np.ndarray:
    """bool [N]: whether a clip shares a moment of its file with a clip of train.

    All files are laid end to end on one axis, so that a search in sorted numbers answers for all clips at once.
    """
    _, number = np.unique(as_numpy(tally.file_key), return_inverse=True)
    offset = number.astype(np.int64) << 36
    start, end = offset + as_numpy(tally.start_ms), offset + as_numpy(tally.end_ms)
    order = np.argsort(start[train])
    starts, ends = start[train][order], np.maximum.accumulate(end[train][order])
    before = np.searchsorted(starts, end)  # how many training clips begin before this one ends
    return (before > 0) & (ends[np.maximum(before, 1) - 1] > start)


def _name_examples(found: list[dict[str, Any]], path: Path | str, videos: Path | str | None) -> None:
    """Replace ordinals by what people can find: clip ids, files, captions."""
    wanted: dict[int, list[tuple[list[Any], int, int]]] = {}
    for entry in found:
        places = entry["examples"]
        entry["examples"] = [None] * len(places)
        for i, (ordinal, key) in enumerate(places):
            wanted.setdefault(int(ordinal), []).append((entry["examples"], i, int(key)))
    if not wanted:
        return
    last = max(wanted)
    for ordinal, clip in enumerate(iter_manifest(path, videos=videos, unique=False)):
        for examples, i, key in wanted.get(ordinal, ()):
            texts = [text for text in clip.captions if text_key(text) == key]
            examples[i] = {"clip_id": clip.clip_id} | ({"caption": texts[0]} if texts else {"media": str(clip.path)})
        if ordinal == last:
            return


def _spread(counts: Counter[int]) -> dict[str, float] | None:
    """Of numbers given as value -> how often."""
    if not counts:
        return None
    values = np.array(sorted(counts))
    reached = np.cumsum([counts[int(value)] for value in values])
    total = int(reached[-1])

    def quantile(share: float) -> int:
        return int(values[np.searchsorted(reached, share * total)])

    return {
        "num": total,
        "min": int(values[0]),
        "mean": round(sum(value * count for value, count in counts.items()) / total, 2),
        "median": quantile(0.5),
        "p95": quantile(0.95),
        "max": int(values[-1]),
    }


def _durations(seconds: np.ndarray) -> dict[str, float] | None:
    if not len(seconds):
        return None
    low, median, high = np.quantile(seconds, (0, 0.5, 1))
    return {
        "num": len(seconds),
        "min": round(float(low), 3),
        "mean": round(float(seconds.mean()), 3),
        "median": round(float(median), 3),
        "max": round(float(high), 3),
        "total_hours": round(float(seconds.sum()) / 3600, 3),
    }
