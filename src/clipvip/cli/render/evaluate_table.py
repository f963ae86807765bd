"""What `clipvip evaluate` prints: what was measured, the scores, and differences to another model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

HEADINGS = {"t2v": "text to video (t2v)", "v2t": "video to text (v2t)", "chance": "chance t2v"}
NAMES = ("R@1", "R@5", "R@10", "MeanR@", "MdR", "MnR")


def facts(report: dict[str, Any]) -> Table:
    """What the figures are figures of."""
    from rich.table import Table
    from rich.text import Text

    ties, intervals = report["ties"], report["intervals"]
    paragraphs = " (each all captions of a clip)" if report["join_captions"] else ""
    left_out = f", {len(report['skipped']):,} of them left out: not decodable" if report["skipped"] else ""
    told = {
        "texts": f"{report['num_texts']:,}{paragraphs}",
        "videos": f"{report['num_videos']:,} ({report['num_clips']:,} clips in {_place(report)}{left_out})",
        "model": f"{report['model']}, fingerprint {report['fingerprint']}, {report['dtype']}",
        "input": _sampling(report["sampling"]),
        "ties": f"{ties['policy']}; queries with a wrong answer that scores as the true one: {_both(ties['tied'])}; "
        f"within 1e-6 of it: {_both(ties['close'])}",
        "intervals": f"95 %, {intervals['num_resamples']:,} resamples of the {intervals['drawn']}",
    }
    if "bank" in report:
        bank = report["bank"]
        told["bank"] = (
            f"{bank['num_texts']:,} texts of {_place(bank)}, "
            f"{bank['num_texts_also_queries']:,} of them word for word queries too"
        )
    grid = Table.grid(padding=(0, 2))
    for name, what in told.items():
        if what:
            grid.add_row(name, Text(what))
    return grid


def score_tables(report: dict[str, Any]) -> Group:
    """The scores, a table a kind. report: chance, plain and, if any, dsl, qbnorm, intervals, bank, released, twins."""
    from clipvip.evaluation.protocol import label

    parts: list[RenderableType] = []
    for kind in ("plain", "dsl", "qbnorm"):
        if kind in report:
            spread = report.get("intervals", {}).get(kind, {})
            columns = {
                way: {name: _cell(value, spread.get(way, {}).get(name)) for name, value in values.items()}
                for way, values in report[kind].items()
            }
            if kind == "plain":
                columns["chance"] = {name: _cell(value) for name, value in report["chance"].items()}
            parts += _titled(label(kind, report.get("bank", {}).get("num_texts", 0)), columns)
    for kind, title in (("plain", "plain"), ("dsl", "transductive (DSL, over texts both ways)")):
        if "released" in report:
            of_kind = report["released"][kind]
            columns = {
                way: {name: _cell(values[name]) for name in NAMES} | {"places": f"{values['num_places']:,}"}
                for way, values in of_kind.items()
            }
            parts += _titled(f"released protocol: {title}", columns)
    if "twin_accuracy" in report:
        twins = f"twin accuracy {report['twin_accuracy']:.1f} % (own video above its time-reversed twin; chance 50 %)"
        parts += ["", twins]
    return _group(parts)


def difference_tables(report: dict[str, Any]) -> Group:
    """This model minus the other one, a table a kind."""
    from rich.text import Text

    against = report["against"]
    told = (
        f"Differences to {against['ranks']} (this model minus that one), paired by query. Where 0 lies outside an "
        "interval, the choice of queries does not explain the difference."
    )
    parts: list[RenderableType] = ["", Text(told)]
    for kind, title in report["labels"].items():
        if kind in against:
            columns = {
                way: {name: _cell(found["difference"], found["interval"], "+") for name, found in values.items()}
                for way, values in against[kind].items()
            }
            parts += _titled(title, columns)
    return _group(parts)


def _titled(title: str, columns: Mapping[str, Mapping[str, str]]) -> list[RenderableType]:
    """A table of columns by heading, each of cells by name."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", min_width=7)
    for way in columns:
        table.add_column(HEADINGS[way], justify="right", min_width=20 if way != "chance" else None)
    names = dict.fromkeys(name for way in columns if way != "chance" for name in columns[way])
    for name in names:
        table.add_row(name, *(Text(columns[way].get(name, "")) for way in columns))
    return ["", Text(title, style="bold"), table]


def _group(parts: list[RenderableType]) -> Group:
    from rich.console import Group

    return Group(*parts)


def _place(source: dict[str, Any]) -> str:
    return source["data"] + (f", split {source['split']}" if source["split"] else "")


def _cell(value: float, interval: list[float] | None = None, sign: str = "") -> str:
    spread = f" [{interval[0]:{sign}.1f}, {interval[1]:{sign}.1f}]" if interval else ""
    return f"{value:{sign}.1f}{spread}"


def _sampling(sampling: dict[str, Any]) -> str:
    if not sampling:
        return ""
    cleaned = f", cleaned ({name})" if (name := sampling.get("text_cleaning", "none")) != "none" else ""
    filtered = ", antialias" if sampling["antialias"] else ""
    return (
        f"{sampling['num_frames']} frames of {sampling['image_size']} pixels, resize {sampling['resize']} "
        f"(in the {sampling['resize_in']}{filtered}), texts cut at {sampling['max_text_tokens']} tokens{cleaned}"
    )


def _both(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {way}" for way, count in counts.items())
