"""Order and draws are pure functions of (seed, step)."""

from __future__ import annotations

from collections import Counter

import pytest

from clipvip.data.loader import PassSampler
from clipvip.errors import ConfigError


def test_resuming_gives_the_rest_of_the_same_order() -> None:
    """Catches an order that depends on where the run started."""
    whole = list(PassSampler(23, 5, 20, seed=7))
    for start in (0, 1, 4, 9, 19):
        assert list(PassSampler(23, 5, 20, seed=7, start_step=start)) == whole[start:]
    assert list(PassSampler(23, 5, 20, seed=8)) != whole


def test_a_batch_never_holds_a_clip_twice_and_a_pass_no_clip_twice() -> None:
    """Catches a clip that becomes its own negative, or is drawn with replacement."""
    batches = list(PassSampler(23, 5, 40, seed=0))
    for number in range(10):
        addresses = [address for batch in batches[4 * number : 4 * number + 4] for address in batch]
        assert {pass_number for pass_number, _ in addresses} == {number}
        assert max(Counter(index for _, index in addresses).values()) == 1
    seen = {index for batch in batches for _, index in batch}
    assert seen == set(range(23)), "a clip is never reached"


def test_too_few_clips() -> None:
    """Catches an endless loop over zero batches."""
    with pytest.raises(ConfigError, match="batch_size=8, but there are only 5 clips"):
        PassSampler(5, 8, 10, seed=0)
