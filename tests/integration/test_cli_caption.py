"""`clipvip caption`, as a person types it: models on disk, a real server, bad files, kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clipvip.data.manifest import read_manifest
from helpers_captioners import write_blip, write_encoder_decoder, write_git
from helpers_chat_server import ChatServer, chat_server
from helpers_cli import run_here
from helpers_model import write_model
from helpers_shards import write_greys
from helpers_video import write_video

run = partial(run_here, "caption")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("CLIPVIP_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with chat_server() as running:
        yield running


def write_manifest(folder: Path, *, count: int = 4, noisy: bool = False) -> Path:
    """Videos of 2, 4, 6, ... frames, and a file that is none."""
    (folder / "media").mkdir()
    rows: list[dict[str, Any]] = []
    for i in range(count):
        video = folder / "media" / f"{i}.mp4"
        write_video(video, 4, grain=8 + i) if noisy else write_greys(video, 2 * i + 2)
        rows.append({"clip_id": f"clip{i}", "video": f"media/{i}.mp4", "captions": [f"text {i}"], "own": {"key": i}})
    (folder / "media" / "broken.mp4").write_text("no film")
    rows.insert(1, {"clip_id": "broken", "video": "media/broken.mp4"})
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def captions(path: Path) -> dict[str, str | None]:
    return {clip.clip_id: clip.caption for clip in read_manifest(path)}


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a verb without help."""
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Usage: clipvip caption" in text
    assert "Example: clipvip caption" in text


