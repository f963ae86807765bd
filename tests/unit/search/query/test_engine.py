"""Queries of every kind against a library, compared with what the encoder itself says."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipvip
from clipvip.errors import CheckpointError, InputError, SearchIndexError, UsageError, VideoDecodeError
from clipvip.evaluation import querybank_norm
from clipvip.search import Filters, Library, Query, Term
from clipvip.search.query.calibration import set_background
from helpers_model import write_model
from helpers_video import write_video


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for number in range(8):
        write_video(folder / f"{number}.mp4", 12 + 2 * number, grain=number + 1)
    return folder


@pytest.fixture(scope="module")
def made(films, encoder, tmp_path_factory):
    library = Library(tmp_path_factory.mktemp("made") / "index", encoder, windows_s=30.0)
    library.add(films)
    return library


@pytest.fixture
def library(made, encoder, tmp_path):
    """A copy that a test may change."""
    return Library(shutil.copytree(made.uri, tmp_path / "index"), encoder)


def scores_of(library, *terms, **fields):
    results = library.search(Query(terms=terms, k=100, **fields))
    return {hit.video.name: hit.score for hit in results}


def test_terms_add_up(library, films, encoder, tmp_path):
    """Catches a weight or a minus ignored, an image or clip taken for another, and a sum that is no unit vector."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    vectors = encoder.encode_videos(sorted(films.iterdir()))
    hit = library.search("a red square", k=1).hits[0]
    parts = {
        Term(text="a red square"): encoder.encode_texts(["a red square"])[0],
        Term(text="night", weight=-0.5): encoder.encode_texts(["night"])[0],
        Term(image=tmp_path / "x.png", weight=0.7): encoder.encode_images([tmp_path / "x.png"])[0],
        Term(video=films / "3.mp4"): encoder.encode_videos([films / "3.mp4"])[0],
        Term(video=(films / "3.mp4", 0.5, 1.2), weight=2.0): encoder.encode_videos([(films / "3.mp4", 0.5, 1.2)])[0],
        Term(segment=hit.segment_id): vectors[int(hit.video.stem)],
        Term(vector=vectors[1], text="known already"): vectors[1],
    }
    for chosen in ([0], [0, 1], [2], [3], [4, 1], [5], [6, 0], list(range(7))):
        terms = [list(parts)[i] for i in chosen]
        total = sum(term.weight * parts[term] for term in terms)
        expected = dict(zip([f"{i}.mp4" for i in range(8)], vectors @ (total / np.linalg.norm(total)), strict=True))
        assert scores_of(library, *terms) == pytest.approx(expected, abs=1e-5), terms


def test_queries_that_make_no_sense_are_told(library, films):
    """Catches tracebacks, and an answer to a question nobody asked."""
    with pytest.raises(UsageError, match="cancel"):
        library.search(Query(terms=(Term(text="a dog"), Term(text="a dog", weight=-1))))
    with pytest.raises(SearchIndexError, match="nothere"):
        library.search(Query(terms=(Term(segment="nothere"),)))
    with pytest.raises(VideoDecodeError, match=r"gone\.png"):
        library.search(Query(terms=(Term(image=films / "gone.png"),)))
    with pytest.raises(UsageError, match="images, clips and segments"):
        library.search(Query(terms=(Term(video=films / "1.mp4"),), false_alarm=0.05))
    with pytest.raises(UsageError, match=r"no rate below 0\.00"):
        library.search("a dog", false_alarm=0.0001)
    for wrong in ({"weight": 0.0}, {"weight": float("nan")}, {"image": "x"}):
        with pytest.raises(UsageError):
            Term(text="a dog", **wrong)
    for wrong in ({"k": 0}, {"offset": -1}, {"false_alarm": 1.0}, {"rescore": "dsl"}):
        with pytest.raises(UsageError):
            library.search("a dog", **{"k": 1, **wrong})
    for wrong in ({}, {"text": " "}, {"text": "a \udcff"}):
        with pytest.raises(UsageError):
            Term(**wrong)


