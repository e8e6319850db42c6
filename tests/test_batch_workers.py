"""Workers: real processes, really killed."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from test_batch_run import MODEL, masks

from c3s3_seg.batch import Job, Model, Plan, predict_cases
from c3s3_seg.batch.job import Task
from c3s3_seg.batch.outcome import Outcome
from c3s3_seg.batch.workers import Pool, reason_of_death
from c3s3_seg.bundle import WEIGHTS
from c3s3_seg.errors import InputError
from c3s3_seg.inference.careful import Care
from c3s3_seg.io import Case

FORCED = Care(force=True)  # blobs are no hearts


def tasks(scans: Path) -> list[Task]:
    return [Task(Case(p.name.removesuffix(".nii.gz"), p)) for p in sorted(scans.iterdir())]


def kill_when_busy(pool: Pool, times: int) -> threading.Thread:
    """Kill workers that have a case in hand, each but once."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < times:
            for worker in list(pool._workers):
                if worker.tasks and worker.process.pid not in killed:
                    os.kill(worker.process.pid, signal.SIGKILL)
                    killed.add(worker.process.pid)
            time.sleep(0.001)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_workers_do_what_one_process_does(small_scans: Path, tmp_path: Path) -> None:
    (small_scans / "case-9.nii.gz").write_bytes(b"no scan")
    one, two = tmp_path / "one", tmp_path / "two"
    predict_cases([small_scans], MODEL, Job(one, care=FORCED))
    result = predict_cases([small_scans], MODEL, Job(two, care=FORCED), None, Plan(workers=2))
    assert masks(one) == masks(two)
    assert [row.case for row in result.rows] == [f"case-{n}" for n in range(5)]
    assert [f.case for f in result.failures] == ["case-9"]


def test_a_killed_worker_costs_nothing(small_scans: Path, tmp_path: Path) -> None:
    pool = Pool(MODEL, Job(tmp_path, care=FORCED), 1, ())
    try:
        kill_when_busy(pool, 1)
        outcomes: list[Outcome] = list(pool.run(tasks(small_scans)))
    finally:
        pool.close()
    assert sorted(o.case for o in outcomes) == [f"case-{n}" for n in range(5)]
    assert all(o.row is not None for o in outcomes)


def test_a_case_that_kills_twice_fails_with_the_reason(small_scans: Path, tmp_path: Path) -> None:
    pool = Pool(MODEL, Job(tmp_path, care=FORCED), 1, ())
    try:
        kill_when_busy(pool, 2)
        outcomes = list(pool.run(tasks(small_scans)[:1]))
    finally:
        pool.close()
    assert outcomes[0].failure is not None
    assert "the worker that had this case died: killed by signal 9 (SIGKILL" in outcomes[0].failure.reason
    assert outcomes[0].refusal is not None
    assert not outcomes[0].refusal.final  # it is tried again by the next run


def test_what_cannot_start_is_said(small_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json"):
        predict_cases(
            [small_scans], Model(tmp_path), Job(tmp_path / "out", care=FORCED), None, Plan(workers=1)
        )


def test_reasons() -> None:
    assert reason_of_death(-11, "").startswith("killed by signal 11 (SIGSEGV, a fault")
    assert reason_of_death(1, "MemoryError: 3 GB") == "exit code 1, its last words: MemoryError: 3 GB"


def test_no_process_unless_asked(small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def refuse(*words: object, **more: object) -> None:
        raise AssertionError(f"a process was started: {words}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    predict_cases([small_scans], Model(WEIGHTS / "phantom"), Job(tmp_path / "out", care=FORCED))
    with pytest.raises(AssertionError, match="a process was started"):
        predict_cases([small_scans], MODEL, Job(tmp_path / "out2", care=FORCED), None, Plan(workers=1))
