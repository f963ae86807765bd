"""The domain gap: NMI where it is known, the same draws whatever they are compared with, sources of every kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipvip.analysis.gap import Pair, cluster_nmi, measure_gap, project
from clipvip.analysis.text_sources import open_sources
from clipvip.data.manifest import write_manifest
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip
from helpers_import import write


class Spots:
    """An encoder that puts texts that begin alike near each other, and texts that do not far apart."""

    fingerprint = "spots"

    def encode_texts(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        rows = []
        for text in texts:
            rng = np.random.default_rng(sum(map(ord, text)))
            centre = np.eye(8)[ord(text[0]) % 8]
            row = centre + 0.05 * rng.standard_normal(8)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, np.float32)


def lines(path: Path, word: str, count: int = 60) -> Path:
    return write(path, "".join(f"{word} {i * i}\n\n" for i in range(count)))


def slow_nmi(sources: Sequence[int], clusters: Sequence[int]) -> float:
    """The definition, over counts: I(S; C) divided by the mean of H(S) and H(C)."""
    n = len(sources)
    pairs = list(zip(sources, clusters, strict=True))

    def share(of: Sequence[object], value: object) -> float:
        return list(of).count(value) / n

    information = sum(
        share(pairs, (s, c)) * math.log(share(pairs, (s, c)) / (share(sources, s) * share(clusters, c)))
        for s, c in set(pairs)
    )
    entropy = [-sum(share(of, v) * math.log(share(of, v)) for v in set(of)) for of in (sources, clusters)]
    return 2 * information / sum(entropy)


def test_nmi_of_clusters_that_are_known() -> None:
    """Catches another normalisation, labels of the wrong side, and a gap between things that are alike."""
    left, right = np.zeros((8, 2)), np.ones((8, 2))
    assert cluster_nmi(left, right, seed=0) == pytest.approx(1.0)
    assert cluster_nmi(left, left, seed=0) == 0.0  # one cluster only
    both = np.concatenate([left, right])
    assert cluster_nmi(both, both, seed=0) == pytest.approx(0.0, abs=1e-12)
    # three quarters of a are left, all of b right: k-means finds left and right
    mixed = np.concatenate([left[:6], right[:2]])
    expected = slow_nmi([0] * 8 + [1] * 8, [0] * 6 + [1] * 2 + [1] * 8)
    assert cluster_nmi(mixed, right, seed=0) == pytest.approx(expected)


def test_rows_against_columns_are_the_gaps_of_every_two(tmp_path: Path) -> None:
    """Catches a table with rows and columns exchanged, or figures that depend on which sources are compared."""
    kinds = open_sources([str(lines(tmp_path / f"{word}.txt", word)) for word in ("ant", "bee")])
    sets = open_sources([str(lines(tmp_path / f"{word}.txt", word)) for word in ("ibis", "ape", "cat")])
    settings = {"num_texts": 40, "num_draws": 2, "seed": 3}
    every = measure_gap([*kinds, *sets], Spots(), **settings)
    table = measure_gap(kinds, Spots(), against=sets, **settings)
    assert (table.rows, table.columns) == (["ant", "bee"], ["ibis", "ape", "cat"])
    assert every.rows == every.columns == ["ant", "bee", "ibis", "ape", "cat"]
    np.testing.assert_array_equal(table.matrix(), every.matrix()[:2, 2:])
    assert table.to_dict()["matrix"] == table.matrix().tolist()
    assert [(pair.a, pair.b) for pair in table.pairs if pair.a != pair.b] == [
        (kind, name) for kind in ("ant", "bee") for name in ("ibis", "ape", "cat")
    ]


def test_interval_of_draws() -> None:
    """Catches a wrong quantile, a spread in the place of the mean's error, and limits outside 0 to 1."""
    pair = Pair("a", "b", (0.1, 0.2, 0.3, 0.4))
    low, high = pair.interval or (0, 0)
    reach = 3.182446 * np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2  # t of 3 degrees of freedom, from a table
    assert (low, high) == pytest.approx((0.25 - reach, 0.25 + reach), abs=1e-6)
    assert Pair("a", "b", (0.0, 0.0, 0.02)).interval == pytest.approx((0.0, 0.0353), abs=1e-3)
    assert Pair("a", "b", (0.5,)).interval is None


def test_draws_depend_on_nothing_but_seed_and_name(tmp_path: Path) -> None:
    """Catches a gap that changes when a third source is added, or when the order of the sources does."""
    specs = [str(lines(tmp_path / f"{word}.txt", word)) for word in ("ant", "bee", "ibis")]
    settings = {"num_texts": 20, "num_draws": 3, "seed": 4}
    three = measure_gap(open_sources(specs), Spots(), **settings)
    two = measure_gap(open_sources([specs[1], specs[0]]), Spots(), **settings)
    assert two.pairs[0].draws == three.pairs[0].draws
    assert {pair.a for pair in three.pairs} == {"ant", "bee", "ibis"}
    again = measure_gap(open_sources(specs), Spots(), **settings)
    assert again.to_dict() == three.to_dict()
    assert measure_gap(open_sources(specs), Spots(), **{**settings, "seed": 5}).texts != three.texts


