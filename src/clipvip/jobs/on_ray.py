"""Workers of a Ray cluster: actors that keep what they have loaded, on GPUs where the cluster has some.

Parts come back through Ray's object store and are written by the driver, so only the media have to be visible to all
machines, not the folder of the job.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from clipvip.errors import UsageError
from clipvip.jobs.runner import Engine
from clipvip.jobs.worker import Beat, MachineLost, WorkerDied

T = TypeVar("T")

START_S = 180.0
"""An actor that did not start within this time is taken for lost: the cluster has no room for it."""
POLL_S = 0.5
CURRENT_CLUSTER = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
"""Where Ray writes the address of the cluster that was started last on this machine; it stays there when that dies."""


class _Actor:
    """The process on the cluster. `progress` answers while `run` is at work."""

    def __init__(self) -> None:
        self.beats, self.count = 0, 0

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def progress(self) -> tuple[int, int]:
        """Signs of life so far, and items done."""
        return self.beats, self.count

    def run(self, function: Callable[..., Any], items: Sequence[Any]) -> tuple[Any, bytes]:
        """What `function(items, path, beat)` returned, and the file that it wrote to `path`."""
        self.beats, self.count = 0, 0

        def beat(count: int = 1) -> None:
            self.beats += 1
            self.count += count

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part"
            return function(items, path, beat), path.read_bytes()


class RayWorker:
    """A `PartWorker` whose process is an actor. options: Ray's, such as num_gpus.

    When its machine leaves the cluster it starts again on another, with the part it was at.
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options
        self._actor: Any = None
        self._node = ""
        self.closed = False

    def call(self, function: Callable[..., T], *args: Any, timeout_s: float | None, on_beat: Beat | None = None) -> T:
        """See `PartWorker`."""
        items, path = args
        deaths = 0
        while not self.closed:
            actor = self._actor or self._start()
            try:
                result, content = self._follow(actor, actor.run.remote(function, list(items)), timeout_s, on_beat)
            except RayTaskError as error:
                raise error.cause from None  # what the task raised
            except RayActorError as error:
                self._actor = None
                deaths += self._machine_lives()  # the cluster may notice its loss seconds later: try once more
                if deaths > 1 and not self.closed:
                    raise WorkerDied(f"crashed ({' '.join(str(error).split())[:200]})") from None
            else:
                path.write_bytes(content)
                return result
        raise WorkerDied("is closed")

    def close(self) -> None:
        """End the actor."""
        self.closed = True
        self._end()

    def _start(self) -> Any:
        actor = ray.remote(_Actor).options(max_concurrency=2, max_restarts=0, **self._options).remote()
        try:
            self._node = ray.get(actor.node.remote(), timeout=START_S)
        except (GetTimeoutError, RayActorError) as error:
            ray.kill(actor)
            raise MachineLost(f"the cluster has no room for this worker ({type(error).__name__})") from None
        self._actor = actor
        return actor

    def _follow(self, actor: Any, answer: Any, timeout_s: float | None, on_beat: Beat | None) -> tuple[Any, bytes]:
        """The answer; beats are passed on until it is there."""
        beats, count, silent_s = 0, 0, 0.0
        while not ray.wait([answer], timeout=POLL_S)[0]:
            now, done = ray.get(actor.progress.remote())
            silent_s = 0.0 if now > beats else silent_s + POLL_S
            if done > count and on_beat is not None:
                on_beat(done - count)
            beats, count = now, done
            if timeout_s is not None and silent_s > timeout_s:
                self._end()
                raise WorkerDied(f"was silent for {timeout_s:.0f} s and was killed")
        result: tuple[Any, bytes] = ray.get(answer)
        return result

    def _machine_lives(self) -> bool:
        return any(node["NodeID"] == self._node and node["Alive"] for node in ray.nodes())

    def _end(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            ray.kill(actor)


def join(address: str | None, workers: int | None, *, wants_gpu: bool) -> tuple[Engine, int]:
    """The engine of a cluster, and how many workers it has room for if `workers` is None.

    address: "auto" (the cluster that runs on this machine) or host:port; None: RAY_ADDRESS if that is set, else a new
        cluster on this machine, which ends with this process.
    wants_gpu: each worker gets a GPU where the cluster has any, else a CPU.
    Raises: UsageError if there is no such cluster.
    """
    if not ray.is_initialized():
        # without one, Ray would look for a cluster that was started here, and wait for minutes for one that has died
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            _check_answers(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--address {address}: no Ray cluster there ({reason}); start one with `ray start --head`, or leave "
                "--address out for this machine alone"
            ) from None
    resources = ray.cluster_resources()
    kind = "GPU" if wants_gpu and resources.get("GPU", 0) >= 1 else "CPU"
    options = {"num_gpus": 1, "num_cpus": 1} if kind == "GPU" else {"num_cpus": 1}
    room = max(1, int(resources.get(kind, 1)))
    return (lambda task: RayWorker(options)), workers or room


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes. Raises: OSError if nobody answers there; ValueError if it is no address."""
    if address == "auto":
        try:
            address = CURRENT_CLUSTER.read_text(encoding="utf-8").strip()
        except OSError:
            return  # Ray looks for a running one itself, and quickly
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host, int(port)), timeout=10.0).close()
