"""On what a result was made: versions, commit, hardware. No paths, and no names of users or machines."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("clipvip", "torch", "numpy", "transformers", "accelerate", "av")


def versions() -> dict[str, str]:
    """Of Python and of what decides figures."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def commit() -> dict[str, Any] | None:
    """{"hash", "changed"} of the checkout that this package runs from; None if it is installed, or there is no git."""
    folder = Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # some other checkout around the place it is installed in
    found = _git(folder, "rev-parse", "HEAD")
    return (
        None if found is None else {"hash": found, "changed": bool(_git(folder.parent, "status", "--porcelain", "."))}
    )


def hardware() -> dict[str, Any]:
    """Processor, memory and GPUs."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    with suppress(ValueError, OSError, AttributeError):  # systems that do not tell
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None
