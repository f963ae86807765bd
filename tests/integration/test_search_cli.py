"""`clipvip index` and `clipvip search`, as a person types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.text import Text

import clipvip
from clipvip.search import Filters, Library, Query, Term
from clipvip.video import probe
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_audio, write_video


def run(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipvip", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as people have them: spaces, umlauts, good and bad files; and a model beside it."""
    place = tmp_path_factory.mktemp("Käthes Rechner")
    videos = place / "Meine Vidéos 日本"
    (videos / "Urlaub [2024]").mkdir(parents=True)
    write_video(videos / "kurz.mp4", 12)
    write_video(videos / "Urlaub [2024]" / "größer.mkv", 130)  # 13 s: two windows
    write_audio(videos / "ton.mp4")
    (videos / "leer.mp4").touch()
    (videos / "text.mp4").write_text("not a video")
    whole = write_video(videos / "whole.mp4", 40).read_bytes()
    (videos / "ab.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "whole.mp4").unlink()
    write_model(place / "ein modell")
    write_model(place / "anderes", seed=1)
    return place


def test_index_and_search(place, monkeypatch, capsys):
    """Catches a bad file that ends the run or is passed over in silence, and answers that are not the model's own."""
    index = ("index", "Meine Vidéos 日本", "--model", "ein modell", "--index", "mein index")
    first = run(*index, cwd=place)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("2 videos, 3 segments, 0.00 hours (")
    lines = sorted(first.stderr.splitlines())
    assert len(lines) == 4
    for line, name in zip(lines, ["ab.mp4", "leer.mp4", "text.mp4", "ton.mp4"], strict=True):
        assert line.startswith(f"skipped {place / 'Meine Vidéos 日本' / name}: ")

    again = run(*index, "--json", "--strict", cwd=place)
    assert again.returncode == 1
    told = json.loads(again.stdout)
    assert (told["videos"], told["segments"], told["unchanged"]) == (0, 0, 2)
    assert {Path(row["video"]).name for row in told["skipped"]} == {"ab.mp4", "leer.mp4", "text.mp4", "ton.mp4"}

    found = run("search", "the blue square jumps", "--index", "mein index", "-k", 2, "--no-merge", "--json", cwd=place)
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer.keys() == {"query", "model", "found", "results"}
    assert answer["found"] is True
    assert (answer["query"], answer["model"]) == ("the blue square jumps", str(place / "ein modell"))
    encoder = clipvip.load(place / "ein modell", device="cpu")
    short, long = place / "Meine Vidéos 日本" / "kurz.mp4", place / "Meine Vidéos 日本" / "Urlaub [2024]" / "größer.mkv"
    segments = [(short, 0.0, 1.2), (long, 0.0, 12.0), (long, 1.0, 13.0)]
    scores = encoder.encode_videos(segments) @ encoder.encode_texts(["the blue square jumps"])[0]
    expected = sorted(zip(scores, segments, strict=True), reverse=True)[:2]
    for rank, (row, (score, segment)) in enumerate(zip(answer["results"], expected, strict=True), start=1):
        assert row.keys() == {"rank", "score", "video", "start_s", "end_s", "segment_id", "video_id"}
        assert (row["rank"], row["video"]) == (rank, str(segment[0]))
        assert (row["start_s"], row["end_s"]) == pytest.approx(segment[1:], abs=0.01)
        assert row["score"] == pytest.approx(float(score), abs=1e-5)

    monkeypatch.chdir(place)
    assert run_here("search", "a [red] circle", "--index", "mein index") == 0
    table = capsys.readouterr().out
    assert "a [red] circle" in table
    assert table.count("-0:1") == 1  # two windows that share most of their time are one answer
    assert re.search(rf"│ {re.escape(str(long))} │ 0:0\d-0:1\d │\n", table)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "80")
    assert run_here("search", "a [red] circle", "--index", "mein index") == 0
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    [line] = [line for line in lines if "-0:1" in line]
    assert re.search(r"│ /.+….+ \[2024\]/größer\.mkv │ 0:0\d-0:1\d │$", line)
    assert len(lines) == 7  # title, heading and frame; two answers
    monkeypatch.delenv("FORCE_COLOR")
    for arguments in (
        (*index[:2], "--model", "anderes", "--index", "mein index"),
        ("search", "a dog", "--model", "anderes", "--index", "mein index"),
    ):
        assert run_here(*arguments) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert str(place / "ein modell") in line
        assert "another --index" in line
    assert run_here(*index, "--window", "5") == 2
    assert "cut into windows of 12 s every 6 s, not" in capsys.readouterr().err


