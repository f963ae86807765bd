"""Long work on many items that can be killed at any moment, and workers that may crash."""

from clipvip.jobs.decoding import DecodePool
from clipvip.jobs.runner import Engine, PartWorker, Receipt, Task, local, run_job
from clipvip.jobs.worker import Beat, MachineLost, NotStarted, Worker, WorkerDied

__all__ = [
    "Beat", "DecodePool", "Engine", "MachineLost", "NotStarted", "PartWorker", "Receipt", "Task", "Worker",
    "WorkerDied", "local", "run_job",
]  # fmt: skip
