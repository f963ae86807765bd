"""Transcripts aligned by a job: the same manifest however it is made, and every complaint in its place."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from clipvip.data.importers import FORMATS, Options, run_import
from clipvip.data.importers.transcripts import TranscriptNames
from clipvip.errors import ClipVipError, ManifestError
from helpers_import import write

VIDEOS, CLIPS = 67, 3  # two videos a part


def name(video: int) -> str:
    return f"video{video:06d}"


def clock(seconds: float) -> str:
    return f"{int(seconds // 3600):02}:{int(seconds // 60) % 60:02}:{seconds % 60:06.3f}"


def vtt(video: int, clips: int = CLIPS, padding: str = "") -> str:
    """Something is said in every clip of ten seconds but the last."""
    cues = (f"{clock(10 * i + 4)} --> {clock(10 * i + 6)}\n{name(video)} says {i}{padding}\n" for i in range(clips - 1))
    return "\n".join(["WEBVTT\n", *cues])


def write_set(folder: Path, videos: int = VIDEOS, clips: int = CLIPS, padding: str = "") -> tuple[list[Path], Path]:
    """Two source files, whose border lies within a part, and the folder of transcripts: every fifth video has none."""
    rows = [
        {
            "video_id": name(i),
            "clip": [
                {"clip_id": f"{name(i)}.{j}.mp4", "span": [clock(10 * j), clock(10 * j + 10)]} for j in range(clips)
            ],
        }
        for i in range(videos)
    ]
    border = videos // 3 | 1
    sources = [
        write(folder / "a.jsonl", rows[:border], lines=True), write(folder / "b.jsonl", rows[border:], lines=True),
    ]  # fmt: skip
    for i in range(videos):
        if i % 5 != 4:
            write(folder / "vtt" / f"{name(i)}{('.vtt', '.en.vtt')[i % 2]}", vtt(i, clips, padding))
    return sources, folder / "vtt"


def expected() -> dict[str, str | None]:
    """Subtitles by clip_id, in order."""
    return {
        f"{name(i)}.{j}.mp4": f"{name(i)} says {j}" if i % 5 != 4 and j < CLIPS - 1 else None
        for i in range(VIDEOS)
        for j in range(CLIPS)
    }


def command(sources: list[Path], transcripts: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "clipvip", "data", "import", "hdvila", *map(str, sources),
        "--transcripts", str(transcripts), "--out", str(out), "--json", *more,
    ]  # fmt: skip


def import_(sources: list[Path], transcripts: Path, out: Path, **settings: Any) -> dict[str, str | None]:
    run_import(FORMATS["hdvila"], sources, out, options=Options(transcripts=transcripts), **settings)
    return subtitles(out)


def subtitles(manifest: Path) -> dict[str, str | None]:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    return {row["clip_id"]: row.get("subtitle") for row in rows}


def receipts(out: Path) -> list[Path]:
    return list(Path(f"{out}.parts", "receipts").glob("*.json"))


def part(out: Path, video: int) -> Path:
    return Path(f"{out}.parts", f"subtitles-{video // 2:06d}.jsonl")


def times(out: Path) -> dict[Path, int]:
    """When each finished part was written."""
    found = (Path(f"{out}.parts", f"subtitles-{receipt.stem}.jsonl") for receipt in receipts(out))
    return {file: file.stat().st_mtime_ns for file in found}


def test_one_process_or_two_give_the_same_manifest(tmp_path: Path) -> None:
    """Catches subtitles lost, or of another clip, where parts are done side by side or lie across two source files;
    a silent clip taken for a video without a transcript; progress that does not add up.
    """
    sources, transcripts = write_set(tmp_path)
    told: list[tuple[int, int]] = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.jsonl"
        report = run_import(
            FORMATS["hdvila"], sources, out, options=Options(transcripts=transcripts), workers=workers,
            progress=lambda count, total: told.append((count, total)),
        )  # fmt: skip
        assert list(subtitles(out).items()) == list(expected().items())
        assert report.notes == {"clips are of videos without a transcript": 13 * CLIPS}
        assert (report.subtitles, report.empty_texts) == (54 * (CLIPS - 1), 54)
        assert sum(count for count, _ in told) == VIDEOS * workers
        assert len(receipts(out)) == 34
    assert {total for _, total in told} == {VIDEOS}
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_a_cluster_gives_the_same_manifest(tmp_path: Path) -> None:
    """Catches parts that stay on their machine, and a job that is another one as seen from elsewhere: what a cluster
    has begun another engine in another folder goes on with.
    """
    pytest.importorskip("ray")
    sources, transcripts = write_set(tmp_path)
    relative = [Path(os.path.relpath(path, tmp_path)) for path in (*sources, transcripts)]
    arguments = command(relative[:2], relative[2], Path("m.jsonl"), "--engine", "ray", "--workers", "2")
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == VIDEOS * CLIPS
    assert list(subtitles(tmp_path / "m.jsonl").items()) == list(expected().items())
    before = times(tmp_path / "m.jsonl")
    import_(sources, transcripts, tmp_path / "m.jsonl")
    assert times(tmp_path / "m.jsonl") == before


def test_a_killed_import_goes_on(tmp_path: Path) -> None:
    """Catches hours of alignment done again, or parts lost or doubled, after a kill."""
    sources, transcripts = write_set(tmp_path)
    out, stuck = tmp_path / "m.jsonl", transcripts / f"{name(21)}.en.vtt"
    stuck.unlink()
    os.mkfifo(stuck)  # holds one worker up, so that the kill comes in the middle
    with subprocess.Popen(command(sources, transcripts, out, "--workers", "2")) as process:
        until = time.monotonic() + 60
        while len(receipts(out)) < 15 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)  # waiting for another process, not for a guess about its speed
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    done = times(out)
    assert 15 <= len(done) < 34
    stuck.unlink()
    write(stuck, vtt(21))
    assert list(import_(sources, transcripts, out).items()) == list(expected().items())
    assert {file: file.stat().st_mtime_ns for file in done} == done


def test_a_malformed_transcript_stops_the_import(tmp_path: Path) -> None:
    """Catches damage that passes as silence, is blamed on nothing in particular, or costs what was done before it."""
    sources, transcripts = write_set(tmp_path)
    out, bad = tmp_path / "m.jsonl", transcripts / f"{name(40)}.vtt"
    write(bad, "WEBVTT\n\n00:04.000 --> soon\nx\n")
    with pytest.raises(ManifestError, match=rf"{bad}, line 3: field 'time' is malformed"):
        import_(sources, transcripts, out)
    assert not out.exists()
    done = times(out)
    assert len(done) >= 20
    bad.unlink()  # the shortest way out
    without = {clip_id: None if clip_id.startswith(name(40)) else text for clip_id, text in expected().items()}
    assert import_(sources, transcripts, out) == without
    assert {file: file.stat().st_mtime_ns for file in done} == done


def test_a_malformed_line_is_found_before_the_work(tmp_path: Path) -> None:
    """Catches a source that has to be mended, and so becomes another job's, after hours of work."""
    sources, transcripts = write_set(tmp_path)
    with sources[1].open("a") as file:
        file.write('\n{"video_id": "x", "clip": [{"clip_id": "x.0.mp4", "span": [1]}]}\n')
    line = len(sources[1].read_text().splitlines())
    with pytest.raises(ManifestError, match=rf"b\.jsonl, line {line}: field 'clip\[0\].span' must be two times"):
        import_(sources, transcripts, tmp_path / "m.jsonl")
    with pytest.raises(ManifestError, match="none: no such folder of transcripts"):
        import_(sources, tmp_path / "none", tmp_path / "m.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "vtt"]


def test_a_transcript_that_kills_its_process_is_named(tmp_path: Path) -> None:
    """Catches a video that loses its subtitles because its transcript is larger than the memory."""
    sources, transcripts = write_set(tmp_path)
    with (transcripts / f"{name(40)}.vtt").open("r+") as file:
        file.truncate(5 << 30)  # takes no room on most disks
    with pytest.raises(ManifestError, match=rf"b\.jsonl, line 18: transcript {name(40)}\.vtt: .* bytes of memory"):
        import_(sources, transcripts, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()
    write(transcripts / f"{name(40)}.vtt", vtt(40))
    assert import_(sources, transcripts, tmp_path / "m.jsonl") == expected()


def test_transcripts_that_come_or_go_are_noticed(tmp_path: Path) -> None:
    """Catches old subtitles in a new manifest, and all parts done again for one new transcript."""
    sources, transcripts = write_set(tmp_path)
    out = tmp_path / "m.jsonl"
    import_(sources, transcripts, out)
    before = times(out)
    write(transcripts / f"{name(4)}.vtt", vtt(4))
    (transcripts / f"{name(31)}.en.vtt").unlink()
    found = import_(sources, transcripts, out)
    changed = {f"{name(4)}.0.mp4": f"{name(4)} says 0", f"{name(4)}.1.mp4": f"{name(4)} says 1"}
    changed |= {f"{name(31)}.{i}.mp4": None for i in range(CLIPS)}
    assert found == expected() | changed
    again = {file for file, written in times(out).items() if before[file] != written}
    assert again == {part(out, 4), part(out, 31)}


def test_damaged_parts_are_refused(tmp_path: Path) -> None:
    """Catches subtitles that move to another clip because a part lost a line."""
    sources, transcripts = write_set(tmp_path)
    out = tmp_path / "m.jsonl"
    import_(sources, transcripts, out)
    before, file = out.read_bytes(), part(out, 6)
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join(rest) + "\n" * len(first))
    with pytest.raises(ClipVipError, match=r"m\.jsonl\.parts: nothing about 'video000006\.0\.mp4'; delete it"):
        import_(sources, transcripts, out)
    assert out.read_bytes() == before


def test_the_transcript_of_a_video(tmp_path: Path) -> None:
    """Catches the transcript of a video whose id begins alike, and German where there is English."""
    names = (
        "a.vtt",
        "a-b.vtt",
        "a-b.de.vtt",
        "ab.srt",
        "b.de.srt",
        "b.en-GB.vtt",
        "c.fr.vtt",
        "c.de.vtt",
        "d.txt",
        "e",
    )
    for each in names:
        write(tmp_path / each, "")
    write(tmp_path / "b.en.json", "")
    found = TranscriptNames(tmp_path)
    assert [found.of(video) for video in ("a", "a-b", "ab", "b")] == ["a.vtt", "a-b.vtt", "ab.srt", "b.en.json"]
    assert [found.of(video) for video in ("c", "d", "e", "", "f")] == ["c.de.vtt", None, None, None, None]


@pytest.mark.long
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Catches a driver that holds subtitles or transcripts: 100,000 clips need what 10,000 need, but for their ids."""
    peaks = []
    for videos in (400, 4000):
        sources, transcripts = write_set(tmp_path / str(videos), videos, clips=25, padding=" and so on" * 40)
        gc.collect()
        tracemalloc.start()
        run_import(FORMATS["hdvila"], sources, tmp_path / f"{videos}.jsonl", options=Options(transcripts=transcripts))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    small, large = peaks
    assert large - small < 90_000 * 150
