"""Model folders of clipvip to `ClipVipCore`, without transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clipvip.errors import CheckpointError, ConfigError
from clipvip.files import parse_json
from clipvip.model.configuration_clipvip import ClipVipConfig
from clipvip.model.modeling_clipvip import ClipVipCore
from clipvip.weights import misfit, read_file, weights

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where transformers puts the weights of a model folder, in the order in which it looks for them."""
IGNORED = re.compile(r".*\.position_ids$")
"""Buffers of older CLIP files."""


def load_core(folder: Path) -> ClipVipCore:
    """The model of a folder, in float32, on the CPU, in evaluation mode.

    Raises: CheckpointError if `config.json` or the weights are missing, damaged, or do not fit each other.
    """
    config = read_core_config(folder)
    state = {name: tensor for name, tensor in _read_weights(folder).items() if not IGNORED.fullmatch(name)}
    with torch.device("meta"), _WithoutInit():  # all parameters come from the file
        model = ClipVipCore(config, initialize=False)
    expected = model.state_dict()
    misshaped = [name for name in expected.keys() & state.keys() if state[name].shape != expected[name].shape]
    check_keys(folder, expected.keys() - state.keys(), state.keys() - expected.keys(), misshaped)
    # float32 whatever the file holds: training steps are too small for half precision weights
    model.load_state_dict({name: tensor.to(torch.float32) for name, tensor in state.items()}, assign=True)
    return model.eval()


def read_core_config(folder: Path) -> ClipVipConfig:
    """The configuration of a folder. Raises: CheckpointError for a file that is damaged, or not of such a model."""
    try:
        settings = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("its config.json holds no settings")
        return ClipVipConfig.from_dict(settings)
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError, ConfigError) as error:
        raise CheckpointError(f"{folder}: no usable model there: {' '.join(str(error).split())}") from error


def check_keys(
    source: str | Path, missing: Iterable[str], left_over: Iterable[str], misshaped: Iterable[str] = ()
) -> None:
    """Raises: CheckpointError naming the keys by which weights do not fit a model, if there are any."""
    if missing or left_over or misshaped:
        raise misfit(
            source, "the model", missing=sorted(missing), left_over=sorted(left_over), misshaped=sorted(misshaped)
        )


class _WithoutInit(TorchFunctionMode):
    """torch's own layers are built without initial values: on "meta", those would import torch's compiler (1.5 s)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder}: no weights there (looked for {', '.join(WEIGHT_FILES)})")
    return weights(read_file(file), str(file))[0]
