"""Finding what stands more than once among millions, by 64-bit hashes: eight bytes each.

Two different things share a hash with a chance of about 3 in a million among ten million of them.
"""

from __future__ import annotations

from array import array

import numpy as np


def text_key(text: str) -> int:
    """The hash of a text regardless of case and spacing; of this process only."""
    return hash(" ".join(text.lower().split()))


def as_numpy(values: array) -> np.ndarray:
    """The values of an array, without a copy."""
    return np.frombuffer(values, dtype=values.typecode) if values else np.empty(0, dtype=values.typecode)


def count_repeats(keys: array | np.ndarray) -> tuple[int, int]:
    """How many different keys stand more than once, and how often these stand together."""
    _, counts = np.unique(as_numpy(keys) if isinstance(keys, array) else keys, return_counts=True)
    repeated = counts[counts > 1]
    return len(repeated), int(repeated.sum())
