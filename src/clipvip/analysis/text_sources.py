"""Texts to analyse: lines of a file, a field of a manifest, or the text rows of embedding sets.

Files are read as a stream, once to count and once to pick: memory holds what was picked, however long they are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipvip.data import iter_manifest
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip

if TYPE_CHECKING:
    from clipvip.embedding_sets import EmbeddingSet

FIELDS = ("captions", "subtitle", "caption")


@dataclass(frozen=True, slots=True)
class TextSource:
    """Where texts are from. name: what tables and figures call it. num_texts: how many there are.

    field: of a manifest or embedding set; None for a text file. stored: the embedding set, if it is one.
    """

    name: str
    path: Path
    field: str | None
    num_texts: int
    stored: EmbeddingSet | None = None

    def pick(self, numbers: np.ndarray) -> list[str]:
        """The texts with these numbers, increasing, from 0 in the order of the file."""
        wanted = set(numbers.tolist())
        return [text for number, text in enumerate(_texts(self.path, self.field, self.stored)) if number in wanted]

    def vectors(self, numbers: np.ndarray) -> np.ndarray | None:
        """Stored features of these texts, [N, E]; None if there are only texts."""
        return None if self.stored is None or self.field is None else self.stored.rows(self.field)[1][numbers]

    def draw(self, num_texts: int, seed: int, number: int) -> np.ndarray:
        """Numbers of `num_texts` different texts, drawn from all alike: a function of seed, draw and name alone.

        Raises: ManifestError if there are not as many.
        """
        if num_texts > self.num_texts:
            raise ManifestError(
                f"{self.name}: {self.num_texts:,} texts, but a draw takes {num_texts:,}; "
                f"give --num-texts {self.num_texts} or less, or another source"
            )
        key = int.from_bytes(hashlib.blake2b(self.name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        return np.random.default_rng([seed, number, key]).choice(self.num_texts, num_texts, replace=False)


def open_sources(specs: Sequence[str]) -> list[TextSource]:
    """Sources as `clipvip analyse gap` takes them: [NAME=]PATH[:FIELD].

    PATH: a .txt file (one text a line), a manifest (.jsonl), or a folder that `clipvip encode` made. FIELD: captions,
    subtitle or caption; without it, the one field that has texts.
    Raises: UsageError, ManifestError.
    """
    sources = [_open(spec) for spec in specs]
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            raise UsageError(f"{count} sources are called {name!r}: give them names of their own, as NAME=PATH")
    return sources


def _open(spec: str) -> TextSource:
    name, path, field = _parse(spec)
    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder of texts")
    if path.suffix == ".txt":
        if field is not None:
            raise UsageError(f"{spec}: a .txt file has no fields; leave out :{field}")
        return TextSource(name or path.stem, path, None, sum(1 for _ in _texts(path, None, None)))
    stored = None
    if path.is_dir():
        from clipvip.embedding_sets import open_embeddings

        stored = open_embeddings(path)
    elif path.suffix != ".jsonl":
        raise UsageError(f"{path}: expected .txt (a text a line), .jsonl (a manifest), or a folder of clipvip encode")
    counts = _count(path, stored)
    field = field or _only_field(path, counts)
    if not counts[field]:
        there = ", ".join(f"{other} {count:,}" for other, count in counts.items() if count) or "none at all"
        raise ManifestError(f"{path}: no texts in field {field!r} (texts there: {there})")
    return TextSource(name or f"{path.name.removesuffix('.jsonl')}:{field}", path, field, counts[field], stored)


def _parse(spec: str) -> tuple[str | None, Path, str | None]:
    """NAME, PATH and FIELD. A file that is there is taken as it is, whatever its name holds."""
    if Path(spec).exists():
        return None, Path(spec), None
    place, mark, field = spec.rpartition(":")
    known = bool(mark) and field in FIELDS
    if not known:
        place = spec
    if not Path(place).exists() and "=" in place:
        name, _, place = place.partition("=")
        if not name:
            raise UsageError(f"{spec}: no name before the '='; write NAME=PATH")
    else:
        name = ""
    if not known and mark and Path(place.rpartition(":")[0]).exists():
        raise UsageError(f"{spec}: unknown field {field!r}; choose {', '.join(FIELDS)}")
    return name or None, Path(place), field if known else None


def _only_field(path: Path, counts: Mapping[str, int]) -> str:
    filled = [field for field in FIELDS if counts[field]]
    if not filled:
        raise ManifestError(f"{path}: no texts (none of the fields {', '.join(FIELDS)})")
    if len(filled) > 1:
        raise UsageError(f"{path}: has {' and '.join(filled)}; say which, as {path}:{filled[0]}")
    return filled[0]


def _count(path: Path, stored: EmbeddingSet | None) -> dict[str, int]:
    """Texts by field."""
    if stored is not None:
        counts = Counter(stored.table["field"].to_pylist())
    else:
        counts = Counter(field for clip in iter_manifest(path, unique=False) for field, _ in _of_clip(clip))
    return {field: counts[field] for field in FIELDS}


def _texts(path: Path, field: str | None, stored: EmbeddingSet | None) -> Iterator[str]:
    if field is None:
        try:
            with path.open(encoding="utf-8-sig") as file:
                yield from (line.strip() for line in file if line.strip())
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path}: not UTF-8 text: {error}") from None
    elif stored is not None:
        yield from stored.rows(field)[0]["text"].to_pylist()
    else:
        for clip in iter_manifest(path, unique=False):
            yield from (text for name, text in _of_clip(clip) if name == field)


def _of_clip(clip: Clip) -> Iterator[tuple[str, str]]:
    for field, texts in zip(FIELDS, (clip.captions, (clip.subtitle,), (clip.caption,)), strict=True):
        yield from ((field, text) for text in texts if text and text.strip())
