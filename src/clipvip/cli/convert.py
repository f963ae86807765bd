"""`clipvip convert`: a checkpoint of any known format to a model folder, or back to the released layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.cli.options import arg, opt, takes
from clipvip.cli.output import echo_json, make_console
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

NAME = "convert"


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    source: str = arg(..., "SRC", "File (.pt, .bin, .safetensors, .index.json), model folder or hub id (ID@REVISION).")
    target: Path = arg(..., "DST", "Folder to make; with --to released, the .pt file to make.")
    processor: str | None = opt(
        None, "Where the tokeniser is (default: SRC; files have none, so they need it).", metavar="FOLDER_OR_HUB_ID"
    )
    to: str = opt("clipvip", "clipvip (a model folder), or released (the released code's state dict).")
    vision_heads: int | None = opt(None, "Attention heads (default: of public models).")
    text_heads: int | None = opt(None, "Attention heads (default: of public models).")
    hidden_act: str | None = opt(None, "quick_gelu or gelu (default: by the format).")
    eos_token_id: int | None = opt(None, "End token (default: the last one).")
    image_size: int | None = opt(None, "Interpolate the position embedding for images of this many pixels.")
    text_cleaning: str | None = opt(
        None, "openai (repair texts as OpenAI's tokeniser does) or none (default: by the format)."
    )
    as_json: bool = opt(False, "Print the report on every key as JSON.")

    def __post_init__(self) -> None:
        from clipvip.model.text_cleaning import TEXT_CLEANINGS

        if self.to not in ("clipvip", "released"):
            raise UsageError(f"--to {self.to}: choose clipvip or released")
        if self.text_cleaning not in (None, *TEXT_CLEANINGS):
            raise UsageError(f"--text-cleaning {self.text_cleaning}: choose {' or '.join(TEXT_CLEANINGS)}")
        for name, value in (("--processor", self.processor), ("--text-cleaning", self.text_cleaning)):
            if self.to == "released" and value is not None:
                raise UsageError(f"{name} has no use with --to released: that file holds weights only")
        holds_files = self.target.is_dir() and (self.to == "released" or any(self.target.iterdir()))
        if self.target.is_file() or holds_files:
            raise UsageError(f"{self.target} exists; name another place, or remove it first")


@takes(ConvertOptions)
def command(options: ConvertOptions) -> None:
    """Turn a checkpoint into a model folder for --model: released CLIP-ViP, Hugging Face CLIP, OpenAI, open_clip.

    The format is recognised; every key must find its place, and no code in a file is executed.

    Example: clipvip convert pretrain_clipvip_base_32.pt models/vip-b32 --processor openai/clip-vit-base-patch32
    """
    import dataclasses

    import torch

    from clipvip.checkpoints import read_checkpoint, to_released
    from clipvip.checkpoints.processors import check_has_tokenizer, processor_for
    from clipvip.checkpoints.sizes import Wanted
    from clipvip.files import written_aside

    if options.to == "clipvip":
        check_has_tokenizer(options.source, options.processor)  # not after all the work
    converted = read_checkpoint(
        options.source,
        Wanted(options.vision_heads, options.text_heads, options.hidden_act, options.eos_token_id, options.image_size),
    )
    if options.to == "released":
        state = to_released(converted.model)
        with written_aside(options.target) as path:
            torch.save(state, path)
    else:
        finished = processor_for(converted, options.source, options.processor, text_cleaning=options.text_cleaning)
        with written_aside(options.target) as path:
            converted.model.save_pretrained(path)
            finished.save_pretrained(path)
    report = {
        "source": options.source,
        "output": str(options.target),
        "to": options.to,
        "sizes": _sizes(converted.model.config),
        **dataclasses.asdict(converted.report),
    }
    if options.as_json:
        echo_json(report)
    else:
        make_console().print(_table(report))


def _sizes(config: Any) -> dict[str, Any]:
    towers = {
        name: {
            "width": tower.hidden_size,
            "layers": tower.num_hidden_layers,
            "heads": tower.num_attention_heads,
            "hidden_act": tower.hidden_act,
        }
        for name, tower in (("vision", config.vision), ("text", config.text))
    }
    towers["vision"] |= {"image_size": config.vision.image_size, "patch_size": config.vision.patch_size}
    towers["text"] |= {
        "positions": config.text.max_position_embeddings,
        "vocab_size": config.text.vocab_size,
        "eos_token_id": config.text.eos_token_id,
    }
    video = {key: getattr(config, key) for key in ("aggregator", "num_frames", "num_proxies", "projection_dim")}
    return {**towers, **video}


def _table(report: dict[str, Any]) -> Table:
    from rich.table import Table

    sizes = report["sizes"]
    vision, text = sizes["vision"], sizes["text"]
    tower = "{layers} layers, {width} wide, {heads} heads, {hidden_act}"
    table = Table(title=f"{report['source']} -> {report['output']}", show_header=False)
    table.add_row("format", report["format"])
    table.add_row(
        "vision", f"{tower.format(**vision)}, {vision['image_size']} pixels in patches of {vision['patch_size']}"
    )
    table.add_row("text", f"{tower.format(**text)}, {text['positions']} positions, {text['vocab_size']} tokens")
    proxies = f", {sizes['num_proxies']} proxies" if sizes["num_proxies"] > 1 else ""
    table.add_row(
        "video",
        f"{sizes['aggregator']}, {sizes['num_frames']} frames{proxies}, embeddings of {sizes['projection_dim']}",
    )
    table.add_row("tensors", ", ".join(f"{len(report[kind])} {kind}" for kind in ("mapped", "new", "dropped")))
    for note in report["notes"]:
        table.add_row("note", note)
    return table