def test_mistakes_do_not_wait_for_the_model(made, films, tmp_path):
    """Catches a file, a part or a folder that is looked at only once the model is there; here it never will be."""
    library = Library(made.uri, tmp_path / "no model")
    (tmp_path / "x.png").write_text("no picture")
    for term, error, told in [
        (Term(image=films / "gone.png"), VideoDecodeError, "no such file"),
        (Term(image=tmp_path / "x.png"), VideoDecodeError, "not a picture"),
        (Term(video=films / "gone.mp4"), VideoDecodeError, "no such file"),
        (Term(video=films), VideoDecodeError, "not a regular file"),
        (
            Term(video=(films / "0.mp4", 1.5, 4.0)),
            VideoDecodeError,
            r"0\.mp4: the range 1.5 to 4 s .* end \(1\.200 s\)",
        ),
        (Term(video=(films / "0.mp4", 1.0, 0.5)), InputError, "start_s < end_s"),
        (Term(segment="nothere"), SearchIndexError, "nothere"),
        (Term(vector=np.ones(3, np.float32)), InputError, "shape"),
    ]:
        with pytest.raises(error, match=told):
            library.search(Query(terms=(Term(text="a dog"), term)))
    with pytest.raises(UsageError, match="not a folder of this index"):
        library.search("a dog", filters=Filters(root=tmp_path))
    with pytest.raises(CheckpointError, match="no model"):
        library.search("a dog")


def bank_of(library, encoder):
    rows = library.store.database.open_table("background").to_arrow()
    return encoder.encode_texts(rows["text"].to_pylist()), rows


def test_false_alarms_are_counted_against_the_stored_bank(library, films, encoder, monkeypatch):
    """Catches a bank of other texts, one that forgets filters or minus terms, and scores kept from another library."""
    vectors = encoder.encode_videos(sorted(films.iterdir()))
    texts = [f"a {color} {shape}" for color in ("red", "blue", "green", "white", "dark") for shape in "abcdefgh"]
    library.set_background(texts)
    bank, rows = bank_of(library, encoder)
    assert sorted(rows["text"].to_pylist()) == sorted(texts)
    night = encoder.encode_texts(["night"])[0]

    def expected(text, chosen, minus=0.0):
        own, others = encoder.encode_texts([text])[0] - minus * night, bank - minus * night
        tops = (others / np.linalg.norm(others, axis=1, keepdims=True) @ vectors[chosen].T).max(axis=1)
        top = (vectors[chosen] @ own).max() / np.linalg.norm(own)
        return (1 + (tops >= top - 1e-6).sum()) / (1 + len(bank))

    everything = list(range(8))
    for text in ("a red circle jumps", "nothing of the kind", "a red a"):
        for _ in range(2):  # from the file the second time
            results = Library(library.uri, encoder).search(text, false_alarm=0.5)
            assert results.p_value == pytest.approx(expected(text, everything), abs=0.03)
            assert results.found == (results.p_value <= 0.5)
            assert len(results) == 8
        some = library.search(text, false_alarm=0.5, filters=Filters(path="[1-3].mp4"))
        assert some.p_value == pytest.approx(expected(text, [1, 2, 3]), abs=0.03)
        terms = (Term(text=text), Term(text="night", weight=-0.5))
        less = library.search(Query(terms=terms, false_alarm=0.5))
        assert less.p_value == pytest.approx(expected(text, everything, minus=0.5), abs=0.03)
    assert library.search("a red circle").p_value is None
    nothing = library.search("a red circle", false_alarm=0.5, filters=Filters(path="none"))
    assert (nothing.found, nothing.p_value, len(nothing)) == (False, 1.0, 0)


