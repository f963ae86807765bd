"""Windows of one video as answers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipvip.search.query.merge import Answer, merge_windows


def merged(windows, scores, ground=0.0):
    starts, ends = np.array(windows, float).reshape(-1, 2).T
    return merge_windows(starts, ends, np.array(scores, np.float32), ground)


def test_known_merges():
    """Catches a moment blown up by the long window around it, neighbours told twice, and events cut to one window."""
    assert merged([(0, 12)], [0.3]) == [Answer(0, 0.0, 12.0)]
    chain = [(0, 12), (6, 18), (12, 24), (18, 30)]
    assert merged(chain, [0.1, 0.30, 0.29, 0.1]) == [Answer(1, 6.0, 24.0)]
    assert merged(chain, [0.28, 0.29, 0.30, 0.28]) == [Answer(2, 0.0, 30.0)]
    two_scales = [(0, 4), (2, 6), (4, 8), (6, 10), (0, 12)]
    assert merged(two_scales, [0.1, 0.30, 0.1, 0.1, 0.29])[0] == Answer(1, 2.0, 6.0)
    assert merged(two_scales, [0.1, 0.1, 0.1, 0.1, 0.29]) == [Answer(4, 0.0, 12.0)]
    apart = [(0, 12), (6, 18), (30, 42)]
    assert merged(apart, [0.2, 0.1, 0.3]) == [Answer(2, 30.0, 42.0), Answer(0, 0.0, 12.0)]
    assert merged([(0, 5), (5, 9)], [0.3, 0.3]) == [Answer(0, 0.0, 5.0), Answer(1, 5.0, 9.0)]  # shots stay shots
    assert merged(chain, [0.1, 0.30, 0.29, 0.1], ground=0.28)[0] == Answer(1, 6.0, 18.0)  # 0.29 is half of the way
    assert merged([], []) == []


windows = st.lists(st.tuples(st.integers(0, 60), st.sampled_from([3, 6, 12])), min_size=1, max_size=25, unique=True)


@given(windows, st.data())
def test_answers_are_made_of_windows_and_leave_nothing_out(placed, data):
    """Catches a window that is in no answer, an answer no window begins or ends, and an order that is not by score."""
    spans = [(start, start + length) for start, length in placed]
    scores = data.draw(st.lists(st.floats(-1, 1, width=32), min_size=len(spans), max_size=len(spans)))
    answers = merged(spans, scores, ground=float(np.mean(scores)))
    for start, end in spans:
        shares = (min(end, a.end_s) - max(start, a.start_s) for a in answers)
        assert any(share >= min(end - start, a.end_s - a.start_s) / 2 for share, a in zip(shares, answers, strict=True))
    for answer in answers:
        best_start, best_end = spans[answer.best]
        length = best_end - best_start
        assert answer.start_s <= best_start < best_end <= answer.end_s
        assert answer.start_s in [start for start, end in spans if end - start == length]
        assert answer.end_s in [end for start, end in spans if end - start == length]
    best = [scores[answer.best] for answer in answers]
    assert best == sorted(best, reverse=True)
    assert best[0] == max(scores)


@given(windows, st.permutations(range(25)), st.data())
def test_the_order_of_the_rows_does_not_matter(placed, order, data):
    """Catches answers that hang on the history of the table."""
    spans = [(start, start + length) for start, length in placed]
    scores = data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.21]), min_size=len(spans), max_size=len(spans)))
    order = [i for i in order if i < len(spans)]
    shuffled = merged([spans[i] for i in order], [scores[i] for i in order])
    told = [(spans[order[a.best]], a.start_s, a.end_s) for a in shuffled]
    assert told == [(spans[a.best], a.start_s, a.end_s) for a in merged(spans, scores)]
