"""Figures made for print, each together with its numbers: NAME.png, NAME.pdf and NAME.csv.

Widths are those of a page's text block, so that nothing is scaled and 8 points stay 8 points. Series differ in colour
(Okabe and Ito's, distinct with any colour vision), in marker and in line, so grey print keeps them apart.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.errors import UsageError
from clipvip.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL_IN, HALF_IN = 6.3, 3.1
"""Widths in inches: of an A4 text block, and of one column of two."""
HEAT = "Blues"
"""Colour map of heat maps: light to dark, in this order in grey print too."""
_POINTS = 8
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":")
_STYLE: dict[str, Any] = {
    "font.size": _POINTS,
    "axes.titlesize": _POINTS + 1,
    "axes.labelsize": _POINTS,
    "xtick.labelsize": _POINTS,
    "ytick.labelsize": _POINTS,
    "legend.fontsize": _POINTS,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#D0D0D0",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "savefig.dpi": 200,
    "text.parse_math": False,  # names of files may hold a $
    "pdf.fonttype": 42,  # letters stay letters
}


@contextmanager
def drawing(
    stem: Path, rows: Sequence[Mapping[str, Any]], *, width: float = FULL_IN, height: float = 3.0
) -> Iterator[Figure]:
    """A figure to draw on; when the block ends well it is saved as `stem`.png and .pdf, with its numbers in .csv.

    rows: the numbers shown, one mapping of column -> value each. width, height: inches.
    The same drawing gives the same bytes.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise UsageError('figures need matplotlib: install it with `pip install "clipvip[analyse]"`') from None
    from matplotlib.figure import Figure  # the Figure API needs no display and no global state

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own settings would make it another figure
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        write_table(stem.with_name(stem.name + ".csv"), rows)
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with replacing(stem.with_name(f"{stem.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """CSV with a header; columns in the order in which they first appear. None is an empty cell."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line of the series with this number, from 0: arguments of `Axes.plot` and `errorbar`.

    No two of the first 56 look alike.
    """
    return {
        "color": _COLORS[number % len(_COLORS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _LINES[number % len(_LINES)],
    }


def note(figure: Figure, text: str) -> None:
    """What the figure shows and how it was made, in lines below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties

    renderer, font = FigureCanvasAgg(figure).get_renderer(), FontProperties(size=_POINTS)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and renderer.get_text_width_height_descent(longer, font, False)[0] > 0.98 * figure.bbox.width:
            lines.append(word)
        else:
            lines[-1] = longer
    figure.supxlabel("\n".join(lines), fontsize=_POINTS, x=0.01, ha="left")
