"""The paper's fine-tuning runs, to be repeated by anyone: what is known of them, the steps, and a result to send.

Names are imported on first use: runs can be listed without torch.
"""

from clipvip.reproduce.definition import PublishedRun, list_runs, load_run

__all__ = ["PublishedRun", "list_runs", "load_run"]