def test_rescored_answers_are_those_of_querybank_norm(library, films, encoder):
    """Catches another bank, another temperature, and rows that are re-scored though they are not to be."""
    names = sorted(path.name for path in films.iterdir())
    vectors = encoder.encode_videos(sorted(films.iterdir()))
    library.set_background([f"text number {i} {'x' * (i % 7)}" for i in range(30)])
    bank, _ = bank_of(library, encoder)
    changed = 0
    for text in ("a red square", "the blue circle jumps", "night", "a meadow", "x"):
        plain = encoder.encode_texts([text]) @ vectors.T
        expected = querybank_norm(plain, bank @ vectors.T)[0]
        changed += not np.array_equal(expected, plain[0])
        found = scores_of(library, Term(text=text), rescore="qbnorm")
        assert found == pytest.approx(dict(zip(names, expected, strict=True)), rel=1e-3)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert changed


def test_the_default_bank_is_stored_once(library, encoder, monkeypatch):
    """Catches a search that encodes the bank each time, and none at all where the user has given no texts."""
    first = library.search("a dog", false_alarm=0.05)
    assert len(bank_of(library, encoder)[1]) > 250
    asked = []
    encode = encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda texts, **options: asked.append(len(texts)) or encode(texts))
    assert Library(library.uri, encoder).search("a dog", false_alarm=0.05) == first
    assert asked == [1]


def test_the_default_bank_is_made_once_and_moves_nobody_on(library, films, encoder, monkeypatch):
    """Catches a bank that each of several first searches encodes, and a search that sees what it did not begin with."""
    before = library.store.segments.count_rows()
    Library(library.uri, encoder).add(shutil.copytree(films, films.parent / "others"))
    asked, encode = [], encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda texts, **options: asked.append(len(texts)) or encode(texts))
    library.search("a dog")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: library.search("a dog", false_alarm=0.05), range(4)))
    assert [number for number in asked if number > 1] == [len(bank_of(library, encoder)[1])]
    assert found == [found[0]] * 4
    assert library.store.segments.count_rows() == before
    library.refresh()
    assert library.store.segments.count_rows() == 2 * before


def test_a_bank_of_another_model_is_encoded_again(library, films, encoder, tmp_path):
    """Catches background vectors of one model beside segments of another, stored by whoever still has the old one."""
    other = clipvip.load(write_model(tmp_path / "other", seed=1), device="cpu")
    texts = [f"text number {i}" for i in range(30)]
    library.set_background(texts)
    library.search("a dog")
    rebuilt = Library(library.uri, other)
    rebuilt.rebuild()
    with pytest.raises(UsageError, match="no rate below"):  # still answers, by its own model
        library.search("a dog", false_alarm=1e-6)
    rebuilt.search("a dog", false_alarm=0.5)
    vectors = np.array(bank_of(rebuilt, other)[1]["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, bank_of(rebuilt, other)[0], atol=1e-5)

    rebuilt.set_background(texts)
    again = Library(library.uri, encoder)
    again.rebuild()
    set_background(again.store, texts, other)  # as if the other model's were still there
    rows = again.store.database.open_table("background").to_arrow().replace_schema_metadata(None)
    again.store.database.create_table("background", rows, mode="overwrite")
    found = Library(library.uri, encoder).search("a dog", false_alarm=0.5)
    again.set_background(texts)
    assert again.search("a dog", false_alarm=0.5) == found


def test_searches_leave_one_file_of_background_scores(library):
    """Catches a folder that grows with every different question."""
    for number in range(5):
        terms = (Term(text="a dog", weight=1 + number), Term(text=f"night {number}", weight=-0.5))
        library.search(Query(terms=terms, false_alarm=0.05, rescore="qbnorm"))
        library.search(Query(terms=terms[:1], false_alarm=0.05))
    assert len(list(Path(library.uri, "search-cache").glob("tops-*"))) == 1


def test_results_as_a_table(library):
    """Catches a column left out, and a crash for no hits."""
    results = library.search("a dog", k=3)
    table = results.to_pandas()
    assert list(table.columns) == ["rank", "score", "video", "start_s", "end_s", "segment_id", "video_id"]
    assert table["segment_id"].tolist() == [hit.segment_id for hit in results]
    assert len(library.search("a dog", filters=Filters(path="none")).to_pandas().columns) == 7
