"""One resumable runner for bulk work: items are cut into numbered parts, and each part becomes one file.

A part's file is moved into place when it is complete, then its receipt: what has a receipt without failures is not
done again, all else is: what failed may have been repaired. So a job may be killed at any moment; the same command
resumes it, and nothing is lost or done twice.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from clipvip.errors import ClipVipError, UsageError
from clipvip.files import file_digest, locked, parse_json, replace_text, replacing
from clipvip.jobs.pool import Pool, prefetch
from clipvip.jobs.worker import Beat, MachineLost, Worker, WorkerDied

T = TypeVar("T")
Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
Receipt: TypeAlias = dict[str, Any]
"""part, file, bytes, sha256, items (how many), failures ([[name, reason], ...]), and what the task's `run` returned."""
Progress = Callable[[int], None]

ENOUGH_TO_JUDGE = 100
"""Items before the share of bad ones can stop a job on its way (at its end it always can)."""


class Task(Protocol[Item_contra]):
    """What a job does with its items; picklable. Worker processes are spawned and import only what it needs.

    name, suffix: part 12 becomes `{name}-000012{suffix}`. memory_bytes: limit of a worker's address space.
    """

    name: str
    suffix: str
    memory_bytes: int | None

    def settings(self) -> dict[str, Any]:
        """What the parts depend on, ready for JSON: a folder of parts with other settings is another job's."""

    def name_of(self, item: Item_contra) -> str:
        """What people call it (its clip_id)."""

    def timeout_s(self, item: Item_contra) -> float:
        """How long a worker on this item may give no sign of life before it is killed."""

    def run(self, items: Sequence[Item_contra], path: Path, beat: Beat) -> dict[str, Any]:
        """Do one part: write `path` (a temporary name), call `beat` after each item, return facts for the receipt.

        `beat(0)` is a sign of life from an item that takes long. `items` may be empty. Items that were left out are
        listed under "failures": [[name, reason], ...].
        """


