"""Any known checkpoint to a `ClipVipModel`: every key mapped, dropped by name, or an error.

Shapes: M proxies, T frames, D width, g patches along a side.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clipvip.checkpoints import sizes
from clipvip.checkpoints.keymaps import (
    ARCHIVE_SCALARS,
    OPENAI,
    RELEASED,
    RELEASED_PROXIES,
    RELEASED_TEMPORAL,
    Format,
    Place,
    recognise,
    to_theirs,
)
from clipvip.checkpoints.sizes import Wanted
from clipvip.errors import CheckpointError
from clipvip.model import ClipVipConfig, ClipVipModel
from clipvip.model.hub import end_token, read_config, split_revision
from clipvip.model.pretrained import load_strictly
from clipvip.weights import misfit, read_file, weights

Source = str | Path | Mapping[str, Tensor]
_CLASS = "clipmodel.vision_model.embeddings.class_embedding"
NUM_FRAMES = 12
"""Of all released models but ActivityNet's, whose file says 32."""
_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".index.json")


@dataclass(frozen=True)
class Report:
    """What became of every key.

    format: "released", "huggingface", "openai", "open_clip" or "clipvip". mapped: (their key, our name) pairs; a fused
    tensor of theirs stands in several. new: names of ours that the source did not have, with zeros: the temporal
    embedding of a released model that was trained without one, and no other. dropped: keys without weights, checked.
    left_over: keys without a place; always empty, as such a checkpoint is an error.
    notes: what was assumed or changed, for people.
    """

    format: str
    mapped: tuple[tuple[str, str], ...]
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A model and the report on where its weights come from."""

    model: ClipVipModel
    report: Report


def convert_checkpoint(
    source: Source,
    *,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    hidden_act: str | None = None,
    eos_token_id: int | None = None,
    image_size: int | None = None,
) -> ClipVipModel:
    """A model from a checkpoint of any known format, which is told by the content.

    source: a file, a folder or hub id (Hugging Face CLIP, or our own; ID@REVISION for one of its revisions), or a state
    dict. Known are: released CLIP-ViP (becomes aggregator="vip", or "mean" if trained as MeanPool), Hugging Face CLIP,
    OpenAI and open_clip state dicts (aggregator="mean"). Training checkpoints around them are unwrapped.
    vision_heads, text_heads: default: of the public model of that width; any other width needs them.
    hidden_act: "quick_gelu" or "gelu"; default: quick_gelu, but gelu for open_clip's widths 1280, 1408 and 1664.
    eos_token_id: default: the last token. image_size: pixels; None keeps the stored grid of positions, another size
    interpolates it (bicubic). Weights become float32.
    Raises: CheckpointError if a key is missing, left over or mis-shaped, or the source is no such checkpoint;
    UsageError for an option that no checkpoint could satisfy. Code in a file is never executed.
    """
    return read_checkpoint(source, Wanted(vision_heads, text_heads, hidden_act, eos_token_id, image_size)).model


def read_checkpoint(source: Source, wanted: Wanted = Wanted()) -> Converted:
    """As `convert_checkpoint`, with the report on every key."""
    if isinstance(source, Mapping):
        where, converted = "state dict", _from_state(source, "state dict", wanted)
    else:
        where, path = str(source), Path(source)
        if path.is_file():
            converted = _from_state(read_file(path), where, wanted)
        elif path.is_dir() or not _names_a_path(source):
            converted = _from_folder(source, wanted)
        else:
            raise CheckpointError(f"{where}: no such file or folder")
    if wanted.image_size not in (None, converted.model.config.vision.image_size):
        converted = _resized(converted, wanted.image_size, where)
    return converted


def to_released(model: ClipVipModel) -> dict[str, Tensor]:
    """The state dict of the released code for a model: its names, [1, T, D] temporal embedding, `position_ids`.

    Raises: CheckpointError for an aggregator other than "vip", which the released code does not have.
    """
    if model.config.aggregator != RELEASED.aggregator:
        raise CheckpointError(
            f"a model with aggregator={model.config.aggregator!r} has no released layout; only 'vip' models do"
        )
    ours = model.state_dict()
    state = {}
    for name in ours:
        place = to_theirs(RELEASED, name)
        state[place.key] = place.layout.write(tuple(ours[part] for part in place.ours)).detach().cpu().clone()
    return state | {key: value(model.config) for key, value in RELEASED.buffers.items()}


def _names_a_path(source: str | Path) -> bool:
    """Whether something that does not exist was meant as a path; hub ids are NAME or OWNER/NAME."""
    text, revision = split_revision(source)
    if revision is not None:
        return False
    return isinstance(source, Path) or text.endswith(_WEIGHT_SUFFIXES) or text[:1] in "./~" or text.count("/") > 1


def _from_state(content: object, where: str, wanted: Wanted) -> Converted:
    state, notes = weights(content, where)
    known = recognise(state)
    if known is None:
        first = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{where}: no known layout (released CLIP-ViP, Hugging Face, OpenAI, open_clip); it has {first}, ..."
            + _advice(state)
        )
    if known is not RELEASED and "vision_model.embeddings.temporal_embedding" in state:
        raise CheckpointError(f"{where}: weights of a clipvip model folder; name the folder, its config.json is needed")
    _check_values(state, where)
    new: tuple[str, ...] = ()
    if known is RELEASED and RELEASED_TEMPORAL not in state and _CLASS in state:
        state = {**state, RELEASED_TEMPORAL: torch.zeros(1, NUM_FRAMES, len(state[_CLASS]))}
        new = ("vision_model.embeddings.temporal_embedding",)
        notes = (
            *notes,
            f"trained without a temporal embedding; its features are those of zeros for {NUM_FRAMES} frames",
        )
    config, assumed = sizes.read_config(state, known, where, wanted)
    with torch.device("meta"):  # nothing is drawn or allocated that the file replaces anyway
        model = ClipVipModel(config)
    places = {place.key: place for place in (to_theirs(known, name) for name in model.state_dict())}
    dropped = _checked_buffers(state, known, config, where)
    _check_fit(state, places, dropped, model.state_dict(), known, where)
    ours, mapped = {}, []
    for key, place in places.items():
        for name, tensor in zip(place.ours, place.layout.read(state[key]), strict=True):
            ours[name] = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
            if name not in new:
                mapped.append((key, name))
    model.load_state_dict(ours, strict=True, assign=True)
    dtypes = sorted({str(state[key].dtype).removeprefix("torch.") for key in places} - {"float32"})
    if dtypes:
        assumed = (*assumed, f"{' and '.join(dtypes)} weights became float32")
    # what archives carry tells OpenAI's from open_clip's, which share the layout
    name = "open_clip" if known is OPENAI and ARCHIVE_SCALARS.keys().isdisjoint(state) else known.name
    return Converted(model.eval(), Report(name, tuple(mapped), new=new, dropped=dropped, notes=notes + assumed))


def _advice(state: Mapping[str, Tensor]) -> str:
    """What to do with weights among which there is a CLIP of a known layout; "" if there is none."""
    for part in dict.fromkeys(key.partition(".")[0] for key in state):
        inside = [key.removeprefix(f"{part}.") for key in state if key.startswith(f"{part}.")]
        if recognise(inside):
            return (
                f" {len(inside)} of its {len(state)} keys, those of {part!r}, look like one: save them alone, as "
                f"{{k[{len(part) + 1}:]: v for k, v in state.items() if k.startswith('{part}.')}}"
            )
    return ""


def _check_values(state: Mapping[str, Tensor], where: str) -> None:
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{where}: {key} is sparse, quantised or without values; save it as a plain tensor")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: {key} holds NaN or infinite values; the checkpoint is of a broken run")


def _checked_buffers(state: Mapping[str, Tensor], known: Format, config: ClipVipConfig, where: str) -> tuple[str, ...]:
    """Keys that may be dropped. Raises: CheckpointError if one says something else than the tensors do."""
    dropped = []
    for key, value in known.buffers.items():
        if key in state:
            found, expected = state[key].cpu().flatten(), value(config).flatten()
            if not torch.equal(found.to(torch.float64), expected.to(torch.float64)):
                said, is_ = (f"{values[:3].tolist()} ({len(values)} in all)" for values in (found, expected))
                raise CheckpointError(f"{where}: {key} is {said}; by its weights it should be {is_}")
            dropped.append(key)
    if known is RELEASED and RELEASED_PROXIES in state and len(state[RELEASED_PROXIES]) == 0:  # no added proxies
        dropped.append(RELEASED_PROXIES)
    return tuple(dropped)


def _check_fit(
    state: Mapping[str, Tensor],
    places: Mapping[str, Place],
    dropped: tuple[str, ...],
    ours: Mapping[str, Tensor],
    known: Format,
    where: str,
) -> None:
    """Raises: CheckpointError unless `state` has exactly the tensors of `places`, in their shapes, and `dropped`."""
    missing = [key for key in places if key not in state]
    left_over = sorted(state.keys() - places.keys() - set(dropped))
    misshaped = []
    for key, place in places.items():
        expected = place.layout.write(tuple(ours[name] for name in place.ours)).shape
        if key in state and state[key].shape != expected:
            misshaped.append(f"{key} {list(state[key].shape)}, expected {list(expected)}")
        elif key in state and not state[key].is_floating_point():
            misshaped.append(f"{key} of {state[key].dtype}, expected floats")
    if missing or left_over or misshaped:
        raise misfit(where, f"the {known.name} layout", missing=missing, left_over=left_over, misshaped=misshaped)


def _from_folder(source: str | Path, wanted: Wanted) -> Converted:
    """A model folder or hub id, ours or Hugging Face CLIP: its config.json says what tensors cannot."""
    found = read_config(source)
    if found.model_type not in ("clip", "clipvip"):
        raise CheckpointError(f"{source}: a {found.model_type!r} model; convert knows CLIP and clipvip folders")
    if isinstance(found, ClipVipConfig):
        config = found
    else:
        config = ClipVipConfig.from_clip(found, end_token=end_token(source, found), aggregator="mean")
    notes = _apply(wanted, config, str(source))
    model = load_strictly(ClipVipModel, source, config=config)
    mapped = tuple((name, name) for name in model.state_dict())
    return Converted(model.eval(), Report("clipvip" if config is found else "huggingface", mapped, notes=notes))


def _apply(wanted: Wanted, config: ClipVipConfig, where: str) -> tuple[str, ...]:
    """Let what the caller gave win over what config.json says; notes on what that changed."""
    towers = {"vision": config.vision, "text": config.text}
    given = [
        ("vision_heads", config.vision, "num_attention_heads", wanted.vision_heads),
        ("text_heads", config.text, "num_attention_heads", wanted.text_heads),
        ("hidden_act", config.vision, "hidden_act", wanted.hidden_act),
        ("hidden_act", config.text, "hidden_act", wanted.hidden_act),
        ("eos_token_id", config.text, "eos_token_id", wanted.eos_token_id),
    ]
    notes = []
    for option, tower, field, value in given:
        stored = getattr(tower, field)
        if value is not None and value != stored:
            setattr(tower, field, value)
            notes.append(f"{option}={value} as given; its config.json says {stored}")
    for name, tower in towers.items():
        sizes.check_heads(tower.num_attention_heads, tower.hidden_size, name, where)
    sizes.check_eos(config.text.eos_token_id, config.text.vocab_size, where)
    return tuple(dict.fromkeys(notes))


def _resized(converted: Converted, image_size: int, where: str) -> Converted:
    """The same model for images of another size: its grid of positions interpolated, the class row kept."""
    model, report = converted.model, converted.report
    patch, old = model.config.vision.patch_size, model.config.vision.image_size
    if image_size % patch:
        raise CheckpointError(f"{where}: image_size={image_size} is no multiple of its patch size {patch}")
    config = copy.deepcopy(model.config)
    config.vision.image_size = image_size
    state = model.state_dict()
    state[_POSITIONS] = interpolate_positions(state[_POSITIONS], image_size // patch)
    with torch.device("meta"):
        resized = ClipVipModel(config)
    resized.load_state_dict(state, strict=True, assign=True)
    grids = " to ".join(f"{size // patch} x {size // patch}" for size in (old, image_size))
    note = f"position embedding interpolated from {grids}"
    return Converted(resized.eval(), replace(report, notes=(*report.notes, note)))


def interpolate_positions(positions: Tensor, grid: int) -> Tensor:
    """Spatial positions for another grid, [1 + g*g, D] -> [1 + grid*grid, D]; row 0 (class) stays as it is.

    Bicubic between patch centres, with antialiasing when the grid shrinks: otherwise rows would be left out.
    """
    side = int((len(positions) - 1) ** 0.5)
    old = positions[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]  # [1, D, g, g]
    new = F.interpolate(old, size=(grid, grid), mode="bicubic", align_corners=False, antialias=grid < side)
    return torch.cat([positions[:1], new[0].permute(1, 2, 0).flatten(0, 1)])
