"""What a search needs to know of an index in a folder, noted next to the cached vectors.

A search whose cache is current then needs none of the tables, and does not import LanceDB, which takes 1 s or more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipvip.files import parse_json
from clipvip.search.index import integrity
from clipvip.search.index._lance import is_remote
from clipvip.search.index.checksums import open_checked, write_checked
from clipvip.search.index.mmap_cache import cache_folder, version_key
from clipvip.search.index.schema import SCHEMA_VERSION, Settings

NAME = "facts.json"


@dataclass(frozen=True)
class Facts:
    """Of one version of the table of segments.

    manifest, state: the file that makes this version, its size and checksum. key: as `version_key`.
    """

    manifest: str
    state: list[int]
    version: int
    key: str
    num_rows: int
    settings: Settings


def read_facts(uri: str) -> Facts | None:
    """None if they were not noted, are damaged, or the index has changed since."""
    if is_remote(uri):
        return None
    try:
        values = parse_json(open_checked(cache_folder(uri) / NAME).to_pybytes())
        facts = Facts(**values | {"settings": Settings.of(values["settings"])})
        readable = facts.settings.schema_version <= SCHEMA_VERSION
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not readable:
        return None
    newest = integrity.newest_manifest(Path(uri), "segments")
    try:
        current = newest is not None and newest.name == facts.manifest and integrity.state_of(newest) == facts.state
    except FileNotFoundError:  # another process removes an old version
        return None
    return facts if current else None


def note_facts(uri: str, table: Any, settings: Settings) -> None:
    """Note those of the newest version of the segments, if `table` is that one. A full disk is no error."""
    if is_remote(uri):
        return
    newest = integrity.newest_manifest(Path(uri), "segments")
    if newest is None or integrity.version_of(newest.name) != table.version:
        return
    try:
        state = integrity.state_of(newest)
        key, num_rows = version_key(table), table.count_rows()
        facts = Facts(newest.name, state, table.version, key, num_rows, settings)
        write_checked(cache_folder(uri) / NAME, json.dumps(asdict(facts)).encode())
    except OSError:
        pass
