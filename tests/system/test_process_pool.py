"""Items distributed over processes: order, processes that die, and no process left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from c3s3_seg.system.process_pool import Died, each


def double(item: int) -> tuple[int, int]:
    return 2 * item, os.getpid()


def fragile(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 5:
        os._exit(7)
    if item == 7:
        os.kill(os.getpid(), signal.SIGRTMIN + 1)  # a signal without a name
    return item


def test_one_worker_works_here_and_in_order() -> None:
    assert list(each(double, range(3))) == [(n, (2 * n, os.getpid())) for n in range(3)]
    assert list(each(double, [], 4)) == []


def test_two_workers_answer_every_item_once() -> None:
    answers = dict(each(double, range(20), 2))
    assert {n: value for n, (value, _) in answers.items()} == {n: 2 * n for n in range(20)}
    assert os.getpid() not in {process for _, process in answers.values()}
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_costs_its_item_and_says_why() -> None:
    answers = dict(each(fragile, range(9), 2))
    assert {n: a for n, a in answers.items() if n not in (3, 5, 7)} == {n: n for n in (0, 1, 2, 4, 6, 8)}
    assert isinstance(answers[3], Died)
    assert "SIGKILL" in answers[3].reason
    assert "memory" in answers[3].reason
    assert "exit code 7" in answers[5].reason
    assert f"ended by signal {signal.SIGRTMIN + 1}" in answers[7].reason


def test_whoever_stops_early_leaves_no_process() -> None:
    answers = each(double, range(50), 2)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_one(workers: int) -> None:
    assert [n for n, _ in each(double, range(2), workers)] == [0, 1]


PARENT = """
import os, time
from c3s3_seg.system.process_pool import each
from helpers.sleeping import sleep_on
if __name__ == "__main__":
    list(each(sleep_on, [{folder!r}] * 2, 2))
"""


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="processes are looked up in /proc")
def test_workers_end_with_the_process_that_is_killed(tmp_path: Path) -> None:
    """The parent is killed in the middle of an item, whose result nobody would read."""
    script, said = tmp_path / "parent.py", tmp_path / "said"
    said.mkdir()
    script.write_text(PARENT.format(folder=str(said)))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": path})
    until = time.monotonic() + 60
    while len(workers := [int(file.name) for file in said.iterdir()]) < 2:
        assert parent.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(map(alive, workers)):
        assert time.monotonic() < until
        time.sleep(0.05)
