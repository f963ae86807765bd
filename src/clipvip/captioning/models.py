"""Captions from a Hugging Face model in this process; `asking` has the kinds of models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip.captioning.captioner import MAX_WORDS, PLAIN, PROMPT, TOKENS_A_WORD, Answer, Captioner, Described
from clipvip.errors import CheckpointError, ClipVipError, UsageError
from clipvip.files import file_digest
from clipvip.jobs import prefetch, usable_cpus

if TYPE_CHECKING:
    from clipvip.captioning.asking import Asker

SILENCE_S = 900.0
"""A batch of a large model on a CPU takes its time."""
_PREPARING = 8  # threads at most
_DTYPES = ("float32", "bfloat16")
_DESCRIBING = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # files that captions hang on


@dataclass(frozen=True, slots=True)
class CaptionModel:
    """A model that `find_model` found. source: its folder or hub id; commit: of the hub.

    name, revision: what is noted in manifests; the revision is the commit, or a digest of the folder's files.
    prompt: the question for a model that chats, for BLIP and GIT the beginning of a caption (left out of it).
    num_beams: 1 is greedy. batch_size: images at once. device, dtype: as `clipvip.load` takes them. threads: of torch
    on a CPU; None: its own choice.
    """

    source: str
    name: str
    revision: str
    commit: str | None = None
    prompt: str | None = None
    num_beams: int = 1
    max_words: int = MAX_WORDS
    batch_size: int = 16
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    @property
    def silence_s(self) -> float:
        """For one batch."""
        return SILENCE_S

    def settings(self) -> dict[str, Any]:
        """Not the folder, device or batch size: what an interrupted job goes on with may differ in them."""
        names = ("name", "revision", "prompt", "num_beams", "max_words", "dtype")
        return {name: getattr(self, name) for name in names}

    def open(self) -> Captioner:
        """Load it. Raises: CheckpointError, UsageError."""
        return ModelCaptioner(self)


def find_model(source: str | Path, *, revision: str | None = None, **options: Any) -> CaptionModel:
    """The captioning model in a folder or on the hub, not loaded yet. options: fields of `CaptionModel`.

    revision: a branch, tag or commit of the hub; `source` may be ID@REVISION instead.
    Raises: CheckpointError if there is no model, or one that describes no images; UsageError for options it has no
    use for.
    """
    if options.get("dtype", "auto") not in ("auto", *_DTYPES):
        raise UsageError(f"--dtype {options['dtype']}: choose auto, float32 or bfloat16")
    from clipvip.model.hub import split_revision

    commit = None
    if Path(source).is_dir():
        if revision is not None:
            raise UsageError(f"--revision {revision}: {source} is a folder; only the hub has revisions")
        source = Path(source).resolve()
        name, found = source.name, f"sha256:{_digest(source)}"
    else:
        name, given = split_revision(source)
        if given is not None and revision is not None:
            raise UsageError(f"--revision {revision}: {source} names one already; give it once")
        source = name
        commit = found = _hub_commit(name, given or revision)
    kind = _model_type(str(source), commit)
    if kind == "vision-encoder-decoder" and options.get("prompt") is not None:
        raise UsageError(f"--prompt: {source} is a VisionEncoderDecoder model, which takes none")
    return CaptionModel(str(source), name, found, commit, **options)


class ModelCaptioner:
    """A model on its device. Always the likeliest caption, never a drawn one: the same image gives the same caption."""

    def __init__(self, settings: CaptionModel):
        import torch

        from clipvip.encode import pick_device

        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        device = pick_device(settings.device)
        best = "bfloat16" if device.type == "cuda" else "float32"
        dtype = getattr(torch, best if settings.dtype == "auto" else settings.dtype)
        self._settings = settings
        self._model, self._asker, self._tokens = _loading(settings.source, lambda: _load(settings, dtype))
        self._model.to(device).eval()

    def caption(self, images: Iterable[np.ndarray]) -> Iterator[Answer]:
        """See `Captioner`: in batches. Raises: ClipVipError if the device has too little memory for one."""
        size = self._settings.batch_size
        prepared = prefetch(self._asker.prepared, images, ahead=2 * size, threads=min(_PREPARING, usable_cpus()))
        while batch := list(islice(prepared, size)):
            yield from (Described(text, self._settings.revision) for text in self._describe(batch))

    def _describe(self, batch: list[Any]) -> list[str]:
        import torch

        inputs, repeated = self._asker.question(batch)
        device, dtype = self._model.device, self._model.dtype
        inputs = {
            name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }
        try:
            with torch.inference_mode():
                tokens = self._model.generate(
                    **inputs,
                    **self._tokens,
                    do_sample=False,
                    num_beams=self._settings.num_beams,
                    max_new_tokens=self._room_for(repeated),
                )
        except torch.OutOfMemoryError:
            raise ClipVipError(
                f"{self._settings.source}: too little memory for {len(batch)} images at once; choose a smaller "
                "--batch-size"
            ) from None
        texts: list[str] = self._asker.tokenizer.batch_decode(tokens[:, repeated:], skip_special_tokens=True)
        return texts

    def _room_for(self, repeated: int) -> int:
        """New tokens: enough for the words, and not beyond the decoder's positions."""
        wanted = TOKENS_A_WORD * self._settings.max_words
        positions = getattr(self._model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return wanted if positions is None else max(1, min(wanted, positions - repeated - 1))


def _load(settings: CaptionModel, dtype: Any) -> tuple[Any, Asker, dict[str, int | list[int]]]:
    """The model, how to ask it, and its special tokens. Raises: CheckpointError if weights are missing."""
    from transformers import AutoModelForImageTextToText

    from clipvip.captioning.asking import ChatAsker, PlainAsker, special_tokens
    from clipvip.model.quiet import without_bars

    source, place = settings.source, _place(settings.commit)
    with without_bars():
        model, info = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **place,
        )
    missing = sorted(key for key in info["missing_keys"] if ".pooler." not in key)  # poolers feed no caption
    if missing or info["mismatched_keys"]:
        few = ", ".join([*missing, *sorted(map(str, info["mismatched_keys"]))][:3])
        raise CheckpointError(f"{source}: weights are missing or of another shape ({few}): its captions would be noise")
    kind = model.config.model_type
    asker: Asker
    if kind in PLAIN:
        asker = PlainAsker(kind, source, place, settings.prompt)
    else:
        prompt = settings.prompt if settings.prompt is not None else PROMPT.format(max_words=settings.max_words)
        asker = ChatAsker(kind, source, place, prompt, model.config.is_encoder_decoder)
    return model, asker, special_tokens(model, asker.tokenizer)


