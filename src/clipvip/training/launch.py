"""What surrounds a run: its processes, its device, its trackers, and signals that ask it to end."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, DynamoBackend, LoggerType

from clipvip import distributed
from clipvip.errors import ConfigError, TrainingError
from clipvip.training.config import Recipe
from clipvip.training.memory import ran_out


def start_accelerator(trackers: Sequence[str], folder: Path) -> Accelerator:
    """Join the other processes, if a launcher (torchrun, accelerate) started several; curves go to `folder`.

    Raises: ConfigError for a tracker that is unknown or not installed; TrainingError if the processes do not see each
    other.
    """
    check_trackers(trackers)
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if 0 < gpus < here:
        raise TrainingError(
            f"{here} processes on a machine with {gpus} GPUs: start one a GPU (--nproc-per-node {gpus})"
        )
    accelerator = Accelerator(
        cpu=expected > 1 and gpus == 0,  # else accelerate makes each process a run of its own
        mixed_precision="no",  # the recipe's business, whatever accelerate is configured for
        log_with=list(trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if not accelerator.num_processes == distributed.world() == expected:
        raise TrainingError(
            f"{expected} processes were started, but this one sees {accelerator.num_processes}: they do not see each "
            "other; start them with torchrun or accelerate launch, on CPUs with ACCELERATE_USE_CPU=true"
        )
    plain = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in plain or accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        problem = TrainingError(
            f"accelerate is configured for {accelerator.distributed_type.value} with dynamo backend "
            f"{accelerator.state.dynamo_plugin.backend.value}: this trainer shares batches with DDP alone; start it "
            "with torchrun, or take that out of accelerate's configuration (compilation is train.compile=true)"
        )
        raise distributed.said_once(problem)
    atexit.register(distributed.leave)
    return accelerator


def start_trackers(accelerator: Accelerator, trackers: Sequence[str]) -> None:
    """Once it is sure that there will be a run."""
    accelerator.init_trackers("tensorboard" if tuple(trackers) == ("tensorboard",) else "clipvip")


def check_trackers(trackers: Sequence[str]) -> None:
    """Raises: ConfigError for a tracker that is unknown or not installed."""
    known = sorted(str(kind.value) for kind in LoggerType if kind is not LoggerType.ALL)
    installed = {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
    for name in trackers:
        if name not in known:
            raise ConfigError(f"train.trackers: {name!r} is unknown; choose of {', '.join(known)}, or give [] for none")
        if name not in installed:
            raise ConfigError(f"train.trackers: {name!r} is not installed; pip install it, or leave it out")


def check_same_weights(model: torch.nn.Module, step: int) -> None:
    """Raises: TrainingError if the processes are about to train different models, or at different steps."""
    total = sum(float(parameter.detach().double().sum()) for parameter in model.parameters())
    if len(set(distributed.exchange((step, total)))) > 1:
        problem = TrainingError(
            "the processes of this run hold different weights; they must all see the same --workdir and model.init "
            "(a shared file system) and run the same version of clipvip and torch"
        )
        raise distributed.said_once(problem)


@contextmanager
def run_conditions(recipe: Recipe) -> Iterator[None]:
    """Set a run's precision of float32 products, and report what goes wrong around it in one line.

    Raises: TrainingError if memory runs out, another process is lost, or train.compile is not possible here.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(recipe.train.float32_matmul)
    try:
        yield
    except RuntimeError as error:
        if recipe.train.compile:
            from torch._dynamo.exc import TorchDynamoException  # slow to import; a run that compiles has it loaded

            if isinstance(error, TorchDynamoException):
                reason = str(error).strip().splitlines()[0]
                raise TrainingError(
                    f"train.compile=true: {reason}; install a C++ compiler, or set train.compile=false"
                ) from error
        if ran_out(error):
            raise TrainingError(
                f"out of memory ({str(error).splitlines()[0]}); take a smaller train.micro_batch, or "
                "train.activation_checkpointing=true; clipvip train ... --dry-run shows what fits"
            ) from error
        if not distributed.is_loss(error):
            raise
        problem = TrainingError("another process of this run ended; its message, or the launcher's, says why")
        problem.repeated = True
        raise problem from error
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def note_signals() -> Iterator[list[int]]:
    """Gives a list that SIGINT and SIGTERM are added to, instead of striking in the middle of a step.

    A second one strikes at once. Ignored signals stay ignored; outside the main thread nothing changes.
    """
    noted: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: FrameType | None) -> None:
        if noted:
            restore()
            signal.raise_signal(number)
        noted.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
