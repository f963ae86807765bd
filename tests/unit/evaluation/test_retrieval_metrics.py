"""Ranks against loops over queries, and what must not change them."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvip.errors import InputError, UsageError
from clipvip.evaluation import metrics, retrieval_metrics, retrieval_ranks
from clipvip.evaluation.metrics import count_rivals

SHARES = {"average": 0.5, "optimistic": 0.0, "pessimistic": 1.0}


@st.composite
def retrievals(draw):
    """(similarity, owners): scores of few values, so most queries are tied; videos with 0, 1 or many captions."""
    num_texts, num_videos = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    scores = draw(st.lists(st.integers(-2, 2), min_size=num_texts * num_videos, max_size=num_texts * num_videos))
    owners = draw(st.lists(st.integers(0, num_videos - 1), min_size=num_texts, max_size=num_texts))
    return np.array(scores, dtype=np.float32).reshape(num_texts, num_videos), np.array(owners)


def loop_rank(true, others, ties):
    return 1 + sum(other > true for other in others) + SHARES[ties] * sum(other == true for other in others)


def loop_ranks(similarity, owners, ties):
    """For v2t: the rank of each true caption among the texts of other videos, then the best of them."""
    num_texts, num_videos = similarity.shape
    t2v = [
        loop_rank(similarity[i, owners[i]], [similarity[i, j] for j in range(num_videos) if j != owners[i]], ties)
        for i in range(num_texts)
    ]
    v2t = []
    for j in range(num_videos):
        others = [similarity[i, j] for i in range(num_texts) if owners[i] != j]
        ranks = [loop_rank(similarity[i, j], others, ties) for i in range(num_texts) if owners[i] == j]
        v2t += [min(ranks)] if ranks else []
    return {"t2v": t2v, "v2t": v2t}


def figures(*ranks):
    """What is reported of these ranks, counted on one's fingers."""
    recalls = {f"R@{k}": 100.0 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    half = len(ranks) // 2
    middle = sorted(ranks)[half] if len(ranks) % 2 else sum(sorted(ranks)[half - 1 : half + 1]) / 2
    return pytest.approx(recalls | {"MeanR@": sum(recalls.values()) / 3, "MdR": middle, "MnR": sum(ranks) / len(ranks)})


def test_a_matrix_with_ties_by_hand():
    """Would catch a share of the ties that counts the query itself, and directions that are swapped."""
    similarity = [
        [0.9, 0.9, 0.1],  # tied with one
        [0.2, 0.5, 0.7],  # one is better
        [0.4, 0.4, 0.4],  # tied with two
    ]
    assert retrieval_metrics(similarity) == {"t2v": figures(1.5, 2, 2), "v2t": figures(1, 2, 2)}
    assert retrieval_metrics(similarity, ties="optimistic") == {"t2v": figures(1, 2, 1), "v2t": figures(1, 2, 2)}
    assert retrieval_metrics(similarity, ties="pessimistic") == {"t2v": figures(2, 2, 3), "v2t": figures(1, 2, 2)}


def test_several_captions_a_video_by_hand():
    """Would catch more texts than videos taken for a transposed matrix, and captions that stand in each other's way."""
    similarity = [
        [0.8, 0.6, 0.1, 0.3],  # of video 0: first
        [0.3, 0.7, 0.2, 0.1],  # of video 0: one is better
        [0.9, 0.5, 0.6, 0.4],  # of video 1: two are better
        [0.1, 0.2, 0.4, 0.4],  # of video 2: tied with video 3, that nobody describes
        [0.5, 0.5, 0.5, 0.0],  # of video 2: tied with two
    ]
    found = retrieval_metrics(similarity, [0, 0, 1, 2, 2])
    assert found["t2v"] == figures(1, 2, 3, 1.5, 2)
    assert found["v2t"] == figures(
        2,  # its 0.8 against 0.9, 0.1, 0.5
        3.5,  # its 0.5 against 0.6, 0.7, 0.2, 0.5
        2,  # its 0.5 (the other 0.4 is its own) against 0.1, 0.2, 0.6
    )


def test_a_single_item_by_hand():
    """Would catch a rank of 0, and a median or a tie of nothing."""
    for ties in SHARES:
        assert retrieval_metrics([[0.3]], ties=ties) == {"t2v": figures(1), "v2t": figures(1)}
    one_video = retrieval_metrics([[0.1], [0.2]], [0, 0])
    assert one_video == {"t2v": figures(1, 1), "v2t": figures(1)}


def test_recall_counts_ranks_up_to_k_by_hand():
    """Would catch an off-by-one at 5 and 10, on ranks 1, 5, 6, 10, 11 of a gallery of 12."""
    similarity = np.tile(-np.arange(12.0), (5, 1))
    found = retrieval_metrics(similarity, [0, 4, 5, 9, 10])["t2v"]
    assert found == pytest.approx({"R@1": 20, "R@5": 40, "R@10": 80, "MeanR@": 140 / 3, "MdR": 6, "MnR": 6.6})


@given(retrieval=retrievals())
def test_rivals_within_a_distance_are_counted_like_ties(retrieval):
    """Would catch own captions counted as rivals, and scores at the very distance left out."""
    similarity, owners = retrieval
    for direction in ("t2v", "v2t"):
        exact = count_rivals(similarity, owners, direction)
        wide = count_rivals(similarity, owners, direction, within=0.5)  # the scores are whole numbers
        assert exact.equal.tolist() == wide.equal.tolist()
        all_of_them = count_rivals(similarity, owners, direction, within=4.0)  # they lie between -2 and 2
        assert all_of_them.better.tolist() == [0] * len(exact.better)
        rivals = {
            "t2v": [similarity.shape[1] - 1] * len(owners),
            "v2t": [int((owners != video).sum()) for video in np.unique(owners)],
        }
        assert all_of_them.equal.tolist() == rivals[direction]


@pytest.mark.parametrize("ties", SHARES)
@given(retrieval=retrievals())
def test_ranks_equal_loops(ties, retrieval):
    """Would catch siblings counted against a caption, a query's tie with itself, a rank for a video without text."""
    similarity, owners = retrieval
    ranks = retrieval_ranks(similarity, owners, ties=ties)
    for direction, expected in loop_ranks(similarity, owners, ties).items():
        assert ranks[direction].dtype == np.float64
        assert ranks[direction].tolist() == expected


@given(retrieval=retrievals(), data=st.data())
def test_the_order_of_gallery_and_queries_does_not_matter(retrieval, data):
    """Would catch ranks that depend on the place in the file, as a sort with ties gives them."""
    similarity, owners = retrieval
    texts = np.array(data.draw(st.permutations(range(similarity.shape[0]))))
    videos = np.array(data.draw(st.permutations(range(similarity.shape[1]))))
    moved = retrieval_metrics(similarity[np.ix_(texts, videos)], np.argsort(videos)[owners[texts]])
    original = retrieval_metrics(similarity, owners)
    for direction in ("t2v", "v2t"):
        assert moved[direction] == pytest.approx(original[direction])


def test_a_model_that_says_the_same_of_everything_gets_the_rank_of_chance():
    """Would catch optimistic ties by default: a collapsed model would score R@1 = 100."""
    scores = retrieval_metrics(np.zeros((21, 21)))
    for direction in ("t2v", "v2t"):
        assert scores[direction] == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0, "MeanR@": 0.0, "MdR": 11.0, "MnR": 11.0}
    assert retrieval_metrics(np.zeros((21, 21)), ties="optimistic")["t2v"]["R@1"] == 100.0


