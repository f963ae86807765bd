"""`clipvip search`: find the moments of an index that look like texts, images, clips or each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

from clipvip.cli.options import AsJson, DeviceOptions, IndexUri, MovedModel, arg, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.cli.render.hits_table import hits_json, nothing_found, print_hits
from clipvip.errors import UsageError
from clipvip.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clipvip.encode import SubprocessEncoder
    from clipvip.search import Hit, Library, Query, Results, Term, VideoPart

NAME = "search"
KINDS = {"text": 1.0, "not": -0.5, "image": 1.0, "clip": 1.0, "like": 1.0}
"""Kinds of terms and how much each counts by default."""
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]


@dataclass(frozen=True, kw_only=True)
class SearchOptions(DeviceOptions):
    index: IndexUri
    text: str | None = arg(None, "[TEXT]", "What to look for, in words.")
    more: list[str] | None = opt(None, "And this; repeatable.", "--and", metavar="TEXT")
    without: list[str] | None = opt(None, "But not like this; repeatable.", "--not", metavar="TEXT")
    image: list[Path] | None = opt(None, "Like this image; repeatable.", metavar="FILE")
    clip: list[str] | None = opt(
        None,
        "Like this video, or its part from START to END (s, or m:s), at most to its end.",
        metavar="FILE[:START-END]",
    )
    like: list[str] | None = opt(None, "Like this segment (ids: see --json); repeatable.", metavar="SEGMENT_ID")
    weight: list[str] | None = opt(
        None, "How much text, image, clip, like (1 each) and not (0.5) count.", metavar="KIND=NUMBER"
    )
    queries: Path | None = opt(None, "One query per line (-: standard input); prints JSON Lines.", metavar="FILE")
    top: int = opt(10, "Number of results.", "-k", "--top", min=1)
    offset: int = opt(0, "Skip the first N results (paging).", min=0)
    per_video: bool = opt(False, "The best moment of each video only.")
    merge: bool = opt(True, "Merge nearby windows that match equally well.", "--merge/--no-merge")
    path: str | None = opt(None, "Only files like this below their root: 'holiday/**', '*.mp4'.", metavar="GLOB")
    root: Path | None = opt(None, "Only files of this indexed folder.", metavar="DIR")
    after: datetime | None = opt(None, "Only files changed since, 2024-05-31.", formats=DATES, metavar="DATE")
    before: datetime | None = opt(None, "Only files changed before.", formats=DATES, metavar="DATE")
    min_duration: float | None = opt(None, "Only videos at least this long.", metavar="SECONDS")
    max_duration: float | None = opt(None, "Only videos at most this long.", metavar="SECONDS")
    false_alarm: float | None = opt(
        None, "Report no match unless it is significant at this false-alarm rate.", metavar="RATE"
    )
    rescore: str | None = opt(None, "Lower the scores of videos that are close to every query.", metavar="qbnorm")
    exact: bool = opt(False, "Never use the approximate index.")
    export: Path | None = opt(None, "Write the results as MP4 files there.", metavar="DIR", file_okay=False)
    thumbnails: Path | None = opt(
        None, "Write the middle frames of the results there, as JPEG.", metavar="DIR", file_okay=False
    )
    as_json: AsJson = False
    model: MovedModel = None

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            raise UsageError("the query is empty: say what to look for")
        if self.queries is not None and (any(self.of_kind.values()) or self.weight or self.export or self.thumbnails):
            raise UsageError("--queries goes without other terms, --weight, --export and --thumbnails")

    @property
    def of_kind(self) -> dict[str, list[Any]]:
        """What to look for, by the kinds of `KINDS`."""
        values = {
            "text": [*([self.text] if self.text else []), *(self.more or [])],
            "not": self.without, "image": self.image, "clip": self.clip, "like": self.like,
        }  # fmt: skip
        return {kind: list(found or ()) for kind, found in values.items()}

    @property
    def encodes(self) -> bool:
        """Whether the model is needed for a term."""
        return any(found for kind, found in self.of_kind.items() if kind != "like")

    def to_queries(self) -> list[Query]:
        """One query of all terms, or one per line of a file. Raises: UsageError."""
        from clipvip.search import Filters, Query, Term

        if self.queries is None:
            searches = [self._terms()]
        else:
            searches = [[Term(text=line)] for line in _lines(self.queries)]
        if not any(term.weight > 0 for term in searches[0]):
            raise UsageError("say what to look for: a TEXT, --image, --clip, --like or --queries")
        filters = Filters(
            path=self.path, root=self.root, after=self.after, before=self.before, min_duration_s=self.min_duration,
            max_duration_s=self.max_duration,
        )  # fmt: skip
        rescore = cast(Literal["qbnorm"] | None, self.rescore)  # checked by the query
        return [
            Query(
                terms=tuple(terms), filters=filters, k=self.top, offset=self.offset, per_video=self.per_video,
                merge=self.merge, false_alarm=self.false_alarm, rescore=rescore, exact=self.exact,
            )
            for terms in searches
        ]  # fmt: skip

    def _terms(self) -> list[Term]:
        from clipvip.search import Term

        weights, terms = self._weights(), []
        for kind, values in self.of_kind.items():
            for value in values:
                field = {"not": "text", "clip": "video", "like": "segment"}.get(kind, kind)
                source: dict[str, Any] = {field: clip_part(value) if kind == "clip" else value}
                terms.append(Term(**source, weight=weights[kind]))
        return terms

    def _weights(self) -> dict[str, float]:
        weights = dict(KINDS)
        for entry in self.weight or ():
            kind, _, number = entry.partition("=")
            try:
                amount = abs(float(number)) if kind == "not" else float(number)
            except ValueError:
                kind = ""
            if kind not in KINDS:
                raise UsageError(f"--weight {entry}: write KIND=NUMBER; the kinds are {', '.join(KINDS)}")
            if not self.of_kind[kind]:
                raise UsageError(f"--weight {entry}: the query has no term of that kind; leave it out, or add one")
            if not 0 < amount < inf:
                raise UsageError(
                    f"--weight {entry}: choose a number above 0 (what answers should not be like is a --not)"
                )
            weights[kind] = -amount if kind == "not" else amount
        return weights


@takes(SearchOptions)
def command(options: SearchOptions) -> None:
    """Find moments, best first: by texts, images, clips or known segments; several add up.

    Example: clipvip search "a dog catches a frisbee" --not night --path 'holiday/**' --index my-index -k 5
    """
    import sys
    from contextlib import nullcontext

    from clipvip.encode import SubprocessEncoder

    early = options.encodes and "torch" not in sys.modules  # it starts before anything large is imported here
    with SubprocessEncoder(device=options.device, dtype=options.dtype) if early else nullcontext() as encoder:
        complete = run(options, encoder)
    if not complete:
        raise typer.Exit(1)


def run(options: SearchOptions, encoder: SubprocessEncoder | None) -> bool:
    """Search and print. Returns: whether everything that was asked for could be written."""
    import os

    from clipvip.search import Library

    queries = options.to_queries()
    library = Library(options.index, encoder or options.model, device=options.device, dtype=options.dtype)
    source = options.model or library.settings.model
    if encoder:
        encoder.source = os.path.expanduser(source)
    if options.queries is not None:
        library.check(queries[0].filters)  # before all texts are encoded
        for query, results in _answers(library, queries):
            echo_json(hits_json(str(query), source, results))
        return True
    [query] = queries
    results = library.search(query)
    written, complete = _write(library, results, options.export, options.thumbnails) if results.found else ([], True)
    if options.as_json:
        report = hits_json(str(query), source, results)
        for row, files in zip(report["results"], written, strict=False):
            row |= files
        echo_json(report)
    elif results.found and len(results):
        print_hits(str(query), results)
    else:
        echo(nothing_found(results, query))
    return complete


def clip_part(given: str) -> VideoPart:
    """FILE, or FILE:START-END with times in seconds or m:s. A file that is called so is meant as a whole."""
    import re

    time = r"(?:\d+:)*\d+(?:\.\d+)?"
    found = re.fullmatch(rf"(.+?):({time})-({time})", given, re.DOTALL)
    if Path(given).exists():
        return Path(given)
    if found is None:
        for colon in re.finditer(":", given):
            if Path(file := given[: colon.start()]).is_file():
                raise UsageError(
                    f"--clip {given}: no such file, and no part of {file}; write FILE:START-END, in seconds or m:s"
                )
        return Path(given)
    start_s, end_s = (
        sum(60**place * float(part) for place, part in enumerate(reversed(found[i].split(":")))) for i in (2, 3)
    )
    if start_s >= end_s:
        raise UsageError(f"--clip {given}: the part ends before it begins; write FILE:START-END, in seconds or m:s")
    return found[1], start_s, end_s


def _lines(path: Path) -> list[str]:
    """The queries of a file, one per line; empty lines are skipped."""
    import sys

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8; write one query per line") from None
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{path}: no query in it; write one a line")
    return lines


def _answers(library: Library, queries: Sequence[Query]) -> Iterator[tuple[Query, Results]]:
    """Queries of one text with their answers. The texts are encoded together."""
    from dataclasses import replace

    texts = [str(query) for query in queries]
    for query, vector in zip(queries, library.encoder.encode_texts(texts), strict=True):
        yield query, library.search(replace(query, terms=(replace(query.terms[0], vector=vector),)))


def _write(
    library: Library, results: Results, export: Path | None, thumbnails: Path | None
) -> tuple[list[dict[str, str]], bool]:
    """Cut the hits, write their pictures: the files of each, and whether that worked for all."""
    from clipvip.errors import ClipVipError
    from clipvip.search.export import export_hit, file_name

    def write_thumbnail(hit: Hit, folder: Path) -> Path | None:
        jpeg = library.thumbnail(hit.segment_id)
        if jpeg is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{file_name(hit)}.jpg"
        picture.write_bytes(jpeg)
        return picture

    written, complete = list[dict[str, str]](), True
    for hit in results:
        files: dict[str, str] = {}
        for name, folder, write in (("clip", export, export_hit), ("thumbnail", thumbnails, write_thumbnail)):
            try:
                file = None if folder is None else write(hit, folder)
            except (ClipVipError, OSError) as error:
                reason = f"{hit.video}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
                echo(one_line(f"no {name} of result {hit.rank}: {reason}"), err=True)
                complete = False
            else:
                files |= {} if file is None else {name: str(file.absolute())}
        written.append(files)
    return written, complete
