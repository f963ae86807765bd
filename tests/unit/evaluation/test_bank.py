"""What may be a querybank."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipvip.errors import ManifestError
from clipvip.evaluation import bank_texts
from clipvip.records import Clip

GALLERY = [
    Clip("test1", video=Path("/v/1.mp4"), captions=("a dog",)),
    Clip("test2", video=Path("/v/2.mp4"), captions=("a cat",), start_s=0.0, end_s=5.0),
]


def test_all_captions_of_training_clips_or_their_paragraphs() -> None:
    """Catches a bank of another form than the queries, and clips without captions that stop the evaluation."""
    bank = [
        Clip("a", video=Path("/v/a.mp4"), captions=("a dog", "a dog runs")),
        Clip("b", video=Path("/v/b.mp4")),
        Clip("c", video=Path("/v/2.mp4"), captions=("later",), start_s=5.0, end_s=9.0),
    ]
    assert bank_texts(bank, GALLERY) == ("a dog", "a dog runs", "later")
    assert bank_texts(bank, GALLERY, join_captions=True) == ("a dog a dog runs", "later")


@pytest.mark.parametrize("captions", [(), ("a dog",)])
def test_no_text_is_an_error(captions: tuple[str, ...]) -> None:
    """Catches an empty bank, which would normalise by nothing."""
    bank = [Clip("b", video=Path("/v/b.mp4"))] if captions else []
    with pytest.raises(ManifestError, match="bank: not one caption in it"):
        bank_texts(bank, GALLERY)


@pytest.mark.parametrize(
    "clip",
    [
        Clip("test1", video=Path("/elsewhere/1.mp4"), captions=("x",)),
        Clip("renamed", video=Path("/v/../v/2.mp4"), captions=("x",), start_s=0.0, end_s=5.0),
    ],
    ids=["by id", "by file and times"],
)
def test_a_test_clip_in_the_bank_is_an_error(clip: Clip) -> None:
    """Catches a transductive figure that is called bank-based."""
    with pytest.raises(ManifestError, match=r"is in the test gallery too \(as 'test[12]'\)"):
        bank_texts([clip], GALLERY)
