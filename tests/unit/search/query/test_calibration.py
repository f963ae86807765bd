"""The false-alarm test, on vectors whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from clipvip.errors import InputError, UsageError
from clipvip.search.query.calibration import MAX_TEXTS, best_scores, choose_texts, default_texts, p_value, read_texts

SIZE = 32


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def world(seed, num_concepts=400, num_present=60):
    """A library that shows some of the concepts; texts of all of them, with an offset and hubs as real models have."""
    rng = np.random.default_rng(seed)
    concepts = unit(rng.standard_normal((num_concepts, SIZE)))
    gap, hub = unit(rng.standard_normal((2, SIZE)))
    videos = unit(concepts[:num_present] + 1.0 * gap + 0.08 * rng.standard_normal((num_present, SIZE)))
    texts = unit(concepts - 0.7 * gap + rng.uniform(0, 0.2, (num_concepts, 1)) * hub)
    return videos, texts[:num_present], texts[num_present:]


def p_values(videos, bank, queries):
    tops = best_scores(bank, [videos[:25], videos[25:]])
    return np.array([p_value((videos @ query).max(), tops) for query in queries])


def test_the_rate_is_what_was_asked_for():
    """Catches more errors than stated, a test that finds nothing, and a bank that is counted wrongly."""
    false_alarms, found = [], []
    for seed in range(40):
        videos, present, absent = world(seed)
        bank, queries = absent[:200], absent[200:]
        false_alarms.append((p_values(videos, bank, queries) <= 0.05).mean())
        found.append((p_values(videos, bank, present) <= 0.05).mean())
    assert 0.03 < np.mean(false_alarms) < 0.065  # 40 x 140 queries: 0.05 give or take 0.006, banks of 200 included
    assert np.mean(found) > 0.9


def test_a_bank_that_the_library_answers_only_makes_it_cautious():
    """Catches a rate that is exceeded because some background texts happen to be in the library."""
    rates = []
    for seed in range(20):
        videos, present, absent = world(seed)
        rates.append((p_values(videos, np.concatenate([absent[:180], present[:20]]), absent[180:]) <= 0.05).mean())
    assert np.mean(rates) < 0.05


def test_p_values_by_hand():
    """Catches an off-by-one, a tie that counts for the query, and a crash where filters leave nothing."""
    bank, segments = np.eye(2, dtype=np.float32), np.array([[0.6, 0.8], [0.0, 1.0]], np.float32)
    tops = best_scores(bank, [segments, segments[:0]])
    np.testing.assert_allclose(tops, [0.6, 1.0])
    assert [p_value(top, tops) for top in (1.1, 0.7, 0.5)] == [1 / 3, 2 / 3, 1.0]
    assert p_value(tops[1], tops) == 2 / 3
    assert np.isneginf(best_scores(bank, [segments[:0]])).all()


def test_texts_of_a_bank(tmp_path):
    """Catches repeated texts, which would count twice, another choice each time, and files that are no texts."""
    texts = [f"text {i}" for i in range(3000)]
    chosen = choose_texts([*texts, *texts, " ", "text 1 "], "here")
    assert len(set(chosen)) == len(chosen) == MAX_TEXTS
    assert chosen == choose_texts([*texts, *texts], "here")
    (tmp_path / "bank.txt").write_text("\n".join(texts[:30]), encoding="utf-8")
    assert read_texts(tmp_path / "bank.txt") == texts[:30]
    lines = [f'{{"clip_id": "{i}", "video": "{i}.mp4", "captions": ["text {i}", "again"]}}' for i in range(25)]
    (tmp_path / "bank.jsonl").write_text("\n".join(lines))
    assert sorted(read_texts(tmp_path / "bank.jsonl")) == sorted(["again", *texts[:25]])
    (tmp_path / "few.txt").write_text("one\ntwo")
    with pytest.raises(UsageError, match=r"few\.txt: 2 different"):
        read_texts(tmp_path / "few.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.txt: not a text"):
        read_texts(tmp_path / "bad.txt")


def test_default_texts_are_many_and_different():
    """Catches a package without them, and an empty or doubled line."""
    texts = default_texts()
    assert len(texts) == len(set(texts)) > 250
    assert all(text == text.strip() and len(text.split()) >= 4 for text in texts)