def test_metrics_are_percentages_of_queries_as_plain_floats():
    """Would catch recall over videos instead of queries, an off-by-one at K, numbers that json cannot write."""
    similarity = np.tile(-np.arange(12.0), (4, 1))  # video j has rank j + 1 for every text
    scores = retrieval_metrics(similarity, [0, 4, 9, 10])["t2v"]
    assert scores == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "MeanR@": 50.0, "MdR": 7.5, "MnR": 6.75}
    assert list(scores) == ["R@1", "R@5", "R@10", "MeanR@", "MdR", "MnR"]
    assert {type(value) for value in scores.values()} == {float}


@given(retrieval=retrievals())
def test_another_matrix_for_v2t_changes_only_v2t(retrieval):
    """Would catch a re-scored matrix used for the wrong direction, or for the true scores only."""
    similarity, owners = retrieval
    other = similarity[::-1] - similarity
    both = retrieval_ranks(similarity, owners, similarity_v2t=other)
    assert both["t2v"].tolist() == retrieval_ranks(similarity, owners)["t2v"].tolist()
    assert both["v2t"].tolist() == retrieval_ranks(other, owners)["v2t"].tolist()


def test_blocks_do_not_change_ranks_and_bound_the_memory(monkeypatch):
    """Would catch a row lost between blocks, and a temporary of the similarity's size (1e9 entries at 100k x 10k)."""
    rng = np.random.default_rng(0)
    similarity = rng.integers(-50, 50, (3001, 500)).astype(np.float32)
    owners = rng.integers(0, 400, 3001)
    in_one = retrieval_ranks(similarity, owners)
    monkeypatch.setattr(metrics, "_BLOCK_ENTRIES", 50_000)
    tracemalloc.start()
    in_blocks = retrieval_ranks(similarity, owners)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for direction in ("t2v", "v2t"):
        assert in_blocks[direction].tolist() == in_one[direction].tolist()
    assert peak < similarity.size / 2  # a boolean per entry would already be twice as much


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error_that_says_where(value, monkeypatch):
    """Would catch NaN that compares as neither better nor equal: it would give its query rank 1."""
    monkeypatch.setattr(metrics, "_BLOCK_ENTRIES", 4)
    similarity = np.eye(5)
    similarity[3, 1] = value
    with pytest.raises(InputError, match=rf"similarity\[3, 1\] is {value}"):
        retrieval_metrics(similarity)
    with pytest.raises(InputError, match=rf"similarity_v2t\[3, 1\] is {value}"):
        retrieval_metrics(np.eye(5), similarity_v2t=similarity)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((3, 4)),), {}, r"shape \(3, 4\) is not square; give text_to_video"),
        ((np.ones(4),), {}, r"similarity: float64 \(4,\), expected numbers"),
        ((np.ones((0, 4)), []), {}, r"similarity: float64 \(0, 4\), .* not empty"),
        ((np.eye(3) > 0,), {}, "similarity: bool"),
        ((np.ones((3, 4)), [0, 1]), {}, r"text_to_video: int64 \(2,\), expected integers \(3,\)"),
        ((np.ones((3, 4)), [0.0, 1.0, 2.0]), {}, "text_to_video: float64"),
        ((np.ones((3, 4)), [0, 4, 2]), {}, r"text_to_video\[1\] is 4; similarity has the videos 0 to 3"),
        ((np.ones((3, 4)), [0, 1, -1]), {}, r"text_to_video\[2\] is -1"),
        ((np.eye(3),), {"similarity_v2t": np.ones((3, 4))}, r"similarity_v2t: shape \(3, 4\), expected \(3, 3\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(arguments, options, message):
    """Would catch a transposed or cut matrix that still gives numbers, and an index -1 that wraps around."""
    with pytest.raises(InputError, match=message):
        retrieval_metrics(*arguments, **options)


def test_an_unknown_tie_policy_is_an_error():
    """Would catch a policy that falls back to another one."""
    with pytest.raises(UsageError, match="ties='mean': unknown; choose one of average, optimistic, pessimistic"):
        retrieval_metrics(np.eye(2), ties="mean")


def test_evaluation_imports_no_torch():
    """Would catch an import that makes scoring a saved matrix wait for torch."""
    code = "import sys, clipvip.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
