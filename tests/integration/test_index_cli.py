"""`clipvip index` on a library as people have them, and the upkeep of the index by `clipvip library`."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from clipvip.search.index.records import EncodedVideo
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

    code, out, _ = clipvip("library", "status", "--index", "index", "--json")
    status = json.loads(out)
    assert (code, status["videos"]) == (0, told["videos"] + told["copied"])
    assert {failure["path"] for failure in status["failures"]} == expected.keys() - {"\ufffd\ufffd.mp4"} | {"cut.mp4"}
    assert clipvip("library", "verify", "--index", "index")[:2] == (
        0,
        f"index: {status['videos']} videos, {status['segments']} segments checked: sound\n",
    )
    good[0].unlink()
    code, out, _ = clipvip("library", "verify", "--index", "index", "--json")
    assert (code, json.loads(out)["sound"]) == (1, False)
    assert clipvip("library", "prune", "--index", "index") == (0, "1 videos taken out of index\n", "")
    code, out, _ = clipvip("library", "status", "--index", "index")
    assert f"folder {library}: {status['videos'] - 1} videos" in out
    assert f"failed {library / 'empty.mp4'}: the file is empty" in out
    assert clipvip("library", "forget", library, "--index", "index")[1].startswith(
        f"{status['videos'] - 1} videos taken"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lib"], "index: no search index there; a new one needs --model M"),
        (["lib", "--prune"], "index: no search index there; a new one needs --model M"),
        (["--status", "--prune"], "--status does not go with --prune"),
        (["--status", "--forget", "lib"], "--status does not go with --forget"),
        (["--verify", "--window", "6"], "--verify does not go with --window"),
        (["--forget", "lib", "--background", "texts.txt"], "--forget does not go with --background"),
        (["--verify", "lib"], "--verify does not go with DIR"),
        (["--status", "--device", "cpu"], "--status does not go with --device"),
        (["--rebuild", "lib"], "--rebuild does not go with DIR"),
        (["--rebuild", "--embeddings", "set"], "--rebuild does not go with --embeddings"),
        (["lib", "--upgrade"], "--upgrade does not go with DIR"),
        (["--upgrade", "--rebuild"], "--rebuild does not go with --upgrade"),
        (["--upgrade", "--embeddings", "set"], "--upgrade does not go with --embeddings"),
        (["--upgrade", "--prune"], "--prune does not go with --upgrade"),
        (["--upgrade", "--status"], "--status does not go with --upgrade"),
        (["--content"], "--content is an option of clipvip library verify"),
        (["lib", "--force"], "--force is an option of clipvip library prune"),
        (["lib", "--segment", "scenes"], "choose windows or shots"),
        (["lib", "--window", "12;6"], "expected seconds"),
        (["lib", "--window", "6,6"], "give each window once"),
        (["lib", "--embeddings", "set"], "without folders"),
    ],
)
def test_wrong_usage_is_one_line(clipvip, tmp_path, arguments, told):
    """Catches options that are accepted and ignored, and an index made by mistake."""
    code, _, err = clipvip("index", "--index", "index", *arguments)
    lines = [line for line in err.splitlines() if "is deprecated" not in line]
    assert (code, len(lines)) == (2, 1)
    assert told in lines[0]
    assert not (tmp_path / "index").exists()


def test_looks_at_no_index(clipvip, tmp_path):
    """Catches an empty index that is made by a look at it, and an advice that speaks of something else."""
    told = "clipvip: index: no search index there; make one: clipvip index DIR --model M --index index\n"
    looks = (["status"], ["verify"], ["forget", "lib"], ["prune"], ["upgrade"], ["rebuild", "--model", "m"])
    for verb, *rest in looks:
        assert clipvip("library", verb, *rest, "--index", "index") == (1, "", told)
        code, out, err = clipvip("index", "--index", "index", f"--{verb}", *rest)
        assert (code, out) == (1, "")
        assert err == f"clipvip: --{verb} is deprecated, use: clipvip library {verb} --index index\n{told}"
    for look in (["--model", "m"], []):
        assert clipvip("index", "--index", "index", *look) == (1, "", told)
    assert clipvip("library", "status", "--index", "")[0] == 2
    assert not (tmp_path / "index").exists()


def test_old_flags_do_what_the_commands_of_the_library_do(clipvip, model, tmp_path):
    """Catches an old flag that stopped working before its release was over, or does not name its successor."""
    library = write_videos(tmp_path / "lib", 20, 20, 20)

    def both(verb, *rest):
        """The answers of the command and of the old flag, and what the flag printed on stderr."""
        code, out, _ = clipvip("library", verb, "--index", "index", *rest, "--json")
        old_code, old_out, err = clipvip("index", f"--{verb}", "--index", "index", *rest, "--json")
        told = f"clipvip: --{verb} is deprecated, use: clipvip library {verb} --index index"
        assert (code, err.splitlines()[0]) == (old_code, told)
        return json.loads(out), json.loads(old_out)

    assert clipvip("index", library, "--model", model, "--index", "index")[0] == 0
    new, old = both("status")
    assert (new["videos"], old["videos"]) == (3, 3)
    new, old = both("verify", "--content")
    assert new == old
    assert new["sound"]
    new, old = both("upgrade")
    assert (new["videos"], old["videos"]) == (0, 0)
    new, old = both("rebuild", "--model", model, "--window", "1", "--strict")
    assert (new["videos"], new["unchanged"], old["unchanged"]) == (3, 0, 3)
    for path in sorted(library.iterdir())[:2]:
        path.unlink()
    new, old = both("prune")
    assert (new["removed"], old["removed"], len(new["skipped"]), len(old["skipped"])) == (0, 0, 1, 1)
    assert "2 of its 3 videos are missing" in new["skipped"][0]["reason"]
    assert json.loads(clipvip("library", "prune", "--force", "--index", "index", "--json")[1])["removed"] == 2
    assert clipvip("index", "--index", "index")[0] == 0
    assert json.loads(clipvip("index", "--forget", library, "--index", "index", "--json")[1])["removed"] == 1
    assert clipvip("library", "forget", library, "--index", "index")[0] == 2


def test_an_upgrade_of_what_an_older_clipvip_read(clipvip, model, tmp_path, monkeypatch):
    """Catches a status that hides what is older, and an upgrade that encodes what is not."""
    write_videos(tmp_path / "lib", 20)
    with monkeypatch.context() as patched:
        patched.setattr("clipvip.search.index.encode_files.EncodedVideo", partial(EncodedVideo, reading_rules=1))
        assert clipvip("index", "lib", "--model", model, "--index", "index")[0] == 0
    _, out, _ = clipvip("library", "status", "--index", "index")
    assert "read by older rules: 1 videos, 1 segments (clipvip library upgrade encodes them again)" in out
    status = json.loads(clipvip("library", "status", "--index", "index", "--json")[1])
    assert (status["num_older_videos"], status["num_older_segments"]) == (1, 1)
    assert json.loads(clipvip("library", "upgrade", "--index", "index", "--json")[1])["videos"] == 1
    told = "index: every video was read by the current rules; there is nothing to upgrade\n"
    assert clipvip("library", "upgrade", "--index", "index") == (0, told, "")
    assert "older rules" not in clipvip("library", "status", "--index", "index")[1]
