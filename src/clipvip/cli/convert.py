"""`clipvip convert`: a checkpoint of any known format to a model folder, or back to the released layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipvip.cli.output import echo_json, make_console

if TYPE_CHECKING:
    from rich.table import Table

NAME = "convert"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="File (.pt, .bin, .safetensors, .index.json), model folder or hub id (ID@REVISION)."
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="Folder to make; with --to released, the .pt file to make.")
    ],
    processor: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_HUB_ID", help="Where the tokeniser is (default: SRC; files have none, so they need it)."
        ),
    ] = None,
    to: Annotated[
        str, typer.Option(help="clipvip (a model folder), or released (the released code's state dict).")
    ] = "clipvip",
    vision_heads: Annotated[int | None, typer.Option(help="Attention heads (default: of public models).")] = None,
    text_heads: Annotated[int | None, typer.Option(help="Attention heads (default: of public models).")] = None,
    hidden_act: Annotated[str | None, typer.Option(help="quick_gelu or gelu (default: by the format).")] = None,
    eos_token_id: Annotated[int | None, typer.Option(help="End token (default: the last one).")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Interpolate the position embedding for images of this many pixels.")
    ] = None,
    text_cleaning: Annotated[
        str | None,
        typer.Option(help="openai (repair texts as OpenAI's tokeniser does) or none (default: by the format)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report on every key as JSON.")] = False,
) -> None:
    """Turn a checkpoint into a model folder for --model: released CLIP-ViP, Hugging Face CLIP, OpenAI, open_clip.

    The format is recognised; every key must find its place, and no code in a file is executed.

    Example: clipvip convert pretrain_clipvip_base_32.pt models/vip-b32 --processor openai/clip-vit-base-patch32
    """
    import dataclasses

    import torch

    from clipvip.checkpoints import read_checkpoint, to_released
    from clipvip.checkpoints.processors import check_has_tokenizer, processor_for
    from clipvip.checkpoints.sizes import Wanted
    from clipvip.errors import UsageError
    from clipvip.files import written_aside
    from clipvip.model.text_cleaning import TEXT_CLEANINGS

    if to not in ("clipvip", "released"):
        raise UsageError(f"--to {to}: choose clipvip or released")
    if to == "released" and processor is not None:
        raise UsageError("--processor has no use with --to released: that file holds weights only")
    if text_cleaning not in (None, *TEXT_CLEANINGS):
        raise UsageError(f"--text-cleaning {text_cleaning}: choose {' or '.join(TEXT_CLEANINGS)}")
    if to == "released" and text_cleaning is not None:
        raise UsageError("--text-cleaning has no use with --to released: that file holds weights only")
    if target.is_file() or (target.is_dir() and (to == "released" or any(target.iterdir()))):
        raise UsageError(f"{target} exists; name another place, or remove it first")
    if to == "clipvip":
        check_has_tokenizer(source, processor)  # not after all the work
    converted = read_checkpoint(source, Wanted(vision_heads, text_heads, hidden_act, eos_token_id, image_size))
    if to == "released":
        state = to_released(converted.model)
        with written_aside(target) as path:
            torch.save(state, path)
    else:
        finished = processor_for(converted, source, processor, text_cleaning=text_cleaning)
        with written_aside(target) as path:
            converted.model.save_pretrained(path)
            finished.save_pretrained(path)
    report = {
        "source": source,
        "output": str(target),
        "to": to,
        "sizes": _sizes(converted.model.config),
        **dataclasses.asdict(converted.report),
    }
    if as_json:
        echo_json(report)
    else:
        make_console().print(_table(report))


def _sizes(config: Any) -> dict[str, Any]:
    """What a person wants to know of a ClipVipConfig."""
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
    """The report as people read it: sizes, counts of keys, notes."""
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