@pytest.mark.parametrize("write_captioner", [write_blip, write_git, write_encoder_decoder])
def test_models_from_disk(write_captioner: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a kind of model that does not run from its folder, and one bad file that stops all others."""
    manifest, out = write_manifest(tmp_path, noisy=True), tmp_path / "out.jsonl"
    model = write_captioner(tmp_path / "captioner")
    capfd.readouterr()
    options = ("--num-beams", 2, "--batch-size", 3, "--max-words", 5, "--max-bad-share", 0.3, "--device", "cpu")
    assert run(manifest, "--model", model, "--out", out, *options, "--json") == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    summary = json.loads(printed.out)
    assert (summary["clips"], summary["captioned"], summary["kept"], summary["model"]) == (5, 4, 0, "captioner")
    assert list(summary["failures"]) == ["broken"]
    found = captions(out)
    assert list(found) == list(captions(manifest))
    assert found.pop("broken") is None
    assert all(text and len(text.split()) <= 5 for text in found.values())
    assert len(set(found.values())) > 1
    first = read_manifest(out)[0]
    assert (first.captions, first.extra["own"], first.extra["caption_model"]) == (("text 0",), {"key": 0}, "captioner")
    assert str(first.extra["caption_revision"]).startswith("sha256:")


def test_a_server(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a server that is asked in another way than said, a summary without counts, and a key that is shown."""
    manifest, out = write_manifest(tmp_path), tmp_path / "out.jsonl"
    monkeypatch.setenv("CLIPVIP_API_KEY", "sk-secret")
    busy = {"status": 429, "headers": {"Retry-After": "0"}, "body": {"error": {"message": "busy"}}}
    server.script = [busy, {"status": 500, "headers": {"Retry-After": "0"}}, {"status": 400, "body": "too grey"}]
    options = ("--api-model", "tiny", "--batch-size", 1, "--prompt", "What is it?", "--timeout", 20)
    options += ("--max-bad-share", 0.5)
    assert run(manifest, "--model", server.url, "--out", out, *options) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"5 clips, 3 captioned by tiny -> {out}",
        f"  2 bad clips left without a caption: {out}.bad.jsonl",
    ]
    assert captions(out) == {"clip0": None, "broken": None, "clip1": "frame 2", "clip2": "frame 3", "clip3": "frame 4"}
    assert read_manifest(out)[2].extra["caption_revision"] == "tiny-2031-01-01"
    bad = [json.loads(line) for line in Path(f"{out}.bad.jsonl").read_text().splitlines()]
    assert [row["clip_id"] for row in bad] == ["clip0", "broken"]
    assert bad[0]["reason"].endswith("400: too grey")
    assert len(server.requests) == 6
    assert {request["headers"]["Authorization"] for request in server.requests} == {"Bearer sk-secret"}
    written = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl")]
    assert not any("secret" in text for text in (*written, printed.out, printed.err))

    # the same again mends what failed; what is done stays
    assert run(manifest, "--model", server.url, "--out", out, *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["captioned"] == 4
    assert captions(out)["clip0"] == "frame 1"


def test_captions_that_are_there_stay(tmp_path: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a person's captions overwritten unasked, --overwrite ignored, and --videos and --split passed over."""
    (tmp_path / "here").mkdir()
    manifest = write_manifest(tmp_path / "here", count=1)
    rows = [
        {"clip_id": "mine", "video": "media/0.mp4", "caption": "mine", "split": "train"},
        {"clip_id": "none", "video": "media/0.mp4", "split": "train"},
        {"clip_id": "test", "video": "media/0.mp4", "split": "test"},
    ]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("--model", server.url, "--api-model", "tiny", "--videos", tmp_path / "here", "--split", "train")
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert run(manifest, *common, "--out", first) == 0
    assert capsys.readouterr().out == f"2 clips, 1 captioned by tiny, 1 had a caption -> {first}\n"
    assert captions(first) == {"mine": "mine", "none": "frame 1", "test": None}
    assert run(manifest, *common, "--out", second, "--overwrite") == 0
    assert captions(second) == {"mine": "frame 1", "none": "frame 1", "test": None}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.jsonl", "--model", "m"], 1, "none.jsonl: no such manifest"),
        (["clips.jsonl", "--model", "no/such"], 1, "no/such: neither a folder nor a model on the hub"),
        (["clips.jsonl", "--model", "clip"], 1, "a clipvip model, which describes no images"),
        (["clips.jsonl", "--model", "URL", "--split", "val"], 1, "no clips of split 'val'"),
        (["clips.jsonl", "--model", "URL"], 2, "which of the server's models? --api-model NAME"),
        (["clips.jsonl", "--model", "http://u:p@host/v1", "--api-model", "t"], 2, "belongs into the variable"),
        (["clips.jsonl", "--model", "URL", "--num-beams", "2"], 2, "--num-beams: goes with a model only"),
        (["clips.jsonl", "--model", "URL", "--dtype", "float32"], 2, "--dtype: goes with a model only"),
        (["clips.jsonl", "--model", "clip", "--timeout", "9"], 2, "--timeout: goes with a server only"),
        (["clips.jsonl", "--model", "clip", "--api-model", "t"], 2, "--api-model: goes with a server only"),
        (["clips.jsonl", "--model", "clip", "--dtype", "int4"], 2, "--dtype int4: choose auto"),
        (["clips.jsonl", "--model", "URL", "--api-model", "t", "--engine", "mpi"], 2, "--engine mpi: choose local"),
        (["clips.jsonl", "--model", "URL", "--api-model", "t", "--out", "clips.jsonl"], 2, "is the manifest itself"),
        (["clips.jsonl", "--model", "URL", "--api-model", "t"], 1, "1 of 5 clips are bad, more than 5.0%"),
        (["clips.jsonl", "--model", "URL/no", "--api-model", "t"], 1, "404: no such model; check the address"),
    ],
)
def test_errors_are_one_line_with_the_right_code(
    tmp_path: Path,
    server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """Catches tracebacks, wrong exit codes, errors that name nothing, and a manifest written all the same."""
    write_manifest(tmp_path)
    monkeypatch.chdir(tmp_path)
    if "clip" in arguments:
        write_model(Path("clip"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if "URL/no" in arguments:
        server.script = [{"status": 404, "body": {"error": {"message": "no such model"}}}] * 9
    capsys.readouterr()
    given = [argument.replace("URL/no", "URL").replace("URL", server.url) for argument in arguments]
    assert run(*given, *(() if "--out" in given else ("--out", "out.jsonl"))) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("out.jsonl").exists()


def test_killed_and_started_again(tmp_path: Path, server: ChatServer) -> None:
    """Catches captions lost, doubled or given to other clips because of a kill, and all of it done again."""
    manifest = write_manifest(tmp_path, count=12)

    def command(out: Path) -> list[str]:
        options = ("--api-model", "tiny", "--batch-size", "1", "--part-size", "2", "--max-bad-share", "0.2")
        return [sys.executable, "-m", "clipvip", "caption", str(manifest), "--model", server.url, "--out", str(out),
                *options]  # fmt: skip

    subprocess.run(command(tmp_path / "calm.jsonl"), check=True, capture_output=True)
    assert len(server.requests) == 12
    out = tmp_path / "killed.jsonl"
    for answered in (3, 4):
        server.requests.clear()
        server.holds_at = answered
        process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.requests) <= answered and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)  # the process alone: its worker must notice
        process.wait()
        assert not out.exists()
        server.release()
    server.requests.clear()
    subprocess.run(command(out), check=True, capture_output=True)
    assert out.read_bytes() == (tmp_path / "calm.jsonl").read_bytes()
    assert Path(f"{out}.bad.jsonl").read_bytes() == (tmp_path / "calm.jsonl.bad.jsonl").read_bytes()
    assert len(server.requests) <= 12 - 3 - 3  # of a part of two, one answer at most is lost in a kill
