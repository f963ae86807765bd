"""`clipvip caption`: auxiliary captions from an image captioning model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipvip.cli.options import Address, Device, Dtype, EngineName, Workers, crew
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar

if TYPE_CHECKING:
    from clipvip.captioning import CaptionerSettings

NAME = "caption"
_ONLY = {
    "api_model": "a server",
    "timeout": "a server",
    "num_beams": "a model",
    "device": "a model",
    "dtype": "a model",
}


def command(
    context: typer.Context,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST")],
    model: Annotated[
        str,
        typer.Option(metavar="CAPTIONER", help="Model folder or hub id, or a server's address (http://host:8000/v1)."),
    ],
    out: Annotated[Path, typer.Option(metavar="MANIFEST", help="The manifest to write.")],
    api_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the server's models, the one to ask.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the hub; of a server: what to note of its weights.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The question to a model that chats; for BLIP and GIT how a caption begins.")
    ] = None,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams of the search; 1 is greedy.")] = 1,
    max_words: Annotated[int, typer.Option(min=1, help="Of a caption; what is longer is cut.")] = 16,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images in one pass through the model, or requests at once to a server.")
    ] = 16,
    videos: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder the media paths are relative to (the manifest's own).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Caption only the clips of this split.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Caption also clips that have a caption.")] = False,
    part_size: Annotated[int, typer.Option(min=1, help="Clips in one part; an interruption costs at most that.")] = 256,
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Stop if more of the clips than this cannot be captioned.")
    ] = 0.05,
    timeout: Annotated[float, typer.Option(help="Seconds that a server may take for one answer.")] = 120.0,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Describe the middle frame of every clip: `caption`, with `caption_model` and `caption_revision`.

    Captioners are BLIP, GIT and VisionEncoderDecoder models of Hugging Face, models there that chat about images, and
    servers that speak OpenAI's chat completions, such as vLLM (key: the variable CLIPVIP_API_KEY or OPENAI_API_KEY).
    Clips that have a caption keep it. Clips that cannot be decoded or described are listed in OUT.bad.jsonl. The same
    command goes on after an interruption (finished parts: OUT.parts), and tries again what failed.

    Example: clipvip caption clips.jsonl --model Salesforce/blip-image-captioning-base --out captioned.jsonl
    """
    import time
    from dataclasses import asdict

    from clipvip.captioning import caption_manifest
    from clipvip.captioning.manifest import bad_list
    from clipvip.data import validate_manifest
    from clipvip.errors import UsageError

    started = time.perf_counter()
    is_server = model.startswith(("http://", "https://"))
    for name, use in _ONLY.items():
        given = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if given and (use == "a server") != is_server:
            raise UsageError(f"--{name.replace('_', '-')}: goes with {use} only, and --model {model} is none")
    validate_manifest(manifest, split=split)  # a malformed manifest shall not wait for a model or a cluster
    captioner: CaptionerSettings
    if is_server:
        from clipvip.captioning import Endpoint

        captioner = Endpoint(
            model, api_model or "", revision, prompt, max_words=max_words, requests=batch_size, timeout_s=timeout
        )
    else:
        from clipvip.captioning import find_model
        from clipvip.jobs import usable_cpus

        captioner = find_model(
            model,
            revision=revision,
            prompt=prompt,
            num_beams=num_beams,
            max_words=max_words,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            threads=max(1, usable_cpus() // workers) if engine == "local" and workers and workers > 1 else None,
        )
    wants_gpu = not is_server and (device == "auto" or device.startswith("cuda"))
    job_engine, num_workers = crew(engine, address, workers, wants_gpu=wants_gpu)
    with progress_bar("captioning") as progress:
        facts = caption_manifest(
            manifest,
            out,
            captioner,
            videos=videos,
            split=split,
            overwrite=overwrite,
            part_size=part_size,
            workers=num_workers,
            engine=job_engine,
            max_bad_share=max_bad_share,
            progress=progress,
        )
    if as_json:
        echo_json(asdict(facts) | {"out": str(out), "seconds": round(time.perf_counter() - started, 2)})
        return
    kept = f", {facts.kept:,} had a caption" if facts.kept else ""
    echo(f"{facts.clips:,} clips, {facts.captioned:,} captioned by {facts.model}{kept} -> {out}")
    if facts.failures:
        echo(f"  {len(facts.failures):,} bad clips left without a caption: {bad_list(out)}")
