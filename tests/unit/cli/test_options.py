"""How a dataclass becomes the options of a verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer
from typer.testing import CliRunner

from clipvip.cli import app
from clipvip.cli.options import ClipOptions, DeviceOptions, arg, opt, option, takes

SEEN: list[CopyOptions] = []


@dataclass(frozen=True, kw_only=True)
class CopyOptions(ClipOptions, DeviceOptions):
    source: Path = arg(..., "SRC")
    times: int = opt(1, "How often.", min=1)
    only: list[str] | None = opt(None, "Names.", "--only", "-o")
    dry_run: bool = opt(False, "Write nothing.")
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        SEEN.append(self)


@takes(CopyOptions)
def copy(options: CopyOptions) -> None:
    """Copy files."""
    assert options is SEEN[-1]


def run(*arguments: str) -> int:
    verbs = typer.Typer()
    verbs.command()(copy)
    SEEN.clear()
    return CliRunner().invoke(verbs, [*arguments]).exit_code


def test_fields_are_options_with_their_types_and_limits() -> None:
    """Catches an option that is lost, has another type, or is checked twice or never."""
    assert run("a", "--times", "3", "-o", "x", "--only", "y", "--dry-run", "--split", "test", "--device", "cpu") == 0
    [options] = SEEN
    assert (options.source, options.times, options.only, options.dry_run) == (Path("a"), 3, ["x", "y"], True)
    assert (options.split, options.videos, options.device, options.dtype) == ("test", None, "cpu", "auto")
    for wrong in ([], ["a", "--times", "0"], ["a", "--no-dry-run"], ["a", "--given", "x"]):
        assert run(*wrong) == 2
        assert not SEEN


def test_what_is_given_is_known_whatever_its_value() -> None:
    """Catches an option that may not be combined, and passes because it has the value of its default."""
    assert run("a", "--times", "1") == 0
    assert SEEN[0].given == {"source", "times"}
    assert CopyOptions(source=Path("a")).given == frozenset()


def test_options_of_several_verbs_come_last_in_one_order() -> None:
    """Catches a help text that begins with what matters least."""
    text = CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "200"}).output.partition(" Options ")[2]
    places = [text.index(f" {name} ") for name in ("--data", "--ties", "--videos", "--split", "--json", "--device")]
    assert places == sorted(places)
    assert [option(name) for name in ("as_json", "list_", "max_bad_share")] == ["--json", "--list", "--max-bad-share"]
