"""Searches without the tables of an index: only while what was noted of them is true."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import clipvip
from clipvip.encode import Encoder
from clipvip.files import parse_json
from clipvip.search import Library, Results
from clipvip.search.index import integrity
from clipvip.search.index.integrity import open_checked, write_checked
from clipvip.search.index.mmap_cache import FACTS, cache_folder, read_facts
from helpers_corrupt import write_index
from helpers_model import write_model
from helpers_video import write_video


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_index(folder, encoder)
    shutil.rmtree(cache_folder(str(folder / "index")), ignore_errors=True)
    return folder


@pytest.fixture
def index(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source / "index", tmp_path / "index"))


def search(index: Path, encoder: Encoder) -> tuple[Results, bool]:
    """A search by a new library, and whether it opened the table of segments."""
    library = Library(index, encoder)
    results = library.search("a red circle", k=1000)
    return results, library.store.facts is None


def test_a_second_search_opens_no_table(index: Path, encoder: Encoder) -> None:
    """Catches facts that are never used, or give other answers."""
    first, opened = search(index, encoder)
    assert opened
    second, opened_again = search(index, encoder)
    assert not opened_again
    assert second == first


def test_a_change_of_the_index_is_seen(index: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Catches answers from before the last commit, of another process or another program."""
    before, _ = search(index, encoder)
    (tmp_path / "more").mkdir()
    write_video(tmp_path / "more" / "new.mp4", 30)
    Library(index, encoder).add(tmp_path / "more")
    after, opened = search(index, encoder)
    assert opened
    assert len(after) > len(before)
    assert not search(index, encoder)[1]
    Library(index, encoder).forget(tmp_path / "more")
    assert search(index, encoder) == (before, True)


def test_tables_of_the_same_version_number_are_told_apart(index: Path, source: Path, encoder: Encoder) -> None:
    """Catches an index that was removed and made again, whose versions count from 1 again."""
    search(index, encoder)
    facts = read_facts(str(index))
    assert facts is not None
    shutil.rmtree(index / "segments.lance")
    shutil.copytree(source / "index" / "segments.lance", index / "segments.lance")
    assert read_facts(str(index)) is not None  # the very same files
    manifest = integrity.newest_manifest(index, "segments")
    assert manifest is not None
    manifest.write_bytes(manifest.read_bytes() + b"\0")
    assert read_facts(str(index)) is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"not JSON at all", None])
def test_damaged_facts_are_noted_again(index: Path, encoder: Encoder, damage: bytes | None) -> None:
    """Catches a damaged note that ends every search, or that is believed."""
    expected, _ = search(index, encoder)
    path = cache_folder(str(index)) / FACTS
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    assert read_facts(str(index)) is None
    assert search(index, encoder) == (expected, True)
    assert search(index, encoder) == (expected, False)


def test_without_the_cached_vectors_the_table_is_read(index: Path, encoder: Encoder) -> None:
    """Catches a search that finds nothing because only half of the cache was removed."""
    expected, _ = search(index, encoder)
    for path in cache_folder(str(index)).glob("segments-*"):
        path.unlink()
    assert search(index, encoder) == (expected, True)


def test_a_current_cache_needs_neither_lancedb_nor_transformers(index: Path, encoder: Encoder) -> None:
    """Catches an import that makes every search on the command line seconds slower."""
    search(index, encoder)
    script = (
        "import sys; from clipvip.search import Library; "
        f"print(len(Library({str(index)!r}, device='cpu').search('a red circle'))); "
        "print([name for name in ('lancedb', 'transformers', 'torch._dynamo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, heavy = done.stdout.splitlines()
    assert int(count) > 0
    assert heavy == "[]"


def test_the_version_stays_until_refresh(index: Path, encoder: Encoder) -> None:
    """Catches a library whose answers change in the middle of its work, because a table was opened late."""
    before, _ = search(index, encoder)
    library, hit = Library(index, encoder), next(iter(before))
    other = Library(index, encoder)
    other.store.write(lambda: other.store.segments.delete(f"segment_id = '{hit.segment_id}'"))
    assert library.store.vector(hit.segment_id).shape == (16,)
    assert library.search("a red circle", k=1000) == before
    library.refresh()
    assert hit.segment_id not in {each.segment_id for each in library.search("a red circle", k=1000)}


@pytest.mark.parametrize("change", [{"schema_version": 99}, {"unheard_of": 1}, {"windows_s": 5}])
def test_facts_of_another_clipvip_are_not_believed(index: Path, encoder: Encoder, change: dict[str, object]) -> None:
    """Catches an index of a newer clipvip that is searched as if it were one of this one."""
    expected, _ = search(index, encoder)
    path = cache_folder(str(index)) / FACTS
    values = parse_json(open_checked(path).to_pybytes())
    write_checked(path, json.dumps(values | {"settings": values["settings"] | change}).encode())
    assert read_facts(str(index)) is None
    assert search(index, encoder) == (expected, True)
