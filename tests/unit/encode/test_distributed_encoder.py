"""Encoding shared out among real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipvip.encode import DistributedEncoder, Encoder
from clipvip.errors import VideoDecodeError
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.records import Clip
from helpers_model import TEXTS, write_model
from helpers_ranks import in_processes
from helpers_video import write_video

MORE_TEXTS = [*TEXTS, "grass", "the", "a red square", "blue at night", "a circle on the grass at night"]


def encoded(place: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], list[str], bool]:
    """Vectors of texts, clips and videos, ids, what was skipped, and whether this process repeats another's error."""
    # Not `clipvip.load`: it times kernels and takes the fastest, which need not be the same one in each process.
    model = ClipVipModel.from_pretrained(place / "model")
    encoder = Encoder(model.eval(), ClipVipProcessor.from_pretrained(place / "model"))
    shared = DistributedEncoder(encoder, batch_size=2, text_batch_size=3)
    clips = [Clip(str(number), video=place / f"{number}.mp4") for number in range(9)]
    found = shared.encode_clips(clips, on_decode_error="skip")
    with pytest.raises(VideoDecodeError, match=r"3\.mp4") as raised:
        shared.encode_clips(clips)
    videos = shared.encode_videos([place / f"{number}.mp4" for number in (8, 7, 6, 5, 4)])
    return shared.encode_texts(MORE_TEXTS), found.vectors, videos, found.ids, list(found.skipped), raised.value.repeated


def test_processes_share_batches_and_all_get_all_rows(tmp_path: Path) -> None:
    """Catches rows in another order, rows cut or doubled where 9 clips do not divide by 2 processes of batches of 2,
    other batches and so other roundings than one process has, and an error that each process tells.
    """
    write_model(tmp_path / "model")
    for number in range(9):
        if number != 3:
            write_video(tmp_path / f"{number}.mp4", 1 if number == 6 else 5 + number, width=32, height=32, grain=4)
    [alone] = in_processes(1, encoded, tmp_path, folder=tmp_path / "one")
    for rank, shared in enumerate(in_processes(2, encoded, tmp_path, folder=tmp_path / "two")):
        for ours, expected in zip(shared[:3], alone[:3], strict=True):
            np.testing.assert_array_equal(ours, expected)
        assert shared[3:5] == alone[3:5] == (tuple("01245678"), ["3"])
        assert shared[5] == (rank > 0)
