"""The version of the index that the server stands on."""

from __future__ import annotations

from collections import Counter
from functools import partial

import lancedb
import pytest
from lancedb.db import LanceDBConnection
from lancedb.table import LanceTable

import clipvip
from clipvip.search import Library
from clipvip.serve.live import Live
from helpers_model import write_model
from helpers_video import write_video, write_videos


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture
def library(encoder, tmp_path):
    library = Library(tmp_path / "index", encoder)
    library.add(write_videos(tmp_path / "videos", 12, 12, 12, 12))
    return library


def test_other_background_queries_are_seen(library, encoder):
    """Catches `clipvip index --background` on a served index without effect until something else is committed."""
    live = Live(partial(Library, library.uri, encoder))
    for texts in ([f"a red {i}" for i in range(20)], [f"{i} blue squares at night" for i in range(40)]):
        library.set_background(texts)
        live.renew()
        p = live.current.library.search("a red circle", false_alarm=0.5).p_value
        assert p == Library(library.uri, encoder).search("a red circle", false_alarm=0.5).p_value
        assert p * (1 + len(texts)) == pytest.approx(round(p * (1 + len(texts))))
    before = live.current
    live.renew()
    assert live.current is before


def test_an_idle_look_costs_no_call_of_lancedb(library, encoder, monkeypatch):
    """Catches a watch that opens the index every two seconds, for ever (B5)."""
    live = Live(partial(Library, library.uri, encoder))
    before, calls = live.current, Counter()
    _count(calls, monkeypatch, lancedb, ["connect"])
    _count(calls, monkeypatch, LanceDBConnection, ["open_table", "list_tables"])
    _count(calls, monkeypatch, LanceTable, ["checkout_latest", "list_versions", "search"])
    for _ in range(3):
        live.renew()
    assert live.current is before
    assert not calls
    library.add(library.roots)  # writes nothing
    calls.clear()
    live.renew()
    assert live.current is before
    library.set_background([f"a red {i}" for i in range(20)])
    calls.clear()
    live.renew()
    assert live.current is not before
    assert calls["connect"] > 0


def _count(calls, monkeypatch, owner, names):
    """Count the calls of these functions, which work as before."""

    def counted(name, function):
        def call(*arguments, **options):
            calls[name] += 1
            return function(*arguments, **options)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))


def test_an_error_nobody_thought_of_does_not_end_the_watch(library, encoder, tmp_path, caplog):
    """Catches a server that shows an old index for ever, because one look at it failed in a new way."""
    errors = iter([None, KeyError("new"), KeyError("new"), None])

    def opened() -> Library:
        if (error := next(errors)) is not None:
            raise error
        return Library(library.uri, encoder)

    live = Live(opened)
    write_video(tmp_path / "videos" / "later.mp4", 20)
    library.add(tmp_path / "videos")
    before = live.current
    for _ in range(2):
        live.renew()
        assert live.current is before
    assert len([record for record in caplog.records if "cannot be opened again" in record.getMessage()]) == 1
    live.renew()
    assert len(live.current.videos) == 5
