"""Checkpoint files, read without running what is in them."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipvip.errors import CheckpointError
from clipvip.files import parse_json

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Entries under which training checkpoints keep the weights: open_clip's and Lightning's, the released code's restart
file, most training scripts', DeepSpeed's."""
WRAPPING_PREFIXES = ("module.", "_orig_mod.", "model.", "clip.", "clipvip.")
"""What DistributedDataParallel, torch.compile, Lightning modules and models that contain ours put before every key."""
INDEX_SUFFIX = ".index.json"
# what torch.load raises on files that are damaged, cut off or something else altogether (found by feeding it such)
_UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
_UNREADABLE_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, *_UNREADABLE)
_LFS_POINTER = b"version https://git-lfs"


def read_file(path: Path) -> Any:
    """What a checkpoint file holds, tensors on the CPU: `torch.save` or safetensors, told apart by content.

    An index of sharded weights ("model.safetensors.index.json") stands for all of its files.
    Nothing in the file is executed. Raises: CheckpointError for a file that is missing, empty, damaged, no checkpoint,
    a TorchScript archive, or a pickle that holds code.
    """
    if path.name.endswith(INDEX_SUFFIX) and path.is_file():
        return _read_shards(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if not head:
        raise CheckpointError(f"{path}: an empty file; copy or download it again")
    if head.startswith(_LFS_POINTER):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    if path.suffix == ".safetensors" or head[8:9] == b"{":  # safetensors: 8 bytes of length, then JSON
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: a damaged or cut off safetensors file ({_one_line(error)})") from error
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path}: a TorchScript archive, as OpenAI's own downloads are; it holds code, which was not executed. "
            "If you trust it, make a state dict of it and convert that: "
            f"torch.save(torch.jit.load({str(path)!r}, map_location='cpu').state_dict(), 'state_dict.pt')"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # remarks on pickle protocols: the outcome says more
            return torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, struct.error, *_UNREADABLE) as error:
        called = _code(path, error)
        if called:
            raise CheckpointError(
                f"{path}: its pickle holds code ({called}), which was not executed; if you trust where it comes from, "
                "load it in a process of its own with torch.load(..., weights_only=False) and save only its tensors: "
                "torch.save(model.state_dict(), 'state_dict.pt')"
            ) from error
        raise CheckpointError(f"{path}: damaged, cut off, or not a checkpoint ({_one_line(error)})") from error


def weights(content: Any, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a loaded checkpoint by their own names, and notes on what was taken off around them.

    Training checkpoints keep them in an entry beside epoch, optimiser and the like; wrappers put a prefix on every key.
    Raises: CheckpointError if `content` is no state dict.
    """
    notes = []
    while entries := _wrappers_in(content):
        if len(entries) > 1:
            raise CheckpointError(
                f"{where}: weights in several entries ({', '.join(entries)}); save the one that you mean as a file of "
                f"its own: torch.save(checkpoint[{entries[0]!r}], 'state_dict.pt')"
            )
        others = ", ".join(sorted(str(key) for key in content if key != entries[0]))
        notes.append(f"weights are its entry {entries[0]!r}" + (f"; not read: {others}" if others else ""))
        content = content[entries[0]]
    if not isinstance(content, Mapping) or not content:
        kind = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise CheckpointError(f"{where}: holds {kind}, expected a state dict (names and tensors)")
    state = dict(content)
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: {key!r} is a {type(value).__name__}; a state dict has only named tensors")
        if not key.isprintable():
            raise CheckpointError(f"{where}: {key!r} is no parameter's name; the file may be damaged")
    wrapping = ""
    while prefix := next((prefix for prefix in WRAPPING_PREFIXES if all(key.startswith(prefix) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        wrapping += prefix
    if wrapping:
        notes.append(f"prefix {wrapping!r} taken off every key")
    return state, tuple(notes)


def misfit(
    where: str | Path,
    what: str,
    *,
    missing: Iterable[str] = (),
    left_over: Iterable[str] = (),
    misshaped: Iterable[str] = (),
) -> CheckpointError:
    """The error for weights that do not fit `what`: how many keys of each kind are in the way, and the first three."""
    kinds = {"missing": missing, "left over": left_over, "of another shape": misshaped}
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, keys in kinds.items()
        if (names := list(keys))
    ]
    return CheckpointError(f"{where}: weights do not fit {what}: {'; '.join(problems)}")


def _wrappers_in(content: Any) -> list[str]:
    """The entries that may hold the weights of a training checkpoint; none of a state dict."""
    if not isinstance(content, Mapping):
        return []
    entries = [entry for entry in WRAPPERS if isinstance(content.get(entry), Mapping)]
    return [entry for entry in entries if _holds_tensors(content[entry])] or entries


def _holds_tensors(content: Any) -> bool:
    """Whether tensors are in it, at any depth."""
    if not isinstance(content, Mapping):
        return False
    return any(isinstance(value, Tensor) or _holds_tensors(value) for value in content.values())


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index of sharded weights lists, each of which is beside it."""
    try:
        files = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in files.values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: no index of sharded weights ({_one_line(error)})") from error
    state: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name or name.endswith(INDEX_SUFFIX) or not name.isprintable():
            raise CheckpointError(f"{index}: lists {name!r}, which is no file beside it")
        state |= weights(read_file(index.with_name(name)), str(index.with_name(name)))[0]
    if missing := sorted(files.keys() - state.keys()):
        raise CheckpointError(f"{index}: {len(missing)} of its tensors are in none of its files ({missing[0]}, ...)")
    return state


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except _UNREADABLE_ZIP:
        return False


def _code(path: Path, error: Exception) -> str:
    """What a pickle wants to call, "" if torch refused it for another reason. Reads opcodes, executes none."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return named[1]
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(_pickle_in(path))):
            if opcode.name in ("GLOBAL", "INST"):
                return str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:  # no pickle either
        return ""
    return ""


def _pickle_in(path: Path, limit: int = 2**20) -> bytes:
    """The pickle of a `torch.save` archive, or the start of the file itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith("data.pkl")), "data.pkl")
            with archive.open(name) as file:
                return file.read(limit)
    except _UNREADABLE_ZIP:
        with path.open("rb") as file:
            return file.read(limit)


def _one_line(error: Exception) -> str:
    """An error's first sentence: torch's own advice, to load with `weights_only=False`, is not ours."""
    text = " ".join(str(error).split())
    text = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
    return text[:120] or type(error).__name__
