"""Supervised processes, and long work on many items that can be killed at any moment."""

from clipvip.jobs.pool import DecodePool, Pool, prefetch, prefetch_streams, time_limit_s
from clipvip.jobs.runner import Engine, PartWorker, Receipt, Task, local, run_job
from clipvip.jobs.worker import Beat, MachineLost, NotStarted, Worker, WorkerDied, end_with_parent, usable_cpus

__all__ = [
    "Beat", "DecodePool", "Engine", "MachineLost", "NotStarted", "PartWorker", "Pool", "Receipt", "Task", "Worker",
    "WorkerDied", "end_with_parent", "local", "prefetch", "prefetch_streams", "run_job", "time_limit_s", "usable_cpus",
]  # fmt: skip