def asked(monkeypatch, capsys, *arguments):
    """What `clipvip search ... --json` answers."""
    assert run_here("search", *map(str, arguments), "--index", "mein index", "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_every_kind_of_query(place, monkeypatch, capsys):
    """Catches an option that is accepted and ignored: each is compared with the same query in Python."""
    monkeypatch.chdir(place)
    folder = "Meine Vidéos 日本"
    assert run_here("index", folder, "--model", "ein modell", "--index", "mein index") == 0
    capsys.readouterr()
    library = Library("mein index")
    first = library.search("a dog", k=1).hits[0]
    part = (Path(folder, "Urlaub [2024]", "größer.mkv"), 1.0, 3.5)
    whole = Path(folder, "kurz.mp4")
    noon = datetime(2024, 5, 1, 12, 30)
    cases = [
        (["a dog", "--and", "a cat", "--not", "night"], {}, ["a dog", "a cat", ("night", -0.5)]),
        (["a dog", "--not", "night", "--weight", "text=2", "--weight", "not=1"], {}, [("a dog", 2.0), ("night", -1.0)]),
        (["--clip", f"{part[0]}:1-0:03.5"], {}, [Term(video=part)]),
        (["--clip", f"{whole}:0:00.5-59"], {}, [Term(video=(whole, 0.5, 1.2))]),
        (["--clip", whole, "--weight", "clip=0.3", "a dog"], {}, ["a dog", Term(video=whole, weight=0.3)]),
        (["--like", first.segment_id], {}, [Term(segment=first.segment_id)]),
        (["a dog", "-k", 1, "--offset", 1, "--no-merge"], {"k": 1, "offset": 1, "merge": False}, ["a dog"]),
        (["a dog", "--per-video", "--exact"], {"per_video": True, "exact": True}, ["a dog"]),
        (["a dog", "--path", "Urlaub*/**"], {"filters": Filters(path="Urlaub*/**")}, ["a dog"]),
        (["a dog", "--root", folder], {"filters": Filters(root=folder)}, ["a dog"]),
        (["a dog", "--after", "2024-05-01"], {"filters": Filters(after=date(2024, 5, 1))}, ["a dog"]),
        (["a dog", "--before", "2024-05-01T12:30"], {"filters": Filters(before=noon)}, ["a dog"]),
        (["a dog", "--min-duration", 5], {"filters": Filters(min_duration_s=5)}, ["a dog"]),
        (["a dog", "--max-duration", 5], {"filters": Filters(max_duration_s=5)}, ["a dog"]),
        (["a dog", "--false-alarm", 0.9], {"false_alarm": 0.9}, ["a dog"]),
        (["a dog", "--rescore", "qbnorm"], {"rescore": "qbnorm"}, ["a dog"]),
    ]  # fmt: skip
    answers = []
    for arguments, fields, terms in cases:
        named = [Term(text=term) if isinstance(term, str) else term for term in terms]
        named = [Term(text=term[0], weight=term[1]) if isinstance(term, tuple) else term for term in named]
        results = library.search(Query(terms=tuple(named), **fields))
        told = asked(monkeypatch, capsys, *arguments)
        answers.append([row["score"] for row in told["results"]])
        assert [(row["rank"], row["segment_id"], row["start_s"], row["end_s"]) for row in told["results"]] == [
            (hit.rank, hit.segment_id, hit.start_s, hit.end_s) for hit in (results if results.found else ())
        ], arguments
        assert answers[-1] == pytest.approx([hit.score for hit in results] if results.found else [], abs=1e-5)
        assert told.get("p_value") == results.p_value
        assert told["found"] == (results.found and len(results) > 0)
    assert answers[11] == []  # the files are of today
    assert run_here("search", "a dog", "--root", ".", "--index", "mein index") == 2
    assert f"not a folder of this index; it has {place / folder} " in capsys.readouterr().err


def test_queries_of_a_file_and_files_of_answers(place, monkeypatch, capsys):
    """Catches answers in another order, clips and pictures of another moment, and `found` that is always true."""
    monkeypatch.chdir(place)
    assert run_here("index", "Meine Vidéos 日本", "--model", "ein modell", "--index", "mein index") == 0
    capsys.readouterr()
    Path("fragen.txt").write_text("a red circle\n\nthe night\n", encoding="utf-8-sig")  # as Windows' Notepad does
    assert run_here("search", "--queries", "fragen.txt", "--index", "mein index", "-k", "1") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == ["a red circle", "the night"]
    with Path("fragen.txt").open(encoding="utf-8") as questions:
        monkeypatch.setattr(sys, "stdin", questions)
        assert run_here("search", "--queries", "-", "--index", "mein index", "-k", "1") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    for line in lines:
        [alone] = asked(monkeypatch, capsys, line["query"], "-k", 1)["results"]
        assert line["results"] == [alone | {"score": pytest.approx(alone["score"], abs=1e-6)}]

    told = asked(monkeypatch, capsys, "a red circle", "--export", "cuts", "--thumbnails", "pictures")
    assert [Path(row["clip"]).parent.name for row in told["results"]] == ["cuts"] * 2
    for row in told["results"]:
        assert probe(row["clip"]).duration_s == pytest.approx(row["end_s"] - row["start_s"], abs=0.3)
        assert Path(row["thumbnail"]).read_bytes() == Library("mein index").thumbnail(row["segment_id"])

    assert run_here("search", "a red circle", "--index", "mein index", "--false-alarm", "0.004") == 0
    assert capsys.readouterr().out.startswith("nothing found (p = ")
    texts = [f"a text about {i}" for i in range(25)]
    Path("bank.txt").write_text("\n".join(texts), encoding="utf-8")
    assert run_here("index", "--index", "mein index", "--background", "bank.txt") == 0
    assert Library("mein index").store.database.open_table("background").to_arrow()["text"].to_pylist() == texts
    assert run_here("search", "a red circle", "--index", "mein index", "--false-alarm", "0.004") == 2
    assert "25 background queries tell no rate below 0.0385" in capsys.readouterr().err
    assert run_here("search", "a red circle", "--index", "mein index", "--path", "none") == 0
    assert "passes the filters" in capsys.readouterr().out
    assert run_here("search", "a red circle", "--index", "mein index", "--offset", "5") == 0
    assert capsys.readouterr().out == "nothing found: there is no answer beyond the first 5\n"
    for mistake, told in ((["--root", "."], "not a folder of this index"), (["--path", "["], "never closed")):
        arguments = ("--queries", "fragen.txt", "--index", "mein index", "--model", "no model", *mistake)
        assert run_here("search", *arguments) == 2  # before the model is looked for
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["search", " ", "--index", "nowhere"], 2, "empty"),
        (["search", "a dog", "--index", ""], 2, "an index needs a name"),
        (["search", "--not", "a dog", "--index", "nowhere"], 2, "say what to look for"),
        (["search", "a dog \udcff", "--index", "nowhere"], 2, "not valid UTF-8"),
        (["search", "--image", "x", "--false-alarm", "0.05", "--index", "nowhere"], 2, "is for texts"),
        (["search", "--clip", "film.mp4:0:09-3", "--index", "nowhere"], 2, "film.mp4:0:09-3: the part ends before it"),
        (
            ["search", "--clip", "ein modell/config.json:9", "--index", "nowhere"],
            2,
            "no part of ein modell/config.json;",
        ),
        (["search", "--clip", "ein modell/config.json:x-y", "--index", "nowhere"], 2, "write FILE:START-END"),
        (["search", "a dog", "--weight", "dog=3", "--index", "nowhere"], 2, "KIND=NUMBER"),
        (
            ["search", "a dog", "--weight", "image=3", "--index", "nowhere"],
            2,
            "--weight image=3: the query has no term",
        ),
        (
            ["search", "a dog", "--weight", "text=-1", "--index", "nowhere"],
            2,
            "--weight text=-1: choose a number above 0",
        ),
        (["search", "--queries", "x.txt", "--weight", "text=2", "--index", "nowhere"], 2, "goes without other terms"),
        (["search", "--queries", "x.txt", "--index", "nowhere"], 1, "x.txt: no such file"),
        (["search", "a dog", "--path", "[", "--index", "nowhere"], 1, "no search index"),
        (["search", "a dog", "--index", "nowhere"], 1, "no search index"),
        (["index", "nowhere", "--model", "ein modell", "--index", "new"], 2, "no such file or folder"),
        (["index", "ein modell", "--model", "ein modell", "--index", "new"], 1, "no video files"),
    ],
)
def test_mistakes_are_told_in_one_line(place, monkeypatch, capsys, arguments, code, told):
    """Catches tracebacks, wrong exit codes, and an index folder left behind by a mistake."""
    monkeypatch.chdir(place)
    assert run_here(*arguments) == code
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (place / "new").exists()
    assert not (place / "nowhere").exists()
