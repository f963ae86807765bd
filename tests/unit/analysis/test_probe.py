"""Whether a model sees time: exactly 0 for one that cannot, the numbers of a case done by hand, and orders that are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clipvip
from clipvip.analysis.frame_orders import ORDERS, PLAIN, encode_orders
from clipvip.analysis.probe import RESOLUTION, Probe, compare_orders, probe_time
from clipvip.encode import Encoder
from clipvip.errors import ManifestError, VideoDecodeError
from clipvip.evaluation import Interval, Retrieval
from clipvip.records import Clip
from helpers_model import write_model
from helpers_video import write_video

SAME_FRAMES = ("reversed", "shuffled", "halves swapped")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Six videos of noise, of which two are twins in the manifest, two captions each."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        Clip(
            f"c{i}",
            video=write_video(folder / f"{i}.mp4", 5 + i, width=32, height=32, grain=4),
            captions=(f"a red circle {i}", f"the blue square jumps {i}"),
            extra={"twin": f"c{1 - i}"} if i < 2 else {},
        )
        for i in range(6)
    ]


def loaded(folder: Path, aggregator: str) -> Encoder:
    """With a temporal embedding that is not 0, as after training."""
    write_model(folder, aggregator=aggregator)
    if aggregator != "mean":
        model = clipvip.ClipVipModel.from_pretrained(folder)
        state = model.state_dict()
        for name in state:
            if name.endswith("temporal_embedding"):
                state[name] = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(0))
        model.load_state_dict(state)
        model.save_pretrained(folder)
    return clipvip.load(folder, device="cpu")


def probed(folder: Path, aggregator: str, clips: list[Clip]) -> Probe:
    return probe_time(loaded(folder, aggregator), clips)


def test_mean_pooling_sees_no_time(tmp_path: Path, clips: list[Clip]) -> None:
    """Catches rounding that passes for sight, in scores, recall or twins, and a freeze that changes nothing."""
    probe = probed(tmp_path, "mean", clips)
    changes = {change.name: change for change in probe.changes}
    for name in SAME_FRAMES:
        change = changes[name]
        none = Interval(0.0, 0.0, 0.0)
        assert (change.mean_abs, change.mean, change.recall_change) == (none, none, none), name
        assert (change.unmoved, change.twins, change.recall) == (1.0, probe.twins, probe.recall.value)
        assert change.largest < 1e-6  # as it was computed
    assert changes["frozen"].mean_abs.value > 100 * RESOLUTION


@pytest.mark.parametrize("aggregator", ["vip", "transformer"])
def test_models_with_temporal_positions_see_time(tmp_path: Path, clips: list[Clip], aggregator: str) -> None:
    """Catches frames that are reordered after the model has seen them, or not at all."""
    probe = probed(tmp_path, aggregator, clips)
    for change in probe.changes:
        assert change.mean_abs.value > 10 * RESOLUTION, change.name
        assert change.unmoved < 1.0
        assert change.relative == pytest.approx(change.mean_abs.value / probe.spread)


def test_orders_are_what_their_names_say() -> None:
    """Catches a frame that is lost, and a shuffle that leaves everything in its place."""
    rng = np.random.default_rng(0)
    assert ORDERS["reversed"](4, rng).tolist() == [3, 2, 1, 0]
    assert ORDERS["halves swapped"](4, rng).tolist() == [2, 3, 0, 1]
    assert ORDERS["halves swapped"](5, rng).tolist() == [2, 3, 4, 0, 1]
    assert ORDERS["frozen"](5, rng).tolist() == [2, 2, 2, 2, 2]
    for _ in range(50):
        shuffled = ORDERS["shuffled"](3, rng).tolist()
        assert sorted(shuffled) == [0, 1, 2] != shuffled
    assert [order(1, rng).tolist() for order in ORDERS.values()] == [[0]] * 4


def test_every_order_is_the_encoder_on_frames_in_that_order(tmp_path: Path, clips: list[Clip]) -> None:
    """Catches vectors of another clip or order when clips of several lengths and images share a run."""
    encoder = loaded(tmp_path / "model", "vip")
    Image.new("RGB", (40, 32), (200, 30, 30)).save(tmp_path / "still.png")
    still = Clip("still", image=tmp_path / "still.png", captions=("a red circle",))
    mixed = [*clips[:3], still, *clips[3:]]
    found = encode_orders(encoder, mixed, seed=1, batch_size=2, on_decode_error="raise", on_clip=lambda: None)
    assert found.ids == tuple(clip.clip_id for clip in mixed)
    assert found.num_still == 1
    np.testing.assert_allclose(found.of(PLAIN).vectors, encoder.encode_clips(mixed).vectors, atol=1e-6)
    for row, clip in enumerate(mixed):
        if clip is still:
            continue
        frames = encoder.processor.video_frames(clip.path)
        backwards = encoder.encode_videos([frames[::-1].copy()])[0]
        np.testing.assert_allclose(found.of("reversed").vectors[row], backwards, atol=1e-6)
    alone = encode_orders(encoder, mixed[-1:], seed=1, batch_size=2, on_decode_error="raise", on_clip=lambda: None)
    np.testing.assert_allclose(alone.of("shuffled").vectors[0], found.of("shuffled").vectors[-1], atol=1e-6)


def test_numbers_of_a_case_done_by_hand() -> None:
    """Catches a wrong sign, a change in other units, recall of the old gallery, and rounding that is not settled."""
    clips = tuple(Clip(name, video=Path(name), captions=("x",), extra={"twin": twin}) for name, twin in ("ab", "ba"))
    before = np.array([[0.5, 0.1], [0.2, 0.6]], np.float32)
    after = np.array([[0.3, 0.4], [0.2 + 4e-6, 0.6 - 4e-6]], np.float32)
    plain = Retrieval(clips, ("x", "y"), np.array([0, 1]), before, "f")
    change = compare_orders("reversed", plain, replace(plain, similarity=after))
    assert change.mean_abs.value == pytest.approx(0.1, abs=1e-6)  # 0.2 and 0
    assert change.mean.value == pytest.approx(-0.1, abs=1e-6)
    assert change.relative == pytest.approx(0.1 / 0.2, abs=1e-5)  # spreads: half of 0.4, half of 0.4
    assert (change.unmoved, change.largest) == (0.5, pytest.approx(0.2, abs=1e-6))
    assert (change.recall, change.recall_change.value, change.twins) == (50.0, -50.0, 50.0)
    assert change.scores.tolist() == pytest.approx([0.3, before[1, 1]])


def test_what_cannot_be_probed(tmp_path: Path, clips: list[Clip]) -> None:
    """Catches a clip left out silently, and a missing caption found only after hours of encoding."""
    encoder = loaded(tmp_path, "mean")
    (tmp_path / "broken.mp4").write_text("no video")
    broken = Clip("broken", video=tmp_path / "broken.mp4", captions=("x",))
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        probe_time(encoder, [*clips, broken])
    probe = probe_time(encoder, [*clips, broken], on_decode_error="skip")
    assert list(probe.plain.skipped) == ["broken"]
    assert probe.to_dict()["num_videos"] == 6
    assert len(probe_time(encoder, clips, join_captions=True).plain.texts) == 6
    with pytest.raises(ManifestError, match="mute: no 'captions'"):
        probe_time(encoder, [broken, Clip("mute", video=tmp_path / "broken.mp4")])
    with pytest.raises(ManifestError, match="several videos"):
        probe_time(encoder, clips[:1])
