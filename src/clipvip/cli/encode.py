"""`clipvip encode`: embeddings of a whole manifest, made once and used many times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipvip.cli.options import ClipOptions, JobOptions, Manifest, Model, crew, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar
from clipvip.terminal import one_line

NAME = "encode"


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(ClipOptions, JobOptions):
    manifest: Manifest
    model: Model
    out: Path = opt(..., "The folder of the embedding set.", metavar="DIR")
    texts: bool = opt(True, "Encode captions, subtitles and auxiliary captions as well.", "--texts/--no-texts")
    batch_size: int = opt(16, "Clips in one pass through the model.", min=1)
    part_size: int = opt(1000, "Clips in one file; an interruption costs at most that.", min=1)
    max_bad_share: float = opt(0.05, "Stop if more of the clips than this cannot be decoded.", min=0, max=1)
    as_json: bool = opt(False, "Print the summary as JSON.")


@takes(EncodeOptions)
def command(options: EncodeOptions) -> None:
    """Write an embedding set: Parquet files with one row per clip and per text.

    `clipvip evaluate --embeddings DIR` and `clipvip index --embeddings DIR` take it instead of encoding again. Clips
    that cannot be decoded are listed and left out. The same command resumes after an interruption.

    Example: clipvip encode msrvtt.jsonl --split test --model models/vip-b32 --out msrvtt-test
    """
    import time
    from dataclasses import asdict

    from clipvip.embedding_sets import encode_manifest

    started = time.perf_counter()
    engine, workers = crew(options.engine, options.address, options.workers)
    with progress_bar("encoding") as progress:
        facts = encode_manifest(
            options.manifest, options.out, model=options.model, videos=options.videos, split=options.split,
            texts=options.texts, device=options.device, dtype=options.dtype, batch_size=options.batch_size,
            part_size=options.part_size, workers=workers, engine=engine, max_bad_share=options.max_bad_share,
            progress=progress,
        )  # fmt: skip
    for clip_id, reason in facts.failures.items():
        echo(one_line(f"skipped {clip_id}: {reason}"), err=True)
    if options.as_json:
        echo_json(asdict(facts) | {"out": str(options.out), "seconds": round(time.perf_counter() - started, 2)})
        return
    bad = f", {len(facts.failures)} clips left out" if facts.failures else ""
    echo(f"{facts.clips:,} clips, {facts.rows:,} embeddings{bad} -> {options.out}")