def test_matrix_and_halves(tmp_path: Path) -> None:
    """Catches a matrix that is not symmetric, and a diagonal that compares a source with itself and finds a gap."""
    specs = [str(lines(tmp_path / f"{word}.txt", word)) for word in ("ant", "bee", "ivy")]  # i = a modulo 8
    gap = measure_gap(open_sources(specs), Spots(), num_texts=40, num_draws=2)
    matrix = gap.matrix()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[0, 1] == pytest.approx(1.0)
    assert max(matrix[0, 2], *matrix.diagonal()) < 0.3
    assert gap.features.shape == (120, 8)
    assert len(gap.texts) == 120
    assert gap.texts[40].startswith("bee")


def test_every_kind_of_source(tmp_path: Path) -> None:
    """Catches a field that is read as another, empty texts that count, and names that hide the file they are in."""
    clips = [
        Clip(str(i), video=tmp_path / "a.mp4", captions=(f"c{i}", " ", f"d{i}"), subtitle=f"s{i}" if i % 2 else None)
        for i in range(6)
    ]
    write_manifest(tmp_path / "m.jsonl", clips)
    odd = lines(tmp_path / "odd=name:captions.txt", "odd", 5)
    named, plain, captions, subtitle = open_sources(
        [f"mine={odd}", str(odd), f"{tmp_path / 'm.jsonl'}:captions", f"{tmp_path / 'm.jsonl'}:subtitle"]
    )
    assert (named.name, plain.name) == ("mine", "odd=name:captions")
    assert (captions.name, captions.num_texts) == ("m:captions", 12)
    assert captions.pick(np.array([0, 3])) == ["c0", "d1"]
    assert (subtitle.num_texts, subtitle.pick(np.array([0, 1, 2]))) == (3, ["s1", "s3", "s5"])
    write_manifest(tmp_path / "one.jsonl", [Clip("a", video=tmp_path / "a.mp4", caption="only")])
    [only] = open_sources([str(tmp_path / "one.jsonl")])
    assert (only.field, only.num_texts) == ("caption", 1)


@pytest.mark.parametrize(
    ("specs", "error", "message"),
    [
        (["{m}"], UsageError, "has captions and subtitle; say which"),
        (["{m}:caption"], ManifestError, "no texts in field 'caption'"),
        (["{m}:title"], UsageError, "unknown field 'title'"),
        (["{t}:captions"], UsageError, "a .txt file has no fields"),
        (["{t}", "{t}"], UsageError, "2 sources are called 't'"),
        (["nowhere.txt"], ManifestError, "nowhere.txt: no such file"),
        (["={t}"], UsageError, "no name before the '='"),
        (["{v}"], UsageError, "expected .txt"),
    ],
)
def test_sources_that_are_wrong(tmp_path: Path, specs: list[str], error: type[Exception], message: str) -> None:
    """Catches a guess where the user has to say, and an error that does not name the source."""
    place = {"m": tmp_path / "m.jsonl", "t": lines(tmp_path / "t.txt", "t"), "v": write(tmp_path / "v.csv", "a,b\n")}
    write_manifest(place["m"], [Clip("a", video=tmp_path / "a.mp4", captions=("c",), subtitle="s")])
    with pytest.raises(error, match=message):
        open_sources([spec.format(**place) for spec in specs])


def test_too_few_texts_and_no_model(tmp_path: Path) -> None:
    """Catches a smaller draw that nobody is told of, and texts without anything to encode them."""
    sources = open_sources([str(lines(tmp_path / f"{word}.txt", word, 30)) for word in ("ant", "bee")])
    with pytest.raises(ManifestError, match=r"ant: 30 texts, but a draw takes 31; give --num-texts 30 or less"):
        measure_gap(sources, Spots(), num_texts=31)
    with pytest.raises(UsageError, match=r"ant\.txt: has no embeddings; give a text encoder as --model"):
        measure_gap(sources, None, num_texts=10)
    with pytest.raises(UsageError, match="at least 4 texts"):
        measure_gap(sources, Spots(), num_texts=3)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projection_keeps_sources_apart(method: str) -> None:
    """Catches rows that change places, and another picture each time."""
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 0.1, (30, 5)), rng.normal(1, 0.1, (30, 5))])
    plane, shares = project(features, method, seed=1)
    np.testing.assert_array_equal(plane, project(features, method, seed=1)[0])
    first, second = plane[:30].mean(axis=0), plane[30:].mean(axis=0)
    assert np.linalg.norm(first - second) > 3 * plane[:30].std(axis=0).max()
    assert (shares is None) == (method == "tsne")
