"""Order and draws are pure functions of (seed, step); batches come out the same however many processes make them."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clipvip.data.dataset import ClipDataset, Collator, ManifestClips, Sources
from clipvip.data.loader import Address, PassSampler, fetch, make_loader
from clipvip.errors import ClipVipError, ConfigError, ManifestError
from clipvip.records import Clip
from clipvip.video.transforms import to_pixel_values
from helpers_video import write_video


class Numbers:
    """Something to be ordered."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def order(self, seed: int, pass_number: int) -> np.ndarray:
        return np.random.default_rng([seed, pass_number]).permutation(self.size)


def batches(sizes: Sequence[int], batch_size: int, steps: int, seed: int = 7, **options: object) -> list[list[Address]]:
    """What a sampler over sources of these sizes says."""
    return list(PassSampler([Numbers(n) for n in sizes], batch_size, steps, seed=seed, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("sizes", "shares"), [([23], []), ([23, 11], [0.3]), ([23, 11, 9], [0.2, 0.4])])
def test_resuming_gives_the_rest_of_the_same_order(sizes: list[int], shares: list[float]) -> None:
    """Catches an order that depends on where the run started, or on how long it is to be."""
    whole = batches(sizes, 5, 40, shares=shares)
    for start in (0, 1, 4, 9, 39):
        assert batches(sizes, 5, 40, shares=shares, start_step=start) == whole[start:]
    assert batches(sizes, 5, 60, shares=shares)[:40] == whole
    assert batches(sizes, 5, 40, seed=8, shares=shares) != whole


@pytest.mark.parametrize(("sizes", "shares"), [([23], []), ([10], []), ([23, 11], [0.3])])
def test_the_last_clips_of_a_pass_make_a_batch_of_their_own(sizes: list[int], shares: list[float]) -> None:
    """Catches clips of a pass that are lost or come twice, and a resumed run whose passes begin elsewhere."""
    whole = batches(sizes, 5, 60, shares=shares, keep_last=True)
    for source, size in enumerate(sizes):
        own = [batch for batch in whole if batch[0][0] == source]
        per_pass = -(-size // 5)
        for number in range(len(own) // per_pass):
            of_pass = own[number * per_pass : (number + 1) * per_pass]
            assert [len(batch) for batch in of_pass] == [5] * (size // 5) + [size % 5] * (size % 5 > 0)
            assert {address[1] for batch in of_pass for address in batch} == {number}
            assert sorted(index for batch in of_pass for _, _, index in batch) == list(range(size))
    for start in (1, 4, 5, 9):
        assert batches(sizes, 5, 60, shares=shares, keep_last=True, start_step=start) == whole[start:]


@pytest.mark.parametrize("keep_last", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_same_batches(world: int, keep_last: bool) -> None:
    """Catches batches that depend on the number of processes: a run could not go on with another number."""
    sizes = [23, 13]  # the last batches of a pass hold five clips and one: not all of three processes get some
    whole = batches(sizes, 6, 30, shares=[0.5], keep_last=keep_last)
    parts = [batches(sizes, 6, 30, shares=[0.5], rank=rank, world=world, keep_last=keep_last) for rank in range(world)]
    assert [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)] == whole


def test_a_batch_never_holds_a_clip_twice_and_a_pass_no_clip_twice() -> None:
    """Catches a clip that becomes its own negative, or is drawn with replacement."""
    plain = batches([23], 5, 40, seed=0)
    for number in range(10):
        addresses = [address for batch in plain[4 * number : 4 * number + 4] for address in batch]
        assert {pass_number for _, pass_number, _ in addresses} == {number}
        assert max(Counter(index for _, _, index in addresses).values()) == 1
    assert {index for batch in plain for _, _, index in batch} == set(range(23)), "a clip is never reached"


def test_sources_get_their_shares_and_keep_to_themselves() -> None:
    """Catches a ratio that is not kept, a batch of two sources, and a source whose passes skip or repeat clips."""
    mixed = batches([20, 10], 5, 2000, shares=[0.25])
    source_of = [{source for source, _, _ in batch} for batch in mixed]
    assert all(len(sources) == 1 for sources in source_of)
    assert 0.21 < sum(sources == {1} for sources in source_of) / 2000 < 0.29
    for source, size in enumerate((20, 10)):
        addresses = [address for batch in mixed for address in batch if address[0] == source]
        assert [number for _, number, _ in addresses] == sorted(number for _, number, _ in addresses)
        assert sorted(index for _, number, index in addresses if number == 3) == list(range(size))


@pytest.mark.parametrize("start", [0, 3, 39])
@pytest.mark.parametrize(("sizes", "shares"), [([23], []), ([23, 11, 9], [0.2, 0.05])])
def test_first_steps_of_each_source_are_the_runs_own(sizes: list[int], shares: list[float], start: int) -> None:
    """Catches a rehearsal of batches that the run does not have, or of more than it has."""
    sampler = PassSampler([Numbers(n) for n in sizes], 5, 40, seed=7, shares=shares, start_step=start)
    to_come = [[batch for batch in sampler if batch[0][0] == source] for source in range(len(sizes))]
    assert sampler.first_of_each(4) == [own[:4] for own in to_come]
    whole = batches(sizes, 5, 40, shares=shares)
    options = {"seed": 7, "shares": shares, "start_step": start, "keep_last": True, "world": 4}
    last = PassSampler([Numbers(n) for n in sizes], 8, 40, rank=3, **options)  # type: ignore[arg-type]
    assert [len(own) for own in last.first_of_each(4)] == [len(own[:4]) for own in to_come]
    assert sampler.steps_of_sources() == [sum(b[0][0] == source for b in whole) for source in range(len(sizes))]


def test_impossible_batches() -> None:
    """Catches an endless loop over zero batches, and processes with batches of different sizes."""
    with pytest.raises(ConfigError, match="batch_size=8, but there are only 5 clips"):
        batches([10, 5], 8, 10, shares=[0.5])
    with pytest.raises(ConfigError, match="batch_size=8 cannot be shared out among 3 processes"):
        batches([10], 8, 10, world=3)


def tokenize(texts: Sequence[str]) -> dict[str, Tensor]:
    """A letter, a token."""
    ids = torch.tensor([[ord(letter) for letter in text.ljust(8)[:8]] for text in texts])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def to_pixels(frames: np.ndarray | Tensor) -> Tensor:
    """To the small model's size."""
    return to_pixel_values(frames, 32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Small real videos with captions."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [write_video(folder / f"{i}.mp4", 6 + i) for i in range(9)]
    return [Clip(path.stem, video=path, captions=(f"a{path.stem}", f"b{path.stem}")) for path in paths]


def dataset(clips: list[Clip], size: tuple[int, int] | None = (32, 32)) -> ClipDataset:
    """With frames F, scaled by the decoder."""
    return ClipDataset(ManifestClips(clips), num_frames=4, sources=Sources(frame=True), seed=3, decoder_size=size)


def loaded(clips: list[Clip], num_workers: int, start: int = 0, rank: int = 0, world: int = 1) -> list[tuple]:
    """Everything a process of a run of eight steps is fed: ids, texts and pictures."""
    source = dataset(clips)
    sampler = PassSampler([source], 4, 8, seed=5, start_step=start, rank=rank, world=world)
    collator = Collator(tokenize, to_pixels, 32, "squash", source.sources)
    return [
        (batch.clip_ids, batch.subtitle.input_ids.tolist(), batch.video.numpy().tobytes())
        for batch in make_loader([source], sampler, collator, num_workers=num_workers)
    ]


def test_resuming_with_other_workers_and_processes(clips: list[Clip]) -> None:
    """Catches draws or an order that hang on loader workers, on the number of processes, or on the step resumed at."""
    whole = loaded(clips, num_workers=0)
    assert len(whole) == 8
    assert loaded(clips, num_workers=2, start=3) == whole[3:]
    halves = [loaded(clips, num_workers=workers, start=5, rank=rank, world=2) for rank, workers in ((0, 0), (1, 2))]
    for (ids, texts, pictures), first, second in zip(whole[5:], *halves, strict=True):
        assert ids == first[0] + second[0]
        assert texts == first[1] + second[1]
        assert pictures == first[2] + second[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_are_told_in_one_line_wherever_they_happen(clips: list[Clip], tmp_path: Path, workers: int) -> None:
    """Catches a worker's traceback in front of the message, and another type of error than without workers."""
    picture = tmp_path / "p.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture)
    source = dataset([*clips[:3], Clip("odd", image=picture, captions=("a picture",))])
    collator = Collator(tokenize, to_pixels, 32, "squash", source.sources)
    loader = make_loader([source], PassSampler([source], 4, 2, seed=0), collator, num_workers=workers)
    with pytest.raises(ManifestError, match=r"^odd: an image or single-frame file among videos; [^\n]*\Z"):
        list(fetch(loader, []))


@pytest.mark.parametrize("size", [(32, 32), None])
def test_pixels_are_the_same_wherever_they_are_normalized(clips: list[Clip], size: tuple[int, int] | None) -> None:
    """Catches a batch whose late normalisation differs from the processor's, and scaled pictures normalised twice."""
    source = dataset(clips, size)
    samples = [source[0, i] for i in range(3)]
    batch = Collator(tokenize, to_pixels, 32, "squash", source.sources)(samples)
    assert batch.frame is not None
    assert batch.video.dtype == batch.frame.dtype == (torch.uint8 if size else torch.float32)
    normalized = batch.normalized(to_pixels)
    assert normalized.frame is not None
    for i, sample in enumerate(samples):
        assert sample.video is not None
        assert sample.frame is not None
        torch.testing.assert_close(normalized.video[i], to_pixels(sample.video), rtol=0, atol=0)
        torch.testing.assert_close(normalized.frame[i], to_pixels(sample.frame), rtol=0, atol=0)


class Ending:
    """A loader with one batch, and then an error."""

    def __init__(self, error: Exception):
        self.error = error

    def __iter__(self) -> Iterator[int]:
        yield 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
    ],
)
def test_a_worker_process_that_ends(error: Exception) -> None:
    """Catches "connection reset by peer" in place of a saved step: torchrun ends workers and trainer by one signal."""
    assert list(fetch(Ending(error), [signal.SIGTERM])) == [1]  # type: ignore[arg-type]
    with pytest.raises(ClipVipError, match="a process that loads clips died"):
        list(fetch(Ending(error), []))  # type: ignore[arg-type]


class Failing:
    """A data set that a remote store has let down."""

    def __init__(self, kind: type[Exception]):
        self.kind = kind

    def __getitem__(self, _: object) -> None:
        raise self.kind("first: no answer\nDataLoader worker (pid 7): is not meant")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [RuntimeError, ConnectionError, EOFError])
def test_what_a_data_set_raises_is_no_death(kind: type[Exception], workers: int) -> None:
    """Catches a false trail: an error of a data set, or of a remote store, reported as a process that died, or in other
    words than its own.
    """
    collator = Collator(tokenize, to_pixels, 32, "squash", Sources())
    loader = make_loader([Failing(kind)], [[(0, 0, 0)]], collator, num_workers=workers)  # type: ignore[list-item]
    with pytest.raises(kind, match=r"\Afirst: no answer\nDataLoader worker \(pid 7\): is not meant\Z"):
        list(fetch(loader, []))


def test_an_error_of_torch_is_passed_on() -> None:
    """Catches an error of the thread that pins memory reported as a process that died."""
    with pytest.raises(RuntimeError, match="Caught it in pin memory thread"):
        list(fetch(Ending(RuntimeError("Caught it in pin memory thread")), []))  # type: ignore[arg-type]


def test_a_source_without_the_wanted_texts(clips: list[Clip]) -> None:
    """Catches a run that trains on nothing: every text masked, the loss zero."""
    with pytest.raises(ManifestError, match=r"none of 9 clips has a 'subtitle' text \(first: 0\)"):
        ClipDataset(ManifestClips(clips), num_frames=4, sources=Sources("subtitle"), seed=0)
    with pytest.raises(ManifestError, match="this loss variant needs auxiliary captions"):
        ClipDataset(ManifestClips(clips), num_frames=4, sources=Sources(caption="caption"), seed=0)


def test_captions_are_drawn_joined_or_replaced_by_the_auxiliary_one(tmp_path: Path) -> None:
    """Catches paragraphs that are cut to one sentence, joined texts where one is to be drawn, and S from elsewhere."""
    path = write_video(tmp_path / "clip.mp4", num_frames=8)
    clips = ManifestClips(
        [Clip("a", video=path, captions=("one", "two", "three"), caption="seen"), Clip("b", video=path)]
    )

    def subtitles(sources: Sources) -> set[str | None]:
        source = ClipDataset(clips, num_frames=4, sources=sources, seed=0)
        assert source[0, 1].subtitle is None
        return {source[number, 0].subtitle for number in range(30)}

    assert subtitles(Sources()) == {"one", "two", "three"}
    assert subtitles(Sources(join_captions=True)) == {"one two three"}
    assert subtitles(Sources("caption", join_captions=True)) == {"seen"}
    joined = ClipDataset(clips, num_frames=4, sources=Sources("caption", "captions", join_captions=True), seed=0)
    assert joined[0, 0].caption == "one two three"