class PartWorker(Protocol):
    """A process somewhere that does one part at a time, and is replaced after it died: `Worker`, or one like it."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def call(self, function: Callable[..., T], *args: Any, timeout_s: float | None, on_beat: Beat | None = None) -> T:
        """`task.run(items, path, beat)` in that process; `path` is a file of this machine. See `Worker.call`.

        Raises: WorkerDied; MachineLost; what the task raised.
        """

    def close(self) -> None:
        """End the process, if there is one, and start no other: a call that is running fails with WorkerDied."""


Engine = Callable[[Task[Any]], PartWorker]
"""Makes a worker for a task: `local`, or one of `jobs.on_ray`."""


def local(task: Task[Any]) -> Worker:
    """A supervised process of this machine."""
    return Worker(memory_bytes=task.memory_bytes)


def run_job(
    task: Task[Item],
    items: Iterable[Item],
    out: Path,
    *,
    source: Mapping[str, Any],
    part_size: int,
    workers: int = 1,
    engine: Engine = local,
    progress: Progress = lambda count: None,
    max_bad_share: float | None = None,
    still_holds: Callable[[Receipt, Sequence[Item]], bool] = lambda receipt, items: True,
) -> list[Receipt]:
    """Do what is not yet done of a job in the folder `out`, by `workers` that `engine` makes; receipts of all parts.

    items: read as they are needed, cut in their order into parts of `part_size`. source: identifies them; it is written
        to job.json with the task's settings.
    progress: is called with how many more items are done. still_holds: whether a part that is done still fits its
        items; if not, it is done again.

    A part whose worker dies, or fails with anything but a ClipVipError or OSError, is tried again item by item; the
    culprits are left out and listed among the receipt's failures. A part whose machine is lost is given to another.
    Raises: UsageError if `out` belongs to another job or another process works there; ClipVipError if more than
    `max_bad_share` of the items are bad or no worker is left, or what the task raised. Parts that are done are kept.
    """
    job = {"task": task.name, "part_size": part_size, "settings": task.settings(), "source": dict(source)}
    receipts: dict[int, Receipt] = {}
    bad_share = _BadShare(max_bad_share, out)

    def todo() -> Iterator[_Part[Item]]:
        for number, part in enumerate(_batched(items, part_size)):
            receipt = _receipt_of(task, number, out)
            if receipt is None or receipt["failures"] or not still_holds(receipt, part):
                yield _Part(task, number, part, out, progress)
            else:
                receipts[number] = receipt
                bad_share.add(receipt)
                progress(len(part))

    with _claimed(out, job):
        for receipt in _run(todo(), Pool([engine(task) for _ in range(workers)])):
            receipts[receipt["part"]] = receipt
            bad_share.add(receipt)
    bad_share.check()
    return [receipts[number] for number in sorted(receipts)]


def _run(parts: Iterable[_Part[Item]], pool: Pool[PartWorker]) -> Iterator[Receipt]:
    """The receipts as parts get done; parts are read as workers become free."""

    def do(part: _Part[Item]) -> Receipt:
        while True:
            with suppress(MachineLost), pool.checkout() as worker:
                return part.do(worker)

    size = len(pool)
    with pool:
        yield from prefetch(do, parts, ahead=size + 1, threads=size, ordered=False, on_stop=pool.close)


class _Part(Generic[Item]):
    """A part on its way to its file and receipt."""

    def __init__(self, task: Task[Item], number: int, items: list[Item], out: Path, progress: Progress):
        self.task, self.number, self.items, self.progress = task, number, items, progress
        self.path, self.receipt = _file_of(task, number, out), _receipt_file(number, out)
        self.num_reported = 0  # items that `progress` knows of

    def do(self, worker: PartWorker) -> Receipt:
        """Write the file, then the receipt."""
        self.receipt.parent.mkdir(exist_ok=True)
        with replacing(self.path) as temporary:
            facts, poisoned = self._attempts(worker, temporary)
            digest, size = file_digest(temporary), temporary.stat().st_size
        failures = [list(failure) for failure in (*facts.pop("failures", ()), *poisoned)]
        receipt = {
            "part": self.number, "file": self.path.name, "bytes": size, "sha256": digest, "items": len(self.items),
            "failures": failures, **facts,
        }  # fmt: skip
        replace_text(self.receipt, json.dumps(receipt))
        self._report(len(self.items))
        return receipt

    def _attempts(self, worker: PartWorker, path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """All items at once, or else those that go alone; facts, and the names of the others with their reasons."""

        def attempt(items: list[Item]) -> dict[str, Any]:
            done = 0

            def on_beat(count: int = 1) -> None:
                nonlocal done
                done += count
                if len(items) > 1:
                    self._report(min(done, len(items)))  # a worker may have begun again on another machine

            timeout_s = max(map(self.task.timeout_s, items), default=60.0)
            return worker.call(self.task.run, items, path, timeout_s=timeout_s, on_beat=on_beat)

        try:
            return attempt(self.items), []
        except Exception as error:  # noqa: BLE001 - raises what is foreseen
            _describe_culprit(error, worker)
        good, poisoned = [], []
        for number, item in enumerate(self.items, 1):
            try:
                attempt([item])
                good.append(item)
            except Exception as error:  # noqa: BLE001
                poisoned.append((self.task.name_of(item), _describe_culprit(error, worker)))
            self._report(number)
        try:
            return attempt(good), poisoned
        except Exception as error:
            reason = _describe_culprit(error, worker)
            raise ClipVipError(
                f"{self.path}: its items pass one by one, but not together ({reason}); try again"
            ) from error

    def _report(self, done: int) -> None:
        """Count items once, however often they are tried."""
        if done > self.num_reported:
            self.progress(done - self.num_reported)
            self.num_reported = done


def _describe_culprit(error: Exception, worker: PartWorker) -> str:
    """What to say of items that make a worker die or fail in an unforeseen way. Raises: `error`, if it is foreseen."""
    foreseen = isinstance(error, ClipVipError | OSError) and not isinstance(error, WorkerDied)
    if foreseen or worker.closed:
        raise error
    return f"the process that worked on it {error}" if isinstance(error, WorkerDied) else repr(error)


class _BadShare:
    """Stops a job when too many of its items are bad."""

    def __init__(self, max_share: float | None, out: Path):
        self.max_share, self.out = max_share, out
        self.items, self.bad, self.example = 0, 0, ""

    def add(self, receipt: Receipt) -> None:
        """Raises: ClipVipError as soon as the share is too large."""
        self.items += receipt["items"]
        self.bad += len(receipt["failures"])
        if receipt["failures"] and not self.example:
            self.example = ": ".join(receipt["failures"][0])
        if self.items >= ENOUGH_TO_JUDGE:
            self.check()

    def check(self) -> None:
        """Raises: ClipVipError if the share is too large."""
        if self.max_share is not None and self.bad > self.max_share * self.items:
            raise ClipVipError(
                f"{self.out}: {self.bad} of {self.items} clips are bad, more than {self.max_share:.1%}; the first is "
                f"{self.example}; repair them, or allow more (--max-bad-share); the same command then resumes"
            )


def _is_of_start(path: Path) -> bool:
    """Whether another process that is just starting the same job may have made it."""
    return path.name == ".lock" or path.match("job.json.*partial")


@contextmanager
def _claimed(out: Path, job: dict[str, Any]) -> Iterator[None]:
    """The folder, for this job and this process alone."""
    out.mkdir(parents=True, exist_ok=True)
    description = out / "job.json"
    if not description.exists() and (others := [path.name for path in out.iterdir() if not _is_of_start(path)]):
        raise UsageError(f"{out}: holds other files ({min(others)}, ...), and is no job's folder; choose a new one")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out))
        except BlockingIOError:
            raise UsageError(
                f"{out}: another process is working there; wait for it, or choose another folder"
            ) from None
        job = json.loads(json.dumps(job))
        if not description.exists():
            replace_text(description, json.dumps(job, indent=2))
        elif (old := _described(description)) != job:
            different = ", ".join(sorted(key for key in {*old, *job} if old.get(key) != job.get(key)))
            raise UsageError(
                f"{out}: holds another job (different: {different}; see {description}); choose another folder, or "
                "delete it to start again"
            )
        for leftover in (*out.glob(f"{job['task']}-*.partial"), *out.glob("receipts/*.partial")):
            leftover.unlink()
        yield


def _described(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: damaged ({error}); delete the folder to start again") from None


def _receipt_of(task: Task[Item], number: int, out: Path) -> Receipt | None:
    """Of a part that is done: its file is there as the receipt says."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        receipt: Receipt = parse_json(_receipt_file(number, out).read_text(encoding="utf-8"))
        if _file_of(task, number, out).stat().st_size == receipt["bytes"]:
            return receipt
    return None


def _file_of(task: Task[Item], number: int, out: Path) -> Path:
    return out / f"{task.name}-{number:06d}{task.suffix}"


def _receipt_file(number: int, out: Path) -> Path:
    return out / "receipts" / f"{number:06d}.json"


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
