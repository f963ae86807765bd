"""Names of files on the terminal: shown as they are, except for what a terminal would obey."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from rich.table import Table

from clipvip.cli.output import echo, echo_json, make_console
from clipvip.terminal import one_line, printable
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_video

EVIL = "a\x1b]0;owned\x07\x1b[31m\x7f\x9b2J\u202e4pm\u2066\r\x08.mp4"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[31m\\x7f\\x9b2J\\u202e4pm\\u2066\\x0d\\x08.mp4"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_what_is_escaped():
    """Catches a sequence that changes the title, the colours or the direction, and letters that are escaped with it."""
    assert printable(EVIL) == SHOWN
    assert printable("\udcff") == "\\udcff"
    ordinary = "日本 größer שלום \u200d👩‍👩‍👧 e\u0301\t'\"\\ \n"
    assert printable(ordinary) == ordinary
    assert one_line("a\nclipvip: done") == "a\\nclipvip: done"


def test_every_way_to_print(capsys):
    """Catches a table or an error stream that lets through what plain lines do not; JSON keeps its own escapes."""
    echo(EVIL)
    echo(EVIL, err=True)
    table = Table(title=EVIL)
    table.add_row(EVIL, "\udcff")
    make_console(width=300).print(table, EVIL, markup=False)
    out, err = capsys.readouterr()
    assert not CONTROL.search(out + err)
    assert out.count("\\x1b]0;owned") == 4
    echo_json({"video": EVIL})
    assert json.loads(capsys.readouterr().out) == {"video": EVIL}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def test_commands_with_an_evil_name(model, tmp_path, capsys, monkeypatch):
    """Catches a command, an error, a warning or a log line that writes a name of a file as it is."""
    monkeypatch.chdir(tmp_path)
    library = tmp_path / f"lib {EVIL}"
    library.mkdir()
    write_video(library / "good.mp4", 12).rename(library / EVIL)
    (library / f"bad {EVIL}").write_text("no video")
    (library / "bad\nclipvip: done.mp4").write_text("no video")
    commands = [
        ["index", library, "--model", model, "--index", "index", "--window", "2"],
        ["library", "status", "--index", "index"],
        ["search", "a dog", "--index", "index"],
        ["search", "--index", "index", "--queries", EVIL],
        ["search", "--image", library / EVIL, "--index", "index"],
        ["search", "a dog", "--index", EVIL],
        ["search", "a dog", "--index", "index", "--root", EVIL],
        ["search", "a dog", "--index", "index", f"--{EVIL}"],
        ["search", "a dog", "--index", "index", "-k", EVIL],
        ["index", EVIL, "--index", "index", "--model", model],
        ["library", "verify", "--index", "index"],
        ["library", "forget", EVIL, "--index", "index"],
        ["index", "--index", EVIL, "--forget", EVIL],
        ["data", "check", EVIL],
        [EVIL],
    ]
    shown = ""
    for command in commands:
        run_here(*command)
        out, err = capsys.readouterr()
        assert not CONTROL.search(out + err), command
        assert "\nclipvip: done" not in err
        shown += out + err
    assert shown.count("\\x1b]0;owned") > 10
    logging.getLogger("clipvip.search").warning("%s cannot be read", EVIL)
    assert capsys.readouterr().err == f"clipvip: {SHOWN} cannot be read\n"
    (library / EVIL).unlink()
    run_here("library", "verify", "--index", "index", "--json")
    [problem, *_] = json.loads(capsys.readouterr().out)["problems"]
    assert EVIL in problem["problem"]


def test_a_traceback_is_escaped(capsys):
    """Catches `--debug`, or a mistake of ours, that writes the name as it is."""
    import sys

    run_here("--version")
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    assert SHOWN in capsys.readouterr().err
