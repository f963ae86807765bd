"""The resumable runner: nothing lost, nothing twice, and only the culprits left out."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import helpers_jobs as jobs
from clipvip.errors import ClipVipError, UsageError
from clipvip.jobs import Receipt, run_job
from helpers_jobs import Shout

SOURCE = {"manifest": "words.jsonl"}
WORDS = [f"word{i}" for i in range(23)]


def run(
    tmp_path: Path, items: list[str], *, workers: int = 2, share: float | None = None, **task: str
) -> list[Receipt]:
    """A job of parts of five in `tmp_path/out`."""
    shout = Shout(tmp_path / "trace", **task)  # type: ignore[arg-type]
    return run_job(shout, items, tmp_path / "out", source=SOURCE, part_size=5, workers=workers, max_bad_share=share)


def lines(tmp_path: Path) -> list[str]:
    """What all parts say, in order."""
    return [line for path in sorted((tmp_path / "out").glob("shout-*.txt")) for line in path.read_text().split()]


def traced(tmp_path: Path) -> list[str]:
    """Every item that was worked on, in any order."""
    return (tmp_path / "trace").read_text().split()


def test_parts_and_receipts(tmp_path: Path) -> None:
    """Catches parts in the wrong order or of the wrong size, and receipts that do not fit their files."""
    done: list[int] = []
    task = Shout(tmp_path / "trace")
    receipts = run_job(task, iter(WORDS), tmp_path / "out", source=SOURCE, part_size=5, workers=2, progress=done.append)
    assert [receipt["items"] for receipt in receipts] == [5, 5, 5, 5, 3]
    assert lines(tmp_path) == [word.upper() for word in WORDS]
    assert sum(done) == len(WORDS)
    for receipt in receipts:
        assert (tmp_path / "out" / receipt["file"]).stat().st_size == receipt["bytes"]
        assert receipt["lines"] == receipt["items"]


def test_done_parts_are_not_done_again(tmp_path: Path) -> None:
    """Catches work done twice, a receipt trusted without its file, and a file trusted without its receipt."""
    run(tmp_path, WORDS)
    (tmp_path / "trace").unlink()
    (tmp_path / "out" / "shout-000001.txt").unlink()
    (tmp_path / "out" / "receipts" / "000003.json").unlink()
    (tmp_path / "out" / "shout-000004.txt.partial").write_text("half")
    run(tmp_path, WORDS)
    assert sorted(traced(tmp_path)) == sorted([*WORDS[5:10], *WORDS[15:20]])
    assert lines(tmp_path) == [word.upper() for word in WORDS]
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.parametrize("culprit", [jobs.CRASH, jobs.HANG, jobs.BUG])
def test_a_poisoned_part_loses_its_culprits_only(tmp_path: Path, culprit: str) -> None:
    """Catches a crash that costs its whole part or the job, and a progress that counts retries."""
    items = [*WORDS[:7], culprit, *WORDS[7:]]
    done: list[int] = []
    task = Shout(tmp_path / "trace")
    receipts = run_job(task, items, tmp_path / "out", source=SOURCE, part_size=5, progress=done.append)
    assert lines(tmp_path) == [word.upper() for word in WORDS]
    failures = [failure for receipt in receipts for failure in receipt["failures"]]
    assert [name for name, _ in failures] == [culprit]
    assert {jobs.CRASH: "SIGSEGV", jobs.HANG: "silent", jobs.BUG: "ZeroDivisionError"}[culprit] in failures[0][1]
    assert sum(done) == len(items)


def test_another_job_is_refused(tmp_path: Path) -> None:
    """Catches a folder that mixes the parts of two jobs."""
    run(tmp_path, WORDS)
    with pytest.raises(UsageError, match="different: settings"):
        run(tmp_path, WORDS, greeting="hello")
    (tmp_path / "out" / "job.json").write_text("{")
    with pytest.raises(UsageError, match=r"job\.json: damaged"):
        run(tmp_path, WORDS)


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    """Catches files of others that are overwritten, or deleted as leftovers."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "download.partial").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(download\.partial, \.\.\.\)"):
        run(tmp_path, WORDS)
    assert (tmp_path / "out" / "download.partial").read_text() == "mine"


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    """Catches clips that stay lost after their files were mended."""
    run(tmp_path, [*WORDS[:7], jobs.BAD], share=0.5)
    (tmp_path / "trace").unlink()
    receipts = run(tmp_path, [*WORDS[:7], jobs.BAD], share=0.5)
    assert traced(tmp_path) == [*WORDS[5:7], jobs.BAD], "only the part with the bad one"
    assert [len(receipt["failures"]) for receipt in receipts] == [0, 1]


def test_a_part_that_no_longer_fits_is_done_again(tmp_path: Path) -> None:
    """Catches results kept although what they were made of has changed, and others thrown away with them."""
    run(tmp_path, WORDS)
    (tmp_path / "trace").unlink()
    run_job(
        Shout(tmp_path / "trace"), WORDS, tmp_path / "out", source=SOURCE, part_size=5,
        still_holds=lambda receipt, items: receipt["lines"] == 5 and "word7" not in items,
    )  # fmt: skip
    assert traced(tmp_path) == [*WORDS[5:10], *WORDS[20:]]


def test_too_many_bad_items_stop_the_job(tmp_path: Path) -> None:
    """Catches a run that goes through a broken folder of videos to the end, or forgets what it had done."""
    items = [jobs.BAD if i % 10 == 9 else f"word{i}" for i in range(400)]
    with pytest.raises(ClipVipError, match=r"more than 5\.0%; the first is bad: bad\.mp4: damaged"):
        run(tmp_path, items, share=0.05)
    assert 100 <= len(traced(tmp_path)) < 200
    assert len(run(tmp_path, items, share=0.2)) == 80
    clean = {item for start in range(0, 400, 10) for item in items[start : start + 5]}  # of parts without a bad one
    again = [item for item, times in Counter(traced(tmp_path)).items() if times > 1 and item in clean]
    assert len(again) <= 2 * 5, "more than what was under way, or had failed, was done again"


SCRIPT = """
import sys; from pathlib import Path; from helpers_jobs import Shout; from clipvip.jobs import run_job
if __name__ == "__main__":
    place = Path(sys.argv[1])
    run_job(Shout(place / "trace", pause_s=0.02), [f"word{i}" for i in range(60)], place / "out", source={},
            part_size=5, workers=2)
"""


def kill_and_resume(tmp_path: Path, kills: int, seed: int) -> None:
    """SIGKILL a job at random moments, let it end, and look at what is there."""
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(jobs.__file__).parent)}
    rng = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        time.sleep(rng.uniform(0.2, 1.5))
        process.send_signal(signal.SIGKILL)  # the process alone: its workers must notice
        process.wait()
    subprocess.run(command, env=environment, check=True)
    assert lines(tmp_path) == [f"WORD{i}" for i in range(60)]
    receipts = sorted((tmp_path / "out" / "receipts").iterdir())
    assert [json.loads(path.read_text())["items"] for path in receipts] == [5] * 12


def test_killed_and_started_again(tmp_path: Path) -> None:
    """Catches parts lost, halved or doubled by a kill, and orphaned workers that hold the folder's lock or write on."""
    kill_and_resume(tmp_path, kills=4, seed=0)


@pytest.mark.long
def test_killed_dozens_of_times(tmp_path: Path) -> None:
    """The same, at forty moments."""
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        kill_and_resume(tmp_path / str(seed), kills=10, seed=seed)
