"""Clips out of shards, any of them at any time: one read of a stretch of a tar, here or on an object store.

N clips.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipvip.data.shards.layout import FACTS, FORMAT, INDEX, VERSION
from clipvip.data.shards.store import LocalStore, Store, StrPath, open_store
from clipvip.data.shards.tars import parse_clip, scan_tar, shard_name
from clipvip.errors import ClipVipError, InputError
from clipvip.records import TEXTS, Clip


def block_shuffled(
    num_clips: int, shard_of: np.ndarray, seed: int, epoch: int, block: int = 64, window: int = 32
) -> np.ndarray:
    """The order of one epoch, a pure function: each clip once, another order each epoch, the same on every machine.

    Neighbours of one shard form blocks of at most `block` clips; the blocks are shuffled over the whole set, then the
    clips within each `window` blocks. So at any time reads touch `window` short stretches, however large the set is.

    shard_of: int [N], the shard of each clip.
    Returns: int64 [N]. Raises: InputError if the numbers do not fit together.
    """
    if shard_of.shape != (num_clips,):
        raise InputError(f"shard_of has shape {list(shard_of.shape)}, but there are {num_clips} clips")
    if block < 1 or window < 1:
        raise InputError(f"block and window must be at least 1, not {block} and {window}")
    if num_clips == 0:
        return np.empty(0, np.int64)
    rng = np.random.default_rng([seed, epoch])
    starts = _block_starts(shard_of, block)
    lengths = np.diff(starts, append=num_clips)
    shuffled = rng.permutation(len(starts))
    starts, lengths = starts[shuffled], lengths[shuffled]
    ends = np.cumsum(lengths)  # in the new order
    order = np.arange(num_clips) + np.repeat(starts - (ends - lengths), lengths)
    for first in range(0, len(starts), window):
        last = min(first + window, len(starts)) - 1
        rng.shuffle(order[ends[first] - lengths[first] : ends[last]])
    return order


def _block_starts(shard_of: np.ndarray, block: int) -> np.ndarray:
    """Where blocks begin: at the first clip of a shard, and at every `block`-th one from there on."""
    places = np.arange(len(shard_of))
    first = np.flatnonzero(np.diff(shard_of, prepend=shard_of[0] - 1))
    since = places - np.repeat(first, np.diff(first, append=len(shard_of)))
    return places[since % block == 0]


@dataclass(frozen=True, slots=True)
class _File:
    """A tar, or the index; bytes and sha256 as shards.json has them (None: nobody has said)."""

    store: Store
    path: str
    num_bytes: int | None = None
    sha256: str | None = None


class ShardSet:
    """The clips of a folder that `clipvip data shard` wrote, or of tars that others made (`from_tars`).

    Picklable; every process opens its own files, `store.MAX_OPEN` at most. A `clipvip.data.ClipSource`.
    split: the one it was cut from; None: every line of the manifest.
    """

    split: str | None
    _shards: list[_File]
    _with_text: dict[str, int]
    _index_file: _File | None  # None: the index is nowhere but in memory
    _index: np.ndarray | None
    _sized: set[int]
    _own_ids: dict[int, str]  # of clips whose id an earlier shard has too

    def __init__(self, location: StrPath):
        """location: a folder, or the URL of one that fsspec can open (s3:// and others need its plug-ins).

        Raises: ClipVipError if there are no complete shards; UsageError for a URL that nothing here can open.
        """
        store, root = open_store(location)
        facts = _facts(store, f"{root}/{FACTS}")
        self._shards = [
            _File(store, f"{root}/{entry['name']}", entry["bytes"], entry["sha256"]) for entry in facts["shards"]
        ]
        self.split, self._with_text = facts["settings"]["split"], facts["texts"]
        self._index_file = _File(store, f"{root}/{INDEX}", sha256=facts["index_sha256"])
        self._index, self._sized, self._own_ids = None, set(), {}
        if self.index.shape != (facts["clips"], 3) or self.index.dtype != np.int64:
            raise ClipVipError(
                f"{self._index_file.path}: {self.index.dtype} {list(self.index.shape)} does not fit {FACTS} "
                f"({facts['clips']} clips); copy both there again"
            )

    @classmethod
    def from_tars(cls, paths: Iterable[StrPath]) -> ShardSet:
        """Plain WebDataset tars (img2dataset, video2dataset), scanned once; see `index_tars`.

        Of clips whose id an earlier tar has too the id is TAR/ID, as in `clipvip data import shards`.
        """
        shards = cls.__new__(cls)
        shards.split, shards._shards = None, _tars(paths)
        shards._index, shards._with_text, shards._own_ids = _scanned(shards._shards)
        shards._index_file, shards._sized = None, set()
        return shards

    def __len__(self) -> int:
        return len(self.index)

    @property
    def index(self) -> np.ndarray:
        """int64 [N, 3]: number of the shard, offset and length in bytes; memory-mapped if it is a file here."""
        if self._index is None:
            assert self._index_file is not None
            self._index = _load_index(self._index_file)
        return self._index

    def load(self, index: int) -> tuple[Clip, bytes | list[bytes]]:
        """A clip (its path says where it came from) and its file's bytes, or those of its frames' picture files.

        Raises: IndexError; ClipVipError if a shard is missing or not the one that was written.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number, offset, length = self.index[index].tolist()
        if not 0 <= number < len(self._shards):
            raise ClipVipError(f"clip {index} is in shard {number} of {len(self._shards)}; {INDEX} is of other shards")
        shard = self._shards[number]
        self._check_size(number)
        content = shard.store.read(shard.path, offset, length)
        where = f"{shard.path}, bytes {offset} to {offset + length}"
        if len(content) != length:
            raise ClipVipError(f"{where}: only {len(content)} bytes came back; copy the shard there again")
        clip, media = parse_clip(content, where)
        return replace(clip, clip_id=self._own_ids.get(index, clip.clip_id)), media

    def order(self, seed: int, pass_number: int) -> np.ndarray:
        """The order of one pass, see `block_shuffled`: int64 [N]."""
        return block_shuffled(len(self), self.index[:, 0], seed, pass_number)

    def with_text(self) -> dict[str, int]:
        """How many clips have "captions", a "subtitle", a "caption"."""
        return dict(self._with_text)

    def verify(self, progress: Callable[[int, int], None] = lambda count, total: None) -> None:
        """Read all shards and the index and compare them with the checksums in shards.json.

        progress: is told how many files more are done, and of how many there are.
        Raises: ClipVipError naming those that are damaged or missing; InputError for tars of others.
        """
        if self._index_file is None:
            raise InputError("tars without shards.json have no checksums to compare with")
        files = [*self._shards, self._index_file]
        damaged = []
        for file in files:
            if not _is_whole(file):
                damaged.append(file.path)
            progress(1, len(files))
        if damaged:
            raise ClipVipError(f"{', '.join(damaged)}: missing, or not as it was written; copy it there again")

    def _check_size(self, number: int) -> None:
        """Once a process and shard."""
        shard = self._shards[number]
        if number in self._sized or shard.num_bytes is None:
            return
        size = shard.store.size(shard.path)
        if size not in (shard.num_bytes, None):
            raise ClipVipError(
                f"{shard.path}: {size} bytes, but {FACTS} says {shard.num_bytes}; copy the shard there again"
            )
        self._sized.add(number)

    def __getstate__(self) -> dict[str, Any]:
        mapped = isinstance(self._index, np.memmap)  # pickled it would become an array
        return self.__dict__ | {"_sized": set(), "_index": None if mapped else self._index}


def index_tars(paths: Iterable[StrPath]) -> np.ndarray:
    """Where the clips of plain WebDataset tars stand: int64 [N, 3], number of the tar, offset and length in bytes.

    One pass over each, see `tars.scan_tar`, also for what it raises; InputError if there is not one clip.
    """
    return _scanned(_tars(paths))[0]


def _tars(paths: Iterable[StrPath]) -> list[_File]:
    local = LocalStore()  # one for all: it is what bounds the number of open files
    places = (open_store(path) for path in paths)
    return [_File(local if isinstance(store, LocalStore) else store, path) for store, path in places]


def _scanned(tars: Iterable[_File]) -> tuple[np.ndarray, dict[str, int], dict[int, str]]:
    """The index, how many clips have each kind of text, and ids for those whose own id an earlier tar has."""
    spans: list[tuple[int, int, int]] = []
    seen: set[int] = set()  # hashes of ids
    own_ids: dict[int, str] = {}
    texts = Counter(dict.fromkeys(TEXTS, 0))
    for number, tar in enumerate(tars):
        with tar.store.open(tar.path) as file:
            for start, end, clip in scan_tar(file, tar.path):
                choices = (clip.clip_id, f"{shard_name(tar.path)}/{clip.clip_id}", f"{tar.path}/{clip.clip_id}")
                clip_id = next((name for name in choices if hash(name) not in seen), choices[-1])
                seen.add(hash(clip_id))
                if clip_id != clip.clip_id:
                    own_ids[len(spans)] = clip_id
                spans.append((number, start, end - start))
                texts.update(kind for kind in TEXTS if getattr(clip, kind))
    if not spans:
        raise InputError("there is not one clip in these tars")
    return np.array(spans, np.int64), dict(texts), own_ids


def _facts(store: Store, path: str) -> dict[str, Any]:
    """shards.json. Raises: ClipVipError."""
    try:
        with store.open(path) as file:
            facts: dict[str, Any] = json.load(file)
        if (facts["format"], facts["version"]) == (FORMAT, VERSION):
            return facts
    except ClipVipError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise ClipVipError(
            f"{path}: not there; run `clipvip data shard` again to finish the folder, or name tars that others made "
            "one by one (ShardSet.from_tars)"
        ) from None
    except (ValueError, KeyError, TypeError):
        pass
    raise ClipVipError(f"{path}: damaged, or of another version of clipvip; write the shards again")


def _load_index(file: _File) -> np.ndarray:
    try:
        if isinstance(file.store, LocalStore):
            file.store.size(file.path)  # says so if it is not there
            index: np.ndarray = np.load(file.path, mmap_mode="r", allow_pickle=False)
        else:
            with file.store.open(file.path) as remote:
                index = np.load(io.BytesIO(remote.read()), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ClipVipError(f"{file.path}: damaged ({error}); copy it there again") from error
    return index


def _is_whole(file: _File) -> bool:
    try:
        with file.store.open(file.path) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256  # type: ignore[arg-type]
    except (ClipVipError, OSError):
        return False
