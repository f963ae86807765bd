"""`clipvip search`: find the moments of an index that look like texts, images, clips or each other."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipvip.cli.options import Device, Dtype
from clipvip.cli.output import echo, echo_json
from clipvip.cli.render.hits_table import print_hits
from clipvip.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clipvip.search import Hit, Library, Query, Results, Term, VideoPart

NAME = "search"
KINDS = {"text": 1.0, "not": -0.5, "image": 1.0, "clip": 1.0, "like": 1.0}
"""Kinds of terms and how much each counts by default."""
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]


def command(
    index: Annotated[str, typer.Option(metavar="URI", help="An index made by `clipvip index`.")],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What to look for, in words.")] = None,
    more: Annotated[list[str] | None, typer.Option("--and", metavar="TEXT", help="And this; repeatable.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--not", metavar="TEXT", help="But not like this; repeatable.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Like this picture; repeatable.")] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:START-END]",
            help="Like this video, or its part from START to END (s, or m:s), at most to its end.",
        ),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(metavar="SEGMENT_ID", help="More like this segment; --json tells the ids.")
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=NUMBER", help="How much text, image, clip, like (1 each) and not (0.5) count."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text a line instead (-: standard input); prints JSON Lines.")
    ] = None,
    top: Annotated[int, typer.Option("-k", "--top", min=1, help="Number of answers.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Pass over that many better ones (paging).")] = 0,
    per_video: Annotated[bool, typer.Option("--per-video", help="The best moment of each video only.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge/--no-merge", help="Near-by windows that answer equally well are one answer.")
    ] = True,
    path: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only files like this below their root: 'holiday/**', '*.mp4'.")
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Only files of this indexed folder.")] = None,
    after: Annotated[
        datetime | None, typer.Option(formats=DATES, metavar="DATE", help="Only files changed since, 2024-05-31.")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option(formats=DATES, metavar="DATE", help="Only files changed before.")
    ] = None,
    min_duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Only videos at least this long.")
    ] = None,
    max_duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Only videos at most this long.")
    ] = None,
    false_alarm: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Say that nothing was found, unless such an answer is rarer than this."),
    ] = None,
    rescore: Annotated[
        str | None, typer.Option(metavar="qbnorm", help="Hold back videos that are near to every query.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Use no approximate index, however large.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Cut the answers to MP4 files there.")
    ] = None,
    thumbnails: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Write the answers' middle frames there, as JPEG."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    model: Annotated[str | None, typer.Option(help="Where the model of the index is now, if it has moved.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Find moments, best first: by texts, images, clips, or what is like a known one; several add up.

    Example: clipvip search "a dog catches a frisbee" --not night --path 'holiday/**' --index my-index -k 5
    """
    from clipvip.errors import UsageError

    if text is not None and not text.strip():
        raise UsageError("the query is empty: say what to look for")

    import os
    import sys
    from contextlib import nullcontext

    from clipvip.encode import SubprocessEncoder

    encodes = queries is None and any((text, more, without, image, clip))
    early = encodes and "torch" not in sys.modules  # the process starts before anything large is imported here
    with SubprocessEncoder(device=device, dtype=dtype) if early else nullcontext() as encoder:
        from clipvip.search import Filters, Library, Term

        filters = Filters(
            path=path, root=root, after=after, before=before, min_duration_s=min_duration, max_duration_s=max_duration
        )
        options = {
            "filters": filters, "k": top, "offset": offset, "per_video": per_video, "merge": merge,
            "false_alarm": false_alarm, "rescore": rescore, "exact": exact,
        }  # fmt: skip
        given = {"text": [*([text] if text else []), *(more or [])], "not": without, "image": image, "clip": clip}
        if queries is not None and (any(given.values()) or like or weight or export or thumbnails):
            raise UsageError("--queries goes without other terms, --weight, --export and --thumbnails")
        terms = _terms({**given, "like": like}, weight or [])
        asked = [_query([Term(text=line)], options) for line in _lines(queries)] if queries is not None else []
        query = asked[0] if asked else _query(terms, options)
        library = Library(index, encoder or model, device=device, dtype=dtype)
        source = model or library.settings.model
        if encoder:
            encoder.source = os.path.expanduser(source)
        if asked:
            library.check(filters)  # before all texts are encoded
            for query, results in _answers(library, asked):
                echo_json(_told(str(query), source, results))
            return
        results = library.search(query)
        written, complete = _write(library, results, export, thumbnails) if results.found else ([], True)
        if as_json:
            told = _told(str(query), source, results)
            for row, files in zip(told["results"], written, strict=False):
                row |= files
            echo_json(told)
        elif results.found and len(results):
            print_hits(str(query), results)
        else:
            echo(_nothing(results, query))
        if not complete:
            raise typer.Exit(1)


