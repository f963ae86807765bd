"""`clipvip index` on a library as people have them, and its looks at the index."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from clipvip.search.index.scan import EncodedVideo
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_audio, write_video, write_videos


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def clipvip(monkeypatch, capsys, tmp_path):
    """The command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return run_here(*arguments), *capsys.readouterr()

    return run


def test_an_awkward_library(clipvip, model, tmp_path):
    """Catches one strange file that ends the run, is passed over in silence, or makes it hang."""
    library = tmp_path / "lib"
    (library / "日本 😀").mkdir(parents=True)
    good = [library / "日本 😀" / "naïve\nname.mp4", library / "a'b\";--.mp4", library / "%03d.MOV", library / "-x.mkv"]
    for number, path in enumerate(good):
        write_video(path, 20 + number)
    (library / "again.mp4").write_bytes(good[0].read_bytes())
    (library / "linked.mp4").symlink_to(good[1])
    still = write_video(library / "picture.gif", 1, codec="gif", pix_fmt="rgb8")
    Image.new("RGB", (64, 48)).save(library / "photo.png")
    Image.new("RGB", (64, 48)).save(library / "photo.mp4", "PNG")  # a name is no promise
    (library / "loop").symlink_to(library)
    (library / "self.mp4").symlink_to("self.mp4")
    (library / "empty.mp4").touch()
    write_audio(library / "sound.mp4")
    (library / "list.mp4").write_text("#EXTM3U\n/etc/passwd\n")
    whole = write_video(library / "cut.mp4", 60, faststart=True).read_bytes()
    (library / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(library / "pipe.mp4")
    (library / "folder.mp4").mkdir()
    with open(os.fsencode(library) + b"/\xff\xfe.mp4", "w"):
        pass
    unreadable = library / "secret.mp4"
    unreadable.write_bytes(whole)
    unreadable.chmod(0)

    code, out, _ = clipvip("index", library, "--model", model, "--index", "index", "--window", "2,1", "--json")
    told = json.loads(out)
    reasons = {Path(row["video"]).name: row["reason"] for row in told["skipped"]}
    expected = {
        "photo.mp4": "not a media container",
        "self.mp4": "too many levels of symbolic links",
        "empty.mp4": "the file is empty",
        "sound.mp4": "no video stream (audio only)",
        "list.mp4": "not a media container",
        "pipe.mp4": "not a regular file",
        "\ufffd\ufffd.mp4": "not valid UTF-8",
        "secret.mp4": "permission denied",
    }
    if os.access(unreadable, os.R_OK):  # root may read everything
        del expected["secret.mp4"]
        assert told["videos"] == len({*good, still, unreadable, library / "cut.mp4"})
    assert code == 0
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name], name
    assert told["copied"] == 2
    code, out, _ = clipvip("index", "--index", "index", "--json")
    assert (code, json.loads(out)["unchanged"]) == (0, told["videos"] + told["copied"])

    code, out, _ = clipvip("index", "--index", "index", "--status", "--json")
    status = json.loads(out)
    assert (code, status["videos"]) == (0, told["videos"] + told["copied"])
    assert {failure["path"] for failure in status["failures"]} == expected.keys() - {"\ufffd\ufffd.mp4"} | {"cut.mp4"}
    assert clipvip("index", "--index", "index", "--verify")[:2] == (
        0,
        f"index: {status['videos']} videos, {status['segments']} segments checked: sound\n",
    )
    good[0].unlink()
    code, out, _ = clipvip("index", "--index", "index", "--verify", "--json")
    assert (code, json.loads(out)["sound"]) == (1, False)
    code, out, _ = clipvip("index", "--index", "index", "--prune")
    assert (code, "1 removed" in out) == (0, True)
    code, out, _ = clipvip("index", "--index", "index", "--status")
    assert f"folder {library}: {status['videos'] - 1} videos" in out
    assert f"failed {library / 'empty.mp4'}: the file is empty" in out
    assert clipvip("index", "--index", "index", "--forget", library)[1].startswith(
        f"{status['videos'] - 1} videos taken"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lib"], "index: no search index there; a new one needs --model M"),
        (["lib", "--prune"], "index: no search index there; a new one needs --model M"),
        (["--status", "--prune"], "go alone"),
        (["--status", "--forget", "lib"], "go alone"),
        (["--verify", "--window", "6"], "go alone"),
        (["--forget", "lib", "--background", "texts.txt"], "go alone"),
        (["--verify", "lib"], "go alone"),
        (["--status", "--device", "cpu"], "go alone"),
        (["--rebuild", "lib"], "--rebuild takes the folders that were added before"),
        (["lib", "--upgrade"], "--upgrade takes what is in the index"),
        (["--upgrade", "--rebuild"], "--upgrade takes what is in the index"),
        (["--upgrade", "--embeddings", "set"], "--upgrade takes what is in the index"),
        (["--upgrade", "--prune"], "--upgrade takes what is in the index"),
        (["--upgrade", "--status"], "--upgrade takes what is in the index"),
        (["lib", "--segment", "scenes"], "choose windows or shots"),
        (["lib", "--window", "12;6"], "expected seconds"),
        (["lib", "--window", "6,6"], "give each window once"),
        (["lib", "--embeddings", "set"], "without folders"),
    ],
)
def test_wrong_usage_is_one_line(clipvip, tmp_path, arguments, told):
    """Catches options that are accepted and ignored, and an index made by mistake."""
    code, _, err = clipvip("index", "--index", "index", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert told in err
    assert not (tmp_path / "index").exists()


def test_looks_at_no_index(clipvip, tmp_path):
    """Catches an empty index that is made by a look at it, and an advice that speaks of something else."""
    for look in (
        ["--status"],
        ["--verify"],
        ["--forget", "lib"],
        ["--prune"],
        ["--upgrade"],
        ["--rebuild", "--model", "m"],
        ["--model", "m"],
        [],
    ):
        told = "clipvip: index: no search index there; make one: clipvip index DIR --model M --index index\n"
        assert clipvip("index", "--index", "index", *look) == (1, "", told)
    assert clipvip("index", "--index", "", "--status")[0] == 2
    assert not (tmp_path / "index").exists()


def test_an_upgrade_of_what_an_older_clipvip_read(clipvip, model, tmp_path, monkeypatch):
    """Catches a status that hides what is older, and an upgrade that encodes what is not."""
    write_videos(tmp_path / "lib", 20)
    with monkeypatch.context() as patched:
        patched.setattr("clipvip.search.index.encode_files.EncodedVideo", partial(EncodedVideo, reading_rules=1))
        assert clipvip("index", "lib", "--model", model, "--index", "index")[0] == 0
    _, out, _ = clipvip("index", "--index", "index", "--status")
    assert "read by older rules: 1 videos, 1 segments (--upgrade encodes them again)" in out
    status = json.loads(clipvip("index", "--index", "index", "--status", "--json")[1])
    assert (status["num_older_videos"], status["num_older_segments"]) == (1, 1)
    assert json.loads(clipvip("index", "--index", "index", "--upgrade", "--json")[1])["videos"] == 1
    told = "index: every video was read by the current rules; there is nothing to upgrade\n"
    assert clipvip("index", "--index", "index", "--upgrade") == (0, told, "")
    assert "older rules" not in clipvip("index", "--index", "index", "--status")[1]
