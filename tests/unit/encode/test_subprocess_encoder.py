"""A model in a process of its own: the same vectors, warnings and errors as here, and an end."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest

import clipvip
from clipvip.encode import SubprocessEncoder
from clipvip.errors import CheckpointError, ClipVipWarning, UsageError, VideoDecodeError
from helpers_model import write_model
from helpers_video import write_video


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("ahead") / "model"
    write_model(folder)
    return str(folder)


def test_it_is_the_encoder_elsewhere(model, tmp_path):
    """Catches another model, another order, and warnings that stay in the other process."""
    video = write_video(tmp_path / "a.mp4", 30)
    texts = ["a red circle", "what is longer than the model reads " * 20]
    here = clipvip.load(model, device="cpu")
    before = set(multiprocessing.active_children())  # a server's, say, of other tests
    with SubprocessEncoder(device="cpu") as there:
        there.source = model
        assert (there.fingerprint, there.embedding_size) == (here.fingerprint, here.embedding_size)
        with pytest.warns(ClipVipWarning, match="was cut"):
            found = there.encode_texts(texts)
        np.testing.assert_allclose(found, here.encode_texts(texts), atol=1e-5)
        part = (video, 1.0, 2.0)
        np.testing.assert_allclose(there.encode_videos([part]), here.encode_videos([part]), atol=1e-5)
        with pytest.raises(VideoDecodeError, match=r"nothing\.mp4"):
            there.encode_videos([tmp_path / "nothing.mp4"])
        assert len(there.encode_texts(["still there"])) == 1
    assert set(multiprocessing.active_children()) <= before


def test_no_such_model(tmp_path):
    """Catches a traceback of the other process where one line would do."""
    with SubprocessEncoder(str(tmp_path / "nowhere")) as encoder, pytest.raises(CheckpointError, match="nowhere"):
        _ = encoder.fingerprint
    with SubprocessEncoder() as encoder, pytest.raises(UsageError, match="which model"):
        _ = encoder.fingerprint


def test_a_process_that_was_killed_is_replaced(model):
    """Catches a search that waits for a process that is gone."""
    others = set(multiprocessing.active_children())
    with SubprocessEncoder(model, device="cpu") as encoder:
        before = encoder.encode_texts(["a"])
        [process] = set(multiprocessing.active_children()) - others
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        np.testing.assert_array_equal(encoder.encode_texts(["a"]), before)
