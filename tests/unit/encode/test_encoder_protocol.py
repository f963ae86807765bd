"""One contract for whatever encodes: a model here, in another process, behind a queue, in several processes, stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipvip
from clipvip.data.manifest import read_manifest
from clipvip.embedding_sets import encode_manifest, open_embeddings
from clipvip.encode import (
    BatchingEncoder,
    DistributedEncoder,
    EncoderProtocol,
    SubprocessEncoder,
    local_encoder,
)
from clipvip.errors import ClipVipError, InputError, UsageError, VideoDecodeError
from clipvip.evaluation import run_retrieval
from clipvip.records import Clip
from clipvip.search import Library
from helpers_model import write_model
from helpers_video import write_video

TEXTS = ["a red circle grows on the grass", "grass", "the blue square jumps at night", "a red circle"]
CLIP_DURATION_S = 1.5
KINDS = ["local", "subprocess", "batching", "distributed", "stored"]


@dataclass(frozen=True, slots=True)
class World:
    """A model, media, a manifest of them with the embeddings of an `expected` encoder, and an index."""

    folder: Path
    expected: clipvip.Encoder
    clips: list[Clip]
    broken: Clip

    def path(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    config = write_model(folder / "model") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"clip_duration_s": CLIP_DURATION_S}))
    write_video(folder / "long.mp4", 30)
    write_video(folder / "single.mp4", 1)
    (folder / "broken.mp4").write_bytes(b"not a video")
    Image.fromarray(np.full((40, 50, 3), (200, 30, 30), np.uint8)).save(folder / "image.png")
    rows = [
        {"clip_id": "long", "video": "long.mp4", "captions": TEXTS[:2]},
        {"clip_id": "part", "video": "long.mp4", "start_s": 1.0, "end_s": 2.0, "captions": TEXTS[2:3]},
        {"clip_id": "broken", "video": "broken.mp4", "captions": ["nothing"]},
        {"clip_id": "single", "video": "single.mp4", "captions": TEXTS[3:]},
        {"clip_id": "image", "image": "image.png", "captions": ["a picture"]},
    ]
    (folder / "clips.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    encode_manifest(folder / "clips.jsonl", folder / "set", model=str(folder / "model"), device="cpu")
    Library(folder / "index").add_embeddings(open_embeddings(folder / "set"))
    clips = read_manifest(folder / "clips.jsonl")
    return World(folder, clipvip.load(folder / "model", device="cpu"), clips, clips[2])


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest, world: World) -> Iterator[EncoderProtocol]:
    with ExitStack() as stack:
        made: dict[str, EncoderProtocol] = {}
        if request.param == "subprocess":
            made["subprocess"] = stack.enter_context(SubprocessEncoder(str(world.path("model")), device="cpu"))
        elif request.param == "batching":
            made["batching"] = stack.enter_context(BatchingEncoder(world.expected))
        elif request.param == "distributed":
            made["distributed"] = DistributedEncoder(world.expected, batch_size=2, text_batch_size=3)
        elif request.param == "stored":
            made["stored"] = open_embeddings(world.path("set"))
        else:
            made["local"] = world.expected
        yield made[request.param]


def check(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_facts(world: World, encoder: EncoderProtocol) -> None:
    """Catches an encoder without a member of the protocol, and one that describes another model."""
    assert isinstance(encoder, EncoderProtocol)
    assert encoder.fingerprint == world.expected.fingerprint
    assert encoder.embedding_size == world.expected.embedding_size
    assert encoder.clip_duration_s == CLIP_DURATION_S


def test_texts(world: World, encoder: EncoderProtocol) -> None:
    """Catches texts that come back sorted, merged or from an iterator read twice."""
    texts = [*TEXTS, TEXTS[0]]
    check(encoder.encode_texts(iter(texts)), world.expected.encode_texts(texts))
    check(encoder.encode_texts([]), np.empty((0, 16), np.float32))
    with pytest.raises(InputError, match="expected a list, got one item"):
        encoder.encode_texts("a red circle")
    with pytest.raises(ClipVipError):
        encoder.encode_texts([3])  # type: ignore[list-item]
    check(encoder.encode_texts(texts[:1], progress=True), world.expected.encode_texts(texts[:1]))


def test_media(world: World, encoder: EncoderProtocol) -> None:
    """Catches a part of a file taken for the whole, rows in another order, and an image encoded as a video."""
    videos = [(world.path("long.mp4"), 1.0, 2.0), str(world.path("single.mp4")), world.path("long.mp4")]
    check(encoder.encode_videos(iter(videos)), world.expected.encode_videos(videos))
    check(encoder.encode_images([world.path("image.png")]), world.expected.encode_images([world.path("image.png")]))
    for encode in (encoder.encode_videos, encoder.encode_images):
        check(encode([]), np.empty((0, 16), np.float32))
        with pytest.raises(InputError, match="expected a list, got one item"):
            encode(world.path("long.mp4"))  # type: ignore[arg-type]
        with pytest.raises(ClipVipError, match=r"nowhere\.mp4"):
            encode([world.path("nowhere.mp4")])


def test_clips(world: World, encoder: EncoderProtocol) -> None:
    """Catches rows that belong to another clip than their id says, and a broken clip that is left out silently."""
    found = encoder.encode_clips(world.clips, on_decode_error="skip")
    expected = world.expected.encode_clips(world.clips, on_decode_error="skip")
    assert found.ids == ("long", "part", "single", "image")
    check(found.vectors, expected.vectors)
    assert (found.fingerprint, found.skipped) == (expected.fingerprint, expected.skipped)
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        encoder.encode_clips(world.clips)
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        encoder.encode_clips([world.broken], on_decode_error="skip")
    assert encoder.encode_clips([]).vectors.shape == (0, 16)


def test_search_and_evaluation_take_it(world: World, encoder: EncoderProtocol) -> None:
    """Catches a caller that needs more than the protocol."""
    results = Library(world.path("index"), encoder).search(TEXTS[0], k=2)
    expected = Library(world.path("index"), world.expected).search(TEXTS[0], k=2)
    assert [hit.segment_id for hit in results] == [hit.segment_id for hit in expected]
    np.testing.assert_allclose([hit.score for hit in results], [hit.score for hit in expected], atol=1e-5)
    check(
        run_retrieval(encoder, world.clips, on_decode_error="skip").similarity,
        run_retrieval(world.expected, world.clips, on_decode_error="skip").similarity,
    )


def test_only_a_local_model_indexes_files(world: World, encoder: EncoderProtocol) -> None:
    """Catches an obscure failure where frames are given to an encoder that takes none."""
    if encoder is world.expected:
        assert local_encoder(encoder) is encoder
        return
    with pytest.raises(UsageError, match=f"a {type(encoder).__name__} encodes queries, not the frames of an index"):
        Library(world.path("index"), encoder).add(world.path("long.mp4"))