def clip_part(given: str) -> VideoPart:
    """FILE, or FILE:START-END with times in seconds or m:s. A file that is called so is meant as a whole."""
    import re

    from clipvip.errors import UsageError

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


def _terms(given: dict[str, Sequence[Any] | None], weights: Sequence[str]) -> list[Term]:
    """The terms of the options, with the weights of their kinds. Raises: UsageError for a weight of nothing."""
    from math import inf

    from clipvip.errors import UsageError
    from clipvip.search import Term

    amounts = dict(KINDS)
    for entry in weights:
        kind, _, number = entry.partition("=")
        try:
            amount = abs(float(number)) if kind == "not" else float(number)
        except ValueError:
            kind = ""
        if kind not in KINDS:
            raise UsageError(f"--weight {entry}: write KIND=NUMBER; the kinds are {', '.join(KINDS)}")
        if not given[kind]:
            raise UsageError(f"--weight {entry}: the query has no term of that kind; leave it out, or add one")
        if not 0 < amount < inf:
            raise UsageError(f"--weight {entry}: choose a number above 0 (what answers should not be like is a --not)")
        amounts[kind] = -amount if kind == "not" else amount
    terms = []
    for kind, values in given.items():
        for value in values or ():
            field = {"not": "text", "clip": "video", "like": "segment"}.get(kind, kind)
            source: dict[str, Any] = {field: clip_part(value) if kind == "clip" else value}
            terms.append(Term(**source, weight=amounts[kind]))
    return terms


def _query(terms: Sequence[Term], options: dict[str, Any]) -> Query:
    from clipvip.errors import UsageError
    from clipvip.search import Query

    if not any(term.weight > 0 for term in terms):
        raise UsageError("say what to look for: a TEXT, --image, --clip, --like or --queries")
    return Query(terms=tuple(terms), **options)


def _lines(path: Path) -> list[str]:
    """The queries of a file, one a line; empty lines are none."""
    import sys

    from clipvip.errors import UsageError

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8; write one query a line") from None
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


def _told(asked: str, model: str, results: Results) -> dict[str, Any]:
    """As JSON tells it; no results where nothing was found."""
    from dataclasses import asdict

    rows = [asdict(hit) | {"video": str(hit.video)} for hit in results] if results.found else []
    told = {"query": asked, "model": model, "found": results.found and bool(rows), "results": rows}
    return told if results.p_value is None else told | {"p_value": results.p_value}


def _nothing(results: Results, query: Query) -> str:
    from clipvip.search import Filters

    if not results.found and len(results):
        return (
            f"nothing found (p = {results.p_value:.3f}: that often, something that is not there has an answer this "
            "good); without --false-alarm the nearest are shown"
        )
    filtered = query.filters != Filters()
    if query.offset:
        beyond = f"nothing found: there is no answer beyond the first {query.offset}"
        return beyond + (" that passes the filters" if filtered else "")
    return "nothing found: " + ("no segment passes the filters" if filtered else "the index is empty")


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
