"""`clipvip evaluate`: retrieval scores of a model on a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clipvip.cli.options import AsJson, ClipOptions, DeviceOptions, JoinCaptions, OnDecodeError, opt, takes
from clipvip.cli.output import echo, echo_json, make_console
from clipvip.errors import UsageError
from clipvip.terminal import one_line

if TYPE_CHECKING:
    from clipvip.embedding_sets import EmbeddingSet
    from clipvip.encode import DistributedEncoder
    from clipvip.evaluation import Interval
    from clipvip.evaluation.metrics import Direction
    from clipvip.records import Clip

NAME = "evaluate"
MAX_LISTED = 10
"""Clips that were left out are listed up to this number; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ClipOptions, DeviceOptions):
    data: Path = opt(..., "Manifest with captions.")
    model: str | None = opt(None, "Model folder or hub id (clipvip, or plain CLIP).")
    embeddings: list[Path] | None = opt(
        None, "Instead of --model: what clipvip encode made of this manifest; repeatable.", metavar="DIR"
    )
    join_captions: JoinCaptions = False
    ties: Literal["average", "optimistic", "pessimistic"] = opt(
        "average", "How many of the answers that score as the true one rank above it: half, none, all."
    )
    rescore: list[str] | None = opt(
        None,
        "Also report a re-scoring: dsl (transductive: uses all test queries at once) or qbnorm (uses a bank of "
        "training captions, see --bank); repeatable.",
        metavar="dsl|qbnorm",
    )
    bank: Path | None = opt(None, "For qbnorm: a manifest whose captions are the bank.", metavar="MANIFEST")
    bank_split: str | None = opt(None, "Only this split of the bank (default: every line).")
    released_protocol: bool = opt(
        False,
        "Also report what the released code would print: every tied place counts, DSL over texts for both "
        "directions. For comparison with published figures only.",
    )
    on_decode_error: OnDecodeError = "raise"
    errors: int | None = opt(None, "Write a page of the N worst text queries, with film strips.", metavar="N", min=1)
    errors_page: Path | None = opt(None, "Where --errors writes its page (default: errors.html).", metavar="HTML")
    ranks: Path | None = opt(None, "Write the rank of every query, both directions.", metavar="JSONL")
    against: Path | None = opt(
        None, "Another model's --ranks on the same clips: report the paired differences.", metavar="JSONL"
    )
    output: Path | None = opt(None, "Write the scores to this file.", metavar="JSON")
    as_json: AsJson = False
    batch_size: int = opt(16, "Clips in one pass through the model (changes memory and speed).", min=1)

    def __post_init__(self) -> None:
        if self.errors_page and self.errors is None:
            raise UsageError(f"--errors-page {self.errors_page}: goes with --errors N")
        for name, file in (("--output", self.output), ("--ranks", self.ranks), ("--errors-page", self.page)):
            if file and not file.parent.is_dir():
                raise UsageError(f"{name} {file}: there is no folder {file.parent}")
        if unknown := [kind for kind in self.kinds if kind not in ("dsl", "qbnorm")]:
            raise UsageError(f"--rescore {unknown[0]}: choose dsl or qbnorm, or leave it out")
        if ("qbnorm" in self.kinds) != (self.bank is not None) or (self.bank_split is not None and self.bank is None):
            raise UsageError("--rescore qbnorm and --bank MANIFEST go together (and --bank-split with them)")
        if (self.model is None) == (not self.embeddings):
            raise UsageError("evaluate needs --model M, or else --embeddings DIR")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Ways of re-scoring, each once."""
        return tuple(dict.fromkeys(self.rescore or ()))

    @property
    def page(self) -> Path:
        """Where the worst queries go."""
        return self.errors_page or Path("errors.html")

    def read(self) -> tuple[list[Clip], tuple[str, ...]]:
        """The clips, and the texts of the bank. Raises: ManifestError, UsageError."""
        from clipvip.data import read_manifest
        from clipvip.evaluation import bank_texts, texts_of

        clips = read_manifest(self.data, videos=self.videos, split=self.split)
        several = [clip for clip in clips if len(texts_of(clip, join_captions=self.join_captions)) > 1]
        if self.released_protocol and several:
            raise UsageError(
                f"--released-protocol knows one text a clip, but {several[0].clip_id} has {len(several[0].captions)}; "
                "leave it out, or add --join-captions"
            )
        if self.bank is None:
            return clips, ()
        of_bank = read_manifest(self.bank, videos=self.videos, split=self.bank_split)
        return clips, bank_texts(of_bank, clips, join_captions=self.join_captions)

    def open(self) -> tuple[DistributedEncoder | EmbeddingSet, str]:
        """What gives the vectors, and the name of its model."""
        from clipvip import distributed
        from clipvip.encode import DistributedEncoder, Encoder, load

        if self.model is None:
            from clipvip.embedding_sets import open_embeddings

            opened = open_embeddings(*(self.embeddings or ()))
            return opened, opened.facts[0].model
        loaded: list[Encoder] = []
        model = self.model
        distributed.together(lambda: loaded.append(load(model, device=self.device, dtype=self.dtype)))
        return DistributedEncoder(loaded[0], batch_size=self.batch_size), model


@takes(EvaluateOptions)
def command(options: EvaluateOptions) -> None:
    """Measure text-to-video and video-to-text retrieval: R@1/5/10, median and mean rank, with 95 % intervals.

    torchrun --nproc-per-node N -m clipvip evaluate ... shares the encoding among N processes; the figures are the same.

    Example: clipvip evaluate --model runs/demo/model --data runs/demo/world/retrieval.jsonl --split test --rescore dsl

    With a bank and a page of errors: clipvip evaluate --model M --data msrvtt.jsonl --split test --rescore qbnorm
    --bank msrvtt.jsonl --bank-split train --errors 20 --output scores.json
    """
    from clipvip import distributed

    distributed.join()
    report = run(options)
    if report is not None:
        write(options, report)


def run(options: EvaluateOptions) -> dict[str, Any] | None:
    """Encode, rank and report, and write the files that need the scores. None: another process has the report."""
    from clipvip import distributed
    from clipvip.evaluation import rank_retrieval, report_retrieval, run_retrieval
    from clipvip.evaluation.saved import differences, read_ranks, write_ranks

    if options.errors is not None:
        from clipvip.cli.render.evaluate_errors import write_errors  # what it needs may be missing

    clips, bank = distributed.on_main(options.read)
    against = options.against
    other = None if against is None else distributed.on_main(lambda: read_ranks(against))
    encoder, model = options.open()
    found = run_retrieval(
        encoder, clips, join_captions=options.join_captions, progress=not options.as_json,
        on_decode_error=options.on_decode_error, bank=bank,
    )  # fmt: skip
    if distributed.rank() > 0:
        return None  # the main process speaks for all
    rivals = rank_retrieval(found, rescore=options.kinds)
    report: dict[str, Any] = {
        "model": model,
        "fingerprint": found.fingerprint,
        "dtype": encoder.dtype,
        "sampling": encoder.sampling,
        "data": str(options.data),
        "split": options.split,
        "join_captions": options.join_captions,
        "num_clips": len(clips),
        **report_retrieval(found, rivals, ties=options.ties, released=options.released_protocol),
    }
    if options.bank:
        repeats = _repeats(bank, found.texts)
        report["bank"] = {"data": str(options.bank), "split": options.bank_split, **repeats}
    if other is not None:
        compared = differences(found, rivals, options.ties, other)
        report["against"] = {"ranks": str(against), **_as_lists(compared)}
    if options.ranks:
        write_ranks(options.ranks, found, rivals, options.ties)
    if options.errors is not None:
        worst = rivals["plain"]["t2v"].ranks(options.ties)
        write_errors(options.page, found, worst, report, options.errors)
    return report


def write(options: EvaluateOptions, report: dict[str, Any]) -> None:
    """Print the report, and write it to --output."""
    import json

    from clipvip.cli.render.evaluate_table import difference_tables, facts, score_tables
    from clipvip.files import replace_text

    skipped = report["skipped"]
    for clip_id, reason in list(skipped.items())[:MAX_LISTED]:
        echo(one_line(f"skipped {clip_id}: {reason}"), err=True)
    if len(skipped) > MAX_LISTED:
        echo(f"skipped {len(skipped) - MAX_LISTED} more (--json and --output list all)", err=True)
    if options.output:
        replace_text(options.output, json.dumps(report, indent=2))
    if options.as_json:
        echo_json(report)
        return
    console = make_console()
    console.print(facts(report))
    console.print(score_tables(report))
    if "against" in report:
        console.print(difference_tables(report))
    if options.errors is not None:
        echo(f"the worst queries: {options.page}")


def _repeats(bank: Sequence[str], queries: Sequence[str]) -> dict[str, int]:
    """How large the bank is, and how many of its texts are queries word for word (of other clips: no leak)."""
    asked = set(queries)
    return {"num_texts": len(bank), "num_texts_also_queries": sum(text in asked for text in bank)}


def _as_lists(compared: dict[str, dict[Direction, dict[str, Interval]]]) -> dict[str, Any]:
    """Differences as JSON has them: {"difference", "interval": [low, high]} by kind, direction and name."""
    return {
        kind: {
            way: {name: {"difference": of.value, "interval": [of.low, of.high]} for name, of in names.items()}
            for way, names in ways.items()
        }
        for kind, ways in compared.items()
    }