def _place(commit: str | None) -> dict[str, str]:
    """Which of a hub model's commits; a folder has none."""
    return {} if commit is None else {"revision": commit}


def _model_type(source: str, commit: str | None) -> str:
    """Of a model that describes images. Raises: CheckpointError."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from clipvip.model.hub import refuse_foreign_code

    def load() -> Any:
        refuse_foreign_code(source if commit is None else f"{source}@{commit}")
        return AutoConfig.from_pretrained(source, **_place(commit), trust_remote_code=False)

    config = _loading(source, load)
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise CheckpointError(
            f"{source}: a {config.model_type} model, which describes no images; captioners are {', '.join(PLAIN)} "
            "models and those that one can chat with"
        )
    return str(config.model_type)


def _loading(source: str, load: Callable[[], Any]) -> Any:
    """What it loads. Raises: CheckpointError for all that transformers may say."""
    from pickle import UnpicklingError

    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    damage = (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError, UnpicklingError)
    try:
        return load()
    except (*damage, StrictDataclassError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{source}: cannot be loaded as a captioner: {reason}") from error


def _hub_commit(source: str, revision: str | None) -> str:
    """The commit that a branch or tag stands for now. Raises: CheckpointError if there is no such model."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        path = Path(hf_hub_download(source, "config.json", revision=revision))
    except (OSError, HFValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{source}: neither a folder nor a model on the hub that can be reached: {reason}"
        ) from None
    return path.parent.name  # the cache has a folder for each commit


def _digest(folder: Path) -> str:
    """Of names and contents of the files that captions hang on."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _DESCRIBING:
            digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()[:16]
