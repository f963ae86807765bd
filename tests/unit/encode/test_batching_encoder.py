"""The thread that uses the model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import clipvip
from clipvip.encode import BatchingEncoder
from helpers_model import write_model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


class Counting:
    """An encoder that notes its batches, and waits before the first one."""

    def __init__(self, encoder):
        self.encoder, self.batches, self.go = encoder, [], threading.Event()
        self.processor, self.embedding_size = encoder.processor, encoder.embedding_size

    def encode_texts(self, texts, **options):
        assert self.go.wait(60)
        self.batches.append(list(texts))
        return self.encoder.encode_texts(texts, **options)

    def encode_pixels(self, pixels):
        return self.encoder.encode_pixels(pixels)


def test_waiting_texts_share_a_batch(encoder):
    """Catches one pass through the model a query, a text encoded twice, and vectors handed to the wrong asker."""
    counting = Counting(encoder)
    texts = ["a red circle", "a blue square", "a red circle", "grass at night"]
    with BatchingEncoder(counting) as worker:
        first = worker.text("first")
        while not worker._queue.empty():  # until it is under way
            pass
        futures = [worker.text(text) for text in texts]
        counting.go.set()
        vectors = [future.result(60) for future in futures]
        first.result(60)
        again = worker.text("a blue square")
        assert again.done()
    assert counting.batches == [["first"], ["a red circle", "a blue square", "grass at night"]]
    np.testing.assert_allclose(vectors, encoder.encode_texts(texts), atol=1e-6)
    np.testing.assert_array_equal(again.result(), vectors[1])


def test_batches_are_of_few_sizes(encoder):
    """Catches memory that grows with every new size of a batch, and vectors of another text than was asked."""
    counting = Counting(encoder)
    texts = [f"a red circle {number}" for number in range(41)]
    with BatchingEncoder(counting) as worker:
        first = worker.text("first")
        while not worker._queue.empty():
            pass
        futures = [worker.text(text) for text in texts]
        counting.go.set()
        vectors = np.stack([future.result(60) for future in futures])
        first.result(60)
    assert [len(batch) for batch in counting.batches] == [1, 48]
    np.testing.assert_allclose(vectors, encoder.encode_texts(texts), atol=1e-6)


@pytest.mark.parametrize("longest", [32, 30])
def test_batches_are_of_few_lengths(encoder, monkeypatch, longest):
    """Catches memory that grows with every new length of a text, and positions that the model does not have."""
    monkeypatch.setattr(encoder.processor, "max_text_tokens", longest)
    shapes = []
    encode = encoder.model.encode_text
    monkeypatch.setattr(encoder.model, "encode_text", lambda ids: (shapes.append(tuple(ids.shape)), encode(ids))[1])
    texts = ["grass", "a red circle", "a red circle grows on the grass at night", "a blue square " * 30]
    with BatchingEncoder(encoder) as worker:
        vectors = [worker.text(text).result(60) for text in texts]
    assert shapes[-1] == (1, longest)
    assert all(length % 8 == 0 or length == longest for _, length in shapes)
    np.testing.assert_allclose(vectors, encoder.encode_texts(texts), atol=1e-6)


def test_errors_reach_the_askers_and_nobody_else(encoder):
    """Catches a thread that dies of one bad request, after which every search hangs."""
    with BatchingEncoder(encoder) as worker:
        bad = worker.pixels(np.full((4, 3, 32, 32), np.nan, np.float32))
        good = worker.text("a red circle")
        with pytest.raises(clipvip.errors.InputError):
            bad.result(60)
        assert good.result(60).shape == (16,)


def test_a_cancelled_request_is_passed_over(encoder):
    """Catches a thread that dies when somebody closes the page before the answer."""
    counting = Counting(encoder)
    with BatchingEncoder(counting) as worker:
        first = worker.text("first")
        while not worker._queue.empty():
            pass
        gone = worker.text("gone")
        assert gone.cancel()
        counting.go.set()
        first.result(60)
    assert counting.batches == [["first"]]


def test_the_cache_is_bounded(encoder):
    """Catches a cache that grows with every query ever asked."""
    with BatchingEncoder(encoder, num_cached=2) as worker:
        for text in ("one", "two", "three", "two", "four"):
            worker.text(text).result(60)
        assert list(worker._cache) == ["two", "four"]


def test_many_texts_at_once_let_others_in_between(encoder):
    """Catches a bank of a thousand texts that every search waits for, and one that hangs when the server ends."""
    counting = Counting(encoder)
    texts = [f"text {i}" for i in range(100)]
    with BatchingEncoder(counting) as worker, ThreadPoolExecutor(1) as thread:
        first = worker.text("first")
        while not worker._queue.empty():
            pass
        bank = thread.submit(worker.encode_texts, texts)
        while worker._queue.qsize() < 64:
            pass
        other = worker.text("somebody else's")
        counting.go.set()
        np.testing.assert_allclose(bank.result(60), encoder.encode_texts(texts), atol=1e-6)
        assert (first.result(60).shape, other.result(60).shape) == ((16,), (16,))
    assert ["somebody else's" in batch for batch in counting.batches].index(True) <= 2
    assert worker.text("too late").cancelled()
    assert worker.text("first").done()
