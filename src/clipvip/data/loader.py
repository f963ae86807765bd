"""Batches in an order that is a pure function of (seed, step), so that resuming needs one integer.

Batches are cut globally and then among processes: another number of processes or loader workers sees the same batches.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from clipvip.data.dataset import Batch, ClipDataset, Collator
from clipvip.errors import ClipVipError, ConfigError

Address = tuple[int, int, int]
"""(source, pass, index): a clip of one of the sources, in one of the passes over it."""


class Ordered(Protocol):
    """What the sampler needs of a data set."""

    def __len__(self) -> int: ...

    def order(self, seed: int, pass_number: int) -> np.ndarray:
        """The clips of a pass, each once: int64 [N]."""


class PassSampler(Sampler[list[Address]]):
    """Batches of addresses from `start_step` to `num_steps`, or the part of each that is this process's.

    Each batch comes from one source: the first, or one of the others, which take `shares` of the steps (image-text sets
    have one frame a clip, so they cannot share a batch with videos). Every pass over a source has an order of its own;
    the clips that do not fill a last batch wait for a later pass, so that no batch holds a clip twice (it would be its
    own negative).

    rank, world: the process, and how many share each batch of `batch_size`.
    keep_last: the clips of a pass that do not fill a batch become a smaller one, of which a process may have nothing.
    Raises: ConfigError if a source is smaller than a batch, or a batch cannot be shared out evenly.
    """

    def __init__(
        self,
        sources: Sequence[Ordered],
        batch_size: int,
        num_steps: int,
        *,
        seed: int,
        shares: Sequence[float] = (),
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        keep_last: bool = False,
    ):
        for source in sources:
            if len(source) < batch_size:
                raise ConfigError(
                    f"batch_size={batch_size}, but there are only {len(source)} clips: choose at most that"
                )
        if batch_size % world:
            raise ConfigError(
                f"batch_size={batch_size} cannot be shared out among {world} processes: choose a multiple"
            )
        self.sources = sources
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.shares = [1.0 - sum(shares), *shares]
        self.start_step = start_step
        self.rank, self.world = rank, world
        self.keep_last = keep_last

    def __len__(self) -> int:
        return self.num_steps - self.start_step

    def __iter__(self) -> Iterator[list[Address]]:
        return (addresses for _, addresses in self._steps())

    def _steps(self) -> Iterator[tuple[int, list[Address]]]:
        """The source of each step to come, and this process's share of its batch."""
        source_of = self._sources_of_steps()
        taken = np.bincount(source_of[: self.start_step], minlength=len(self.sources)).tolist()
        orders: dict[int, tuple[int, np.ndarray]] = {}
        for source in source_of[self.start_step :].tolist():
            per_pass = steps_per_pass(len(self.sources[source]), self.batch_size, keep_last=self.keep_last)
            pass_number, position = divmod(taken[source], per_pass)
            taken[source] += 1
            if orders.get(source, (None,))[0] != pass_number:
                orders[source] = pass_number, self.sources[source].order(self.seed, pass_number)
            start = position * self.batch_size
            batch = orders[source][1][start : start + self.batch_size]
            mine = np.array_split(batch, self.world)[self.rank]
            yield source, [(source, pass_number, index) for index in mine.tolist()]

    def first_of_each(self, count: int) -> list[list[list[Address]]]:
        """For each source the first `count` steps of those to come that draw from it; fewer if there are no more."""
        steps = self._sources_of_steps()[self.start_step :]
        wanted = np.minimum(np.bincount(steps, minlength=len(self.sources)), count)
        found: list[list[list[Address]]] = [[] for _ in self.sources]
        for source, addresses in self._steps():
            if len(found[source]) < count:
                found[source].append(addresses)
            if all(len(some) == number for some, number in zip(found, wanted, strict=True)):
                break
        return found

    def steps_of_sources(self) -> list[int]:
        """How many steps of the whole run draw from each source."""
        return np.bincount(self._sources_of_steps(), minlength=len(self.sources)).tolist()

    def _sources_of_steps(self) -> np.ndarray:
        """Which source each step draws from, int64 [num_steps]; longer runs only add to it."""
        if len(self.sources) == 1:
            return np.zeros(self.num_steps, np.int64)
        draws = np.random.default_rng([self.seed, len(self.sources)]).random(self.num_steps)
        return np.searchsorted(np.cumsum(self.shares)[:-1], draws, side="right")


def steps_per_pass(num_clips: int, batch_size: int, *, keep_last: bool = False) -> int:
    """Full batches in one pass over the clips, and with `keep_last` the smaller one that may be left."""
    return -(-num_clips // batch_size) if keep_last else num_clips // batch_size


class Mixture(Dataset[Batch]):
    """Batches of several data sets, whose clips are addressed as `PassSampler` does.

    An error is part of the answer: so it arrives from a loader process as it is, and not as the text of a traceback.
    """

    def __init__(self, datasets: Sequence[ClipDataset], collator: Collator):
        self.datasets = datasets
        self.collator = collator

    def __getitems__(self, addresses: Sequence[Address]) -> Batch | Exception:
        """The batch of these clips, or what went wrong."""
        try:
            return self.collator([self.datasets[source][pass_, index] for source, pass_, index in addresses])
        except Exception as error:  # noqa: BLE001 - whatever it is, `fetch` raises it
            return error


def make_loader(
    datasets: Sequence[ClipDataset],
    order: Iterable[list[Address]],
    collator: Collator,
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Batches (see `fetch`) of the clips that `order` names, a `PassSampler` or a list. pin_memory: for GPUs.

    Workers are spawned, not forked: decoders and tokenisers run threads.
    """
    return DataLoader(
        Mixture(datasets, collator),
        batch_sampler=order,
        collate_fn=_return_as_is,  # type: ignore[arg-type]  # `__getitems__` has made a batch of the list
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
    )


def fetch(loader: DataLoader[Batch], noted: Sequence[int]) -> Iterator[Batch]:
    """The batches of a loader.

    noted: signals that asked the run to end; they may have reached the workers too, and then the batches just end.
    Raises: what the data set raised; ClipVipError if a worker process died.
    """
    for batch in _fetch(loader, noted):
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _fetch(loader: DataLoader[Batch], noted: Sequence[int]) -> Iterator[Batch | Exception]:
    try:
        before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        batches = iter(loader)
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            # torch's own handler would raise in the middle of a step when a worker dies; `next` notices it as well
            signal.signal(signal.SIGCHLD, before if callable(before) else signal.SIG_DFL)
        yield from batches
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise  # of torch's own, such as its thread that pins memory
        if not noted:
            raise ClipVipError(
                "a process that loads clips died (out of memory, or a file that crashes the decoder); `clipvip data "
                "check` finds such files, data.num_workers changes how many processes there are"
            ) from error


def _return_as_is(batch: Batch | Exception) -> Batch | Exception:
    return batch


def _start_worker(_: int) -> None:
    """One process per core is enough: torch limits its own threads in workers, the tokeniser's are limited here.

    Ctrl-C reaches all processes of a terminal: workers continue until the trainer, which ends its step first, is done.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
