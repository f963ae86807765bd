"""Long work on many items that can be killed at any moment, and workers that may crash."""

from clipvip.jobs.decoding import DecodePool
from clipvip.jobs.runner import Receipt, Task, run_job
from clipvip.jobs.worker import Worker, WorkerDied

__all__ = ["DecodePool", "Receipt", "Task", "Worker", "WorkerDied", "run_job"]
