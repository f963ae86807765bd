"""The paper's fine-tuning runs, for anyone to repeat: what is known of them, the steps, and a result to send in.

Names are imported on first use: runs can be listed without torch.
"""

from clipvip.reproduce.definition import PublishedRun, list_runs, load_run

__all__ = ["PublishedRun", "list_runs", "load_run"]
