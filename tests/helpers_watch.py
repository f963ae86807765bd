"""Runs of the trainer that are looked at while they go on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from hashlib import sha256
from typing import Any

import pytest
import torch
from torch import Tensor

from clipvip.data import dataset
from clipvip.data.dataset import Batch, Collator, Sample
from clipvip.evaluation import Retrieval
from clipvip.model.modeling_clipvip import Block
from clipvip.training import trainer
from clipvip.training.state import WorkDir
from clipvip.training.step import OmnisourceObjective
from helpers_fields import frozen


@dataclass
class Seen:
    """What could be seen of a run, in values that compare. Steps count from 1; `weights[0]` is the start."""

    weights: list[dict[str, bytes]] = field(default_factory=list)
    model: dict[str, bytes] = field(default_factory=dict)  # of model/, the result
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: set[torch.dtype] = field(default_factory=set)  # of weights
    activations: set[torch.dtype] = field(default_factory=set)
    samples: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # clip, S, C
    frames: list[tuple[str, int, str]] = field(default_factory=list)  # clip, T, digest of the pictures
    encoded: list[tuple[str, ...]] = field(default_factory=list)  # clips of each pass through the encoders
    pixels: set[tuple[int, ...]] = field(default_factory=set)  # shapes
    tokens: list[list[int]] = field(default_factory=list)
    files_opened: int = 0
    retrievals: list[Retrieval] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)  # steps with a checkpoint
    matmul: set[str] = field(default_factory=set)
    workers: set[int] = field(default_factory=set)  # how many processes
    block_passes: int = 0
    graphs: int = 0
    layers: set[str] = field(default_factory=set)  # kinds of attention layers
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the log
    files: set[str] = field(default_factory=set)
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    others: set[Any] = field(default_factory=lambda: set(multiprocessing.active_children()))  # of before

    # The rest is told by the spies below, each with a call's result and arguments.

    def built(self, _: None, run: trainer.Run, *__: Any) -> None:
        self.weights.append(frozen(run.model))
        self.shapes = {name: tuple(value.shape) for name, value in run.model.named_parameters()}
        self.dtypes = {value.dtype for value in run.model.parameters()}
        run.model.text_projection.register_forward_hook(lambda *arguments: self.activations.add(arguments[-1].dtype))
        self.layers = {type(block.self_attn).__name__ for block in run.model.modules() if isinstance(block, Block)}
        if not run.recipe.train.compile:  # else the hook is what would be compiled
            for block in run.model.modules():
                if isinstance(block, Block):
                    block.self_attn.register_forward_pre_hook(self.passed)  # hooks of a block see no recomputing

    def passed(self, *_: Any) -> None:
        self.block_passes += 1

    def updated(self, _: Any, run: trainer.Run, *__: Any) -> None:
        self.weights.append(frozen(run.model))
        self.matmul.add(torch.get_float32_matmul_precision())
        self.workers.add(len(set(multiprocessing.active_children()) - self.others))

    def collated(self, _: Batch, __: Collator, samples: list[Sample]) -> None:
        self.samples += [(sample.clip_id, sample.subtitle, sample.caption) for sample in samples]
        self.frames += [
            (sample.clip_id, len(sample.video), sha256(sample.video.tobytes()).hexdigest())
            for sample in samples
            if sample.video is not None
        ]

    def featured(self, _: dict[str, Tensor], __: OmnisourceObjective, batch: Batch) -> None:
        self.encoded.append(batch.clip_ids)
        self.pixels.add(tuple(batch.normalized(lambda frames: frames.movedim(-1, 1)).video.shape))
        self.tokens += batch.subtitle.input_ids.tolist()

    def opened(self, *_: Any, **__: Any) -> None:
        self.files_opened += 1

    def retrieved(self, found: Retrieval, *_: Any, **__: Any) -> None:
        self.retrievals.append(found)

    def checkpointed(self, _: None, __: WorkDir, step: int, *___: Any) -> None:
        self.saved.append(step)


@contextmanager
def watched(seen: Seen) -> Iterator[None]:
    """Calls go through as they are; `seen` is told of each when it is done."""
    with pytest.MonkeyPatch.context() as patch:

        def spy(owner: Any, name: str, note: Callable[..., None]) -> None:
            plain = getattr(owner, name)

            @wraps(plain)
            def spied(*arguments: Any, **options: Any) -> Any:
                result = plain(*arguments, **options)
                note(result, *arguments, **options)
                return result

            patch.setattr(owner, name, spied)

        spy(trainer.Run, "__init__", seen.built)
        spy(trainer.Run, "update", seen.updated)
        spy(Collator, "__call__", seen.collated)
        spy(OmnisourceObjective, "features", seen.featured)
        spy(dataset, "read_frames", seen.opened)
        spy(trainer, "run_retrieval", seen.retrieved)
        spy(WorkDir, "save_checkpoint", seen.checkpointed)
        with graphs_counted(patch, seen):
            yield


@contextmanager
def graphs_counted(patch: pytest.MonkeyPatch, seen: Seen) -> Iterator[None]:
    """Graphs that torch.compile makes are run as they are: generating code takes a minute (test_train_cli.py does)."""
    torch._dynamo.reset()  # graphs are kept for later models of the same kind: neither side may have the other's
    patch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **options: graph)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    try:
        yield
    finally:
        seen.graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        torch._dynamo.reset()
