"""`clipvip evaluate`: retrieval scores of a model on a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipvip.cli.options import Device, Dtype
from clipvip.cli.output import echo, echo_json, make_console
from clipvip.terminal import one_line

if TYPE_CHECKING:
    from clipvip.embedding_sets import EmbeddingSet
    from clipvip.encode import DistributedEncoder
    from clipvip.evaluation import Interval
    from clipvip.evaluation.metrics import Direction
    from clipvip.records import Clip

NAME = "evaluate"
MAX_LISTED = 10
"""So many of the clips left out are named; the JSON has all."""


def command(
    data: Annotated[Path, typer.Option(help="Manifest with captions.")],
    model: Annotated[str | None, typer.Option(help="Model folder or hub id (clipvip, or plain CLIP).")] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Instead of --model: what clipvip encode made of this manifest; repeatable."),
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder the media paths are relative to (default: the manifest's).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split (default: every line).")] = None,
    join_captions: Annotated[
        bool,
        typer.Option("--join-captions", help="One query a clip: its captions joined (paragraph retrieval)."),
    ] = False,
    ties: Annotated[
        Literal["average", "optimistic", "pessimistic"],
        typer.Option(help="How many of the answers that score as the true one rank above it: half, none, all."),
    ] = "average",
    rescore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="dsl|qbnorm",
            help="Also report a re-scoring: dsl (transductive: uses all test queries at once) or qbnorm (uses a bank "
            "of training captions, see --bank); repeatable.",
        ),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(metavar="MANIFEST", help="For qbnorm: a manifest whose captions are the bank.")
    ] = None,
    bank_split: Annotated[str | None, typer.Option(help="Only this split of the bank (default: every line).")] = None,
    released_protocol: Annotated[
        bool,
        typer.Option(
            "--released-protocol",
            help="Also report what the released code would print: every tied place counts, DSL over texts for both "
            "directions. For comparison with published figures only.",
        ),
    ] = False,
    on_decode_error: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="A clip that cannot be decoded: raise, or skip it (N is then smaller, and told)."),
    ] = "raise",
    errors: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Write a page of the N worst text queries, with film strips."),
    ] = None,
    errors_page: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Where --errors writes its page (default: errors.html).")
    ] = None,
    ranks: Annotated[
        Path | None, typer.Option(metavar="JSONL", help="Write the rank of every query, both directions.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="JSONL", help="Another model's --ranks on the same clips: report the paired differences."),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="JSON", help="Write the scores to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Clips in one pass through the model (changes memory and speed).")
    ] = 16,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Measure text-to-video and video-to-text retrieval: R@1/5/10, median and mean rank, with 95 % intervals.

    torchrun --nproc-per-node N -m clipvip evaluate ... shares the encoding among N processes; the figures are the same.

    Example: clipvip evaluate --model runs/demo/model --data runs/demo/world/retrieval.jsonl --split test --rescore dsl

    With a bank and a page of errors: clipvip evaluate --model M --data msrvtt.jsonl --split test --rescore qbnorm
    --bank msrvtt.jsonl --bank-split train --errors 20 --output scores.json
    """
    import json

    from clipvip import distributed
    from clipvip.cli.render.evaluate_table import difference_tables, facts, score_tables
    from clipvip.errors import UsageError
    from clipvip.evaluation import rank_retrieval, report_retrieval, run_retrieval
    from clipvip.evaluation.saved import differences, read_ranks, write_ranks
    from clipvip.files import replace_text

    if errors_page and errors is None:
        raise UsageError(f"--errors-page {errors_page}: goes with --errors N")
    if errors is not None:
        from clipvip.cli.render.evaluate_errors import write_errors
    page = errors_page or Path("errors.html")
    for option, file in (("--output", output), ("--ranks", ranks), ("--errors-page", page)):
        if file and not file.parent.is_dir():
            raise UsageError(f"{option} {file}: there is no folder {file.parent}")  # not after all the work
    kinds = tuple(dict.fromkeys(rescore or ()))
    unknown = [kind for kind in kinds if kind not in ("dsl", "qbnorm")]
    if unknown:
        raise UsageError(f"--rescore {unknown[0]}: choose dsl or qbnorm, or leave it out")
    if ("qbnorm" in kinds) != (bank is not None) or (bank_split is not None and bank is None):
        raise UsageError("--rescore qbnorm and --bank MANIFEST go together (and --bank-split with them)")
    if (model is None) == (not embeddings):
        raise UsageError("evaluate needs --model M, or else --embeddings DIR")

    distributed.join()
    asked = _Asked(data, videos, split, join_captions, released_protocol, bank, bank_split)
    clips, texts_of_bank = distributed.on_main(asked.read)
    other = None if against is None else distributed.on_main(lambda: read_ranks(against))
    encoder, name = _open(model, embeddings or [], device, dtype, batch_size)
    found = run_retrieval(
        encoder,
        clips,
        join_captions=join_captions,
        progress=not as_json,
        on_decode_error=on_decode_error,
        bank=texts_of_bank,
    )
    if distributed.rank() > 0:
        return  # the main process speaks for all
    for clip_id, reason in list(found.skipped.items())[:MAX_LISTED]:
        echo(one_line(f"skipped {clip_id}: {reason}"), err=True)
    if len(found.skipped) > MAX_LISTED:
        echo(f"skipped {len(found.skipped) - MAX_LISTED} more (--json and --output list all)", err=True)

    rivals = rank_retrieval(found, rescore=kinds)
    report: dict[str, Any] = {
        "model": name,
        "fingerprint": found.fingerprint,
        "dtype": encoder.dtype,
        "sampling": encoder.sampling,
        "data": str(data),
        "split": split,
        "join_captions": join_captions,
        "num_clips": len(clips),
        **report_retrieval(found, rivals, ties=ties, released=released_protocol),
    }
    if bank:
        report["bank"] = {"data": str(bank), "split": bank_split, **_repeats(texts_of_bank, found.texts)}
    if other is not None:
        compared = differences(found, rivals, ties, other)
        report["against"] = {"ranks": str(against), **_as_lists(compared)}
    if ranks:
        write_ranks(ranks, found, rivals, ties)
    if errors is not None:
        write_errors(page, found, rivals["plain"]["t2v"].ranks(ties), report, errors)
    if output:
        replace_text(output, json.dumps(report, indent=2))
    if as_json:
        echo_json(report)
        return
    console = make_console()
    console.print(facts(report))
    console.print(score_tables(report))
    if other is not None:
        console.print(difference_tables(report))
    if errors is not None:
        echo(f"the worst queries: {page}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be evaluated, and by which bank, as the command line has it."""

    data: Path
    videos: Path | None
    split: str | None
    join_captions: bool
    released: bool
    bank: Path | None
    bank_split: str | None

    def read(self) -> tuple[list[Clip], tuple[str, ...]]:
        """The clips, and the bank's texts. Raises: ManifestError, UsageError."""
        from clipvip.data import read_manifest
        from clipvip.errors import UsageError
        from clipvip.evaluation import bank_texts, texts_of

        clips = read_manifest(self.data, videos=self.videos, split=self.split)
        several = [clip for clip in clips if len(texts_of(clip, join_captions=self.join_captions)) > 1]
        if self.released and several:
            raise UsageError(
                f"--released-protocol knows one text a clip, but {several[0].clip_id} has {len(several[0].captions)}; "
                "leave it out, or add --join-captions"
            )
        if self.bank is None:
            return clips, ()
        of_bank = read_manifest(self.bank, videos=self.videos, split=self.bank_split)
        return clips, bank_texts(of_bank, clips, join_captions=self.join_captions)


def _open(
    model: str | None, embeddings: list[Path], device: str, dtype: str, batch_size: int
) -> tuple[DistributedEncoder | EmbeddingSet, str]:
    """What gives the vectors, and the model's name."""
    from clipvip import distributed
    from clipvip.encode import DistributedEncoder, Encoder, load

    if model is None:
        from clipvip.embedding_sets import open_embeddings

        opened = open_embeddings(*embeddings)
        return opened, opened.facts[0].model
    loaded: list[Encoder] = []
    distributed.together(lambda: loaded.append(load(model, device=device, dtype=dtype)))
    return DistributedEncoder(loaded[0], batch_size=batch_size), model


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
