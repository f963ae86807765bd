"""The same parts from a cluster as from this machine, whatever happens to its processes and machines."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import helpers_jobs as jobs
from clipvip.errors import UsageError
from clipvip.jobs import run_job
from helpers_jobs import Shout

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from clipvip.jobs import on_ray  # noqa: E402

WORDS = [f"word{i}" for i in range(40)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for work, and two machines with room for one worker each."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(jobs.__file__).parent), *sys.path]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def shouted(tmp_path: Path, cluster: Any, on_done: Callable[[int], None] = lambda done: None, pause_s: float = 0.0):
    """The lines and the receipts of a job on the cluster; on_done hears the number of items that are done."""
    engine, workers = on_ray.join(cluster.address, None, wants_gpu=True)  # no GPU there: CPUs
    assert workers == 2
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        on_done(done)

    receipts = run_job(
        Shout(tmp_path / "trace", pause_s=pause_s), WORDS, tmp_path / "out", source={}, part_size=5,
        workers=workers, engine=engine, progress=progress,
    )  # fmt: skip
    assert done == len(WORDS)
    paths = sorted((tmp_path / "out").glob("shout-*.txt"))
    return [line for path in paths for line in path.read_text().split()], receipts


def test_parts_of_two_machines_make_the_whole(tmp_path: Path, cluster: Any) -> None:
    """Catches lost or doubled parts, progress that stands still, and one machine that does it all."""
    lines, receipts = shouted(tmp_path, cluster)
    assert lines == [word.upper() for word in WORDS]
    assert [receipt["items"] for receipt in receipts] == [5] * 8
    assert all((tmp_path / "out" / receipt["file"]).stat().st_size == receipt["bytes"] for receipt in receipts)


def test_a_killed_worker_and_a_lost_machine_cost_nothing(tmp_path: Path, cluster: Any) -> None:
    """Catches a job that ends with its first actor, blames the clips for a power cut, or waits for ever for a machine
    that will not come back."""
    struck: list[int] = []

    def strike(done: int) -> None:
        if done >= 8 and not struck:
            struck.append(done)
            alive = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
            os.kill(alive[0]["Pid"], signal.SIGKILL)
        elif done >= 20 and len(struck) == 1:
            struck.append(done)
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "START_S", 8.0)  # there is no room for the second worker any more
        lines, receipts = shouted(tmp_path, cluster, strike, pause_s=0.1)
    assert len(struck) == 2
    assert lines == [word.upper() for word in WORDS]
    assert not any(receipt["failures"] for receipt in receipts)


def test_bad_items_are_told_as_on_one_machine(tmp_path: Path, cluster: Any) -> None:
    """Catches an item that crashes or hangs its process: it must cost itself alone."""
    engine, workers = on_ray.join(cluster.address, 1, wants_gpu=False)
    items = [*WORDS[:3], jobs.CRASH, *WORDS[3:6], jobs.BAD, jobs.HANG, jobs.BUG, *WORDS[6:8]]
    receipts = run_job(
        Shout(tmp_path / "trace"), items, tmp_path / "out", source={}, part_size=6, workers=workers, engine=engine
    )
    reasons = {name: reason for receipt in receipts for name, reason in receipt["failures"]}
    assert set(reasons) == {jobs.CRASH, jobs.BAD, jobs.HANG, jobs.BUG}
    assert "crashed" in reasons[jobs.CRASH]
    assert "silent" in reasons[jobs.HANG]
    assert "ZeroDivisionError" in reasons[jobs.BUG]
    text = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("shout-*.txt")))
    assert text.split() == [word.upper() for word in WORDS[:8]]


DRIVER = """
import sys; from pathlib import Path; from helpers_jobs import Shout; from clipvip.jobs import on_ray, run_job
if __name__ == "__main__":
    place = Path(sys.argv[2])
    engine, workers = on_ray.join(sys.argv[1], None, wants_gpu=False)
    run_job(Shout(place / "trace", pause_s=0.1), [f"word{i}" for i in range(40)], place / "out", source={},
            part_size=5, workers=workers, engine=engine)
"""


def kill_the_driver(tmp_path: Path, cluster: Any, kills: int) -> None:
    """SIGKILL at random moments, start again, and look at what is there."""
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), cluster.address, str(tmp_path)]
    for _ in range(kills):
        with subprocess.Popen(command) as driver:
            receipts = tmp_path / "out" / "receipts"
            aim = random.randint(0, 3) + (len(list(receipts.glob("*.json"))) if receipts.exists() else 0)
            until = time.monotonic() + 30
            while (len(list(receipts.glob("*.json"))) if receipts.exists() else 0) < aim and time.monotonic() < until:
                time.sleep(0.02)  # waiting for another process, not for a guess about its speed
            time.sleep(random.uniform(0, 0.5))
            driver.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True)
    text = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("shout-*.txt")))
    assert text.split() == [word.upper() for word in WORDS]


def test_a_killed_driver_goes_on(tmp_path: Path, cluster: Any) -> None:
    """Catches parts lost or doubled, and actors that outlive their driver and keep its machines."""
    kill_the_driver(tmp_path, cluster, kills=2)


@pytest.mark.long
def test_a_driver_killed_ten_times(tmp_path: Path, cluster: Any) -> None:
    """The same, at ten moments."""
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        kill_the_driver(tmp_path / str(number), cluster, kills=2)


def test_no_cluster_is_one_clear_line() -> None:
    """Catches minutes of waiting and a traceback for a mistyped address."""
    with pytest.raises(UsageError, match=r"--address 127.0.0.1:1: no Ray cluster there"):
        on_ray.join("127.0.0.1:1", None, wants_gpu=False)


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_address_of_a_dead_cluster_is_not_used(address: str | None) -> None:
    """Catches a run that waits for minutes for the cluster that a killed process left behind as the current one."""
    command = f"from clipvip.jobs import on_ray; print(on_ray.join({address!r}, 1, wants_gpu=False)[1])"
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray") as folder:  # sockets need a short path
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", command],
            capture_output=True, text=True, timeout=300, env={**environment, "RAY_TMPDIR": folder},
        )  # fmt: skip
    if address is None:
        assert done.stdout.split()[-1:] == ["1"], done.stderr
    else:
        assert "--address auto: no Ray cluster there" in done.stderr
