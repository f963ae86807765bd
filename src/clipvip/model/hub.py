"""How a model is named: a folder, or a hub id with an optional revision. Code that comes with a model is never run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from clipvip.errors import CheckpointError
from clipvip.files import parse_json
from clipvip.model.configuration_clipvip import END_TOKEN_PLACEHOLDER, ClipVipConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

OPENAI_VOCABULARY = 49408
"""Ids of the tokeniser that all public CLIP models share; the last is the end token."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def split_revision(source: str | Path) -> tuple[str, str | None]:
    """ "ID@REVISION" to the hub id and the branch, tag or commit; whatever exists on disk is a path, "@" and all."""
    name, at, revision = str(source).rpartition("@")
    if at and revision and _HUB_ID.fullmatch(name) and not Path(source).exists():
        return name, revision
    return str(source), None


def locate(source: str | Path) -> tuple[str, dict[str, Any]]:
    """What to give to `from_pretrained` of transformers: the folder or hub id, and the options that go with it.

    A sentence-transformers folder stands for the CLIP folder in it.
    Raises: CheckpointError for a folder that holds something else than a whole model, with what to do.
    """
    name, revision = split_revision(source)
    if revision is not None and Path(name).is_dir():
        raise CheckpointError(
            f"{source}: {name} is a folder here, and folders have no revisions; leave out @{revision}"
        )
    options = {"trust_remote_code": False} | ({} if revision is None else {"revision": revision})
    return (str(_model_folder(Path(name))) if Path(name).is_dir() else name), options


def own_folder(source: str | Path) -> Path | None:
    """The folder that a clipvip model is in, if `source` is one: it can be loaded without transformers."""
    folder = Path(locate(source)[0])
    if not (folder / "config.json").is_file():
        return None
    settings = _read_json(folder / "config.json")
    is_own = isinstance(settings, dict) and settings.get("model_type") == ClipVipConfig.model_type
    return folder if is_own else None


def refuse_foreign_code(source: str | Path) -> None:
    """Raises: CheckpointError for a model of a type that only code of its own knows; OSError if there is no config."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name, options = locate(source)
    settings, _ = PreTrainedConfig.get_config_dict(name, **options)
    kind = settings.get("model_type")
    if "auto_map" in settings and kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{source}: a model of type {kind!r} that comes with code of its own (auto_map in config.json), which is "
            "never run; name a CLIP or clipvip model, or convert its weights (clipvip convert)"
        )


def read_config(source: str | Path) -> PreTrainedConfig:
    """The configuration of a model folder or hub id. Raises: CheckpointError if there is none, or a malformed one."""
    from transformers import AutoConfig

    import clipvip.model.pretrained  # noqa: F401  # makes clipvip's own known to AutoConfig

    name, options = locate(source)
    path = Path(name)
    if not path.exists() and (path.is_absolute() or len(path.parts) > 2):
        raise CheckpointError(f"{source}: no such folder, and no hub id either (OWNER/NAME, or OWNER/NAME@REVISION)")
    if path.is_dir() and not (path / "config.json").exists() and (files := _weights_in(path)):
        raise CheckpointError(
            f"{source}: weights ({', '.join(files[:3])}) without a config.json, so no model folder; make one of them: "
            f"clipvip convert {path / files[0]} DST --processor TOKENISER"
        )
    try:
        refuse_foreign_code(source)
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(f"{source}: no usable model there: {' '.join(str(error).split())}") from error


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """A tokeniser folder or hub id. Raises: CheckpointError."""
    from transformers import AutoTokenizer

    import clipvip.model.pretrained  # noqa: F401  # makes clipvip's folders known to AutoTokenizer

    name, options = locate(source)
    try:
        return AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{source}: no CLIP tokeniser there: {why_unusable(error)}") from error


def why_unusable(error: Exception) -> str:
    """An error of transformers on one line, without its advice to run code that comes with a model."""
    reason = " ".join(str(error).split())
    return "it comes with code of its own, which is never run" if "trust_remote_code" in reason else reason


def end_token(source: str | Path, clip: PreTrainedConfig) -> int | None:
    """The end token of a CLIP whose configuration has the placeholder for it; None: the last id of its vocabulary.

    A padded vocabulary has ids after the end token, so its tokeniser is asked.
    Raises: CheckpointError if its end token is not its largest id, where transformers' CLIP would pool.
    """
    text = clip.text_config
    if text.eos_token_id != END_TOKEN_PLACEHOLDER or text.vocab_size == OPENAI_VOCABULARY:
        return None
    try:
        tokenizer = load_tokenizer(source)
    except CheckpointError:  # without one, texts are checked for an end token when they are encoded
        return None
    if len(tokenizer) <= 256:  # transformers makes an empty one where there are no files
        return None
    largest = max(tokenizer.get_vocab().values())
    if tokenizer.eos_token_id != largest:
        raise CheckpointError(
            f"{source}: eos_token_id={END_TOKEN_PLACEHOLDER} in its config.json means the largest id ({largest}), but "
            f"its tokeniser ends texts with {tokenizer.eos_token_id}; set eos_token_id there to that of its training"
        )
    return largest


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the one inside that has the model. Raises: CheckpointError."""
    if (folder / "adapter_config.json").is_file():
        settings = _read_json(folder / "adapter_config.json")
        base = (isinstance(settings, dict) and settings.get("base_model_name_or_path")) or "its base model"
        raise CheckpointError(
            f"{folder}: an adapter for {base}, not a whole model; merge it with peft and name the result: "
            f"PeftModel.from_pretrained(base, {str(folder)!r}).merge_and_unload().save_pretrained('merged')"
        )
    if (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        return _clip_of_sentence_transformers(folder)
    return folder


def _clip_of_sentence_transformers(folder: Path) -> Path:
    modules = _read_json(folder / "modules.json")
    modules = [module for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    kinds = {str(module.get("path", "")): str(module.get("type", "")).rpartition(".")[2] for module in modules}
    clips = [path for path, kind in kinds.items() if kind == "CLIPModel"]
    others = sorted(kind for kind in kinds.values() if kind not in ("CLIPModel", "Normalize"))
    inside = folder / clips[0] if len(clips) == 1 else folder
    if len(clips) != 1 or others or not inside.resolve().is_relative_to(folder.resolve()):
        found = ", ".join(sorted(kinds.values())) or "none"
        raise CheckpointError(
            f"{folder}: a sentence-transformers folder of other modules than one CLIPModel ({found}); name the CLIP "
            "model that its weights come from"
        )
    return inside


def _weights_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in _WEIGHTS)


def _read_json(file: Path) -> Any:
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
