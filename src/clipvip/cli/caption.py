"""`clipvip caption`: auxiliary captions from an image captioning model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipvip.cli.options import ClipOptions, JobOptions, Manifest, crew, opt, option, takes
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from clipvip.captioning import CaptionerSettings

NAME = "caption"
OF_SERVERS, OF_MODELS = ("api_model", "timeout"), ("num_beams", "device", "dtype")
"""Options that only one of the two kinds of captioners has."""


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(ClipOptions, JobOptions):
    manifest: Manifest
    model: str = opt(..., "Model folder or hub id, or a server's address (http://host:8000/v1).", metavar="CAPTIONER")
    out: Path = opt(..., "The manifest to write.", metavar="MANIFEST")
    api_model: str | None = opt(None, "Of the server's models, the one to ask.", metavar="NAME")
    revision: str | None = opt(None, "Branch, tag or commit of the hub; of a server: what to note of its weights.")
    prompt: str | None = opt(None, "The question to a model that chats; for BLIP and GIT how a caption begins.")
    num_beams: int = opt(1, "Beams of the search; 1 is greedy.", min=1)
    max_words: int = opt(16, "Of a caption; what is longer is cut.", min=1)
    batch_size: int = opt(16, "Images in one pass through the model, or requests at once to a server.", min=1)
    overwrite: bool = opt(False, "Caption also clips that have a caption.")
    part_size: int = opt(256, "Clips in one part; an interruption costs at most that.", min=1)
    max_bad_share: float = opt(0.05, "Stop if more of the clips than this cannot be captioned.", min=0, max=1)
    timeout: float = opt(120.0, "Seconds that a server may take for one answer.")
    as_json: bool = opt(False, "Print the summary as JSON.")
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in OF_MODELS if self.is_server else OF_SERVERS:
            if name in self.given:
                kind = "a model" if self.is_server else "a server"
                raise UsageError(f"{option(name)}: goes with {kind} only, and --model {self.model} is none")

    @property
    def is_server(self) -> bool:
        """Whether the captioner is at an address, not a model of this machine."""
        return self.model.startswith(("http://", "https://"))

    def captioner(self) -> CaptionerSettings:
        """What describes the images."""
        from clipvip.captioning import Endpoint, find_model
        from clipvip.jobs import usable_cpus

        if self.is_server:
            return Endpoint(
                self.model, self.api_model or "", self.revision, self.prompt, max_words=self.max_words,
                requests=self.batch_size, timeout_s=self.timeout,
            )  # fmt: skip
        shares = self.workers if self.engine == "local" and self.workers and self.workers > 1 else None
        return find_model(
            self.model, revision=self.revision, prompt=self.prompt, num_beams=self.num_beams,
            max_words=self.max_words, batch_size=self.batch_size, device=self.device, dtype=self.dtype,
            threads=max(1, usable_cpus() // shares) if shares else None,
        )  # fmt: skip


@takes(CaptionOptions)
def command(options: CaptionOptions) -> None:
    """Describe the middle frame of every clip: `caption`, with `caption_model` and `caption_revision`.

    Captioners are BLIP, GIT and VisionEncoderDecoder models of Hugging Face, models there that chat about images, and
    servers that speak OpenAI's chat completions, such as vLLM (key: the variable CLIPVIP_API_KEY or OPENAI_API_KEY).
    Clips that have a caption keep it. Clips that cannot be decoded or described are listed in OUT.bad.jsonl. The same
    command resumes after an interruption (finished parts: OUT.parts), and tries again what failed.

    Example: clipvip caption clips.jsonl --model Salesforce/blip-image-captioning-base --out captioned.jsonl
    """
    import time
    from dataclasses import asdict

    from clipvip.captioning import caption_manifest
    from clipvip.captioning.manifest import bad_list
    from clipvip.data import validate_manifest

    started = time.perf_counter()
    validate_manifest(options.manifest, split=options.split)  # a mistake in it is found before a model is loaded
    captioner = options.captioner()
    wants_gpu = not options.is_server and options.device.startswith(("auto", "cuda"))
    engine, workers = crew(options.engine, options.address, options.workers, wants_gpu=wants_gpu)
    with progress_bar("captioning") as progress:
        facts = caption_manifest(
            options.manifest, options.out, captioner, videos=options.videos, split=options.split,
            overwrite=options.overwrite, part_size=options.part_size, workers=workers, engine=engine,
            max_bad_share=options.max_bad_share, progress=progress,
        )  # fmt: skip
    if options.as_json:
        echo_json(asdict(facts) | {"out": str(options.out), "seconds": round(time.perf_counter() - started, 2)})
        return
    kept = f", {facts.kept:,} had a caption" if facts.kept else ""
    echo(f"{facts.clips:,} clips, {facts.captioned:,} captioned by {facts.model}{kept} -> {options.out}")
    if facts.failures:
        echo(f"  {len(facts.failures):,} bad clips left without a caption: {bad_list(options.out)}")
