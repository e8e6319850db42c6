"""Permits of tasks: taken back, held, finished elsewhere, and those of other shares."""

import fcntl
import os
import resource
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from c3s3_seg.errors import InputError, StorageError
from c3s3_seg.system import permits
from c3s3_seg.system.permits import PERMIT, Permits, permitted, withdraw_permits
from c3s3_seg.system.shard import Shard


def test_a_task_without_its_permit_is_refused(tmp_path: Path) -> None:
    run = Permits(tmp_path)
    first, second, third = (run.give() for _ in range(3))
    run.take_back(first)
    withdraw_permits(tmp_path, None)
    for path in (first, second):
        with pytest.raises(InputError, match="its run has ended"), permitted(path, 0):
            pass
    assert not third.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_permit_that_is_removed_while_a_task_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task has opened the file already; the run removes it before the task has the lock."""
    run = Permits(tmp_path)
    path = run.give()
    with ExitStack() as held:
        held.enter_context(permitted(path, 0))

        def removed(seconds: float) -> None:
            held.close()
            run.take_back(path)

        monkeypatch.setattr(permits.time, "sleep", removed)
        with pytest.raises(InputError, match="its run has ended"), permitted(path, 10):
            pass


HOLDER = """
import sys, time
from pathlib import Path
from c3s3_seg.system.permits import permitted
with permitted(Path(sys.argv[1]), 0):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_task_of_another_process_keeps_the_next_run_out(tmp_path: Path) -> None:
    run = Permits(tmp_path)
    path = run.give()
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        run.close()
        with pytest.raises(InputError, match=rf"still writes into this folder: process {process.pid} on "):
            withdraw_permits(tmp_path, None)
        with pytest.raises(InputError, match=r"another worker, cut off .*process"), permitted(path, 0):
            pass
    finally:
        process.kill()
        process.wait()
    withdraw_permits(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_the_outcome_of_the_first_task_is_that_of_the_second(tmp_path: Path) -> None:
    path = Permits(tmp_path).give()
    with permitted(path, 0) as first:
        assert first.outcome == ""
        first.finish('{"case": "a"}')
    with permitted(path, 0) as second:
        assert second.outcome == '{"case": "a"}'


def test_half_an_outcome_of_a_task_that_was_killed_is_none(tmp_path: Path) -> None:
    path = Permits(tmp_path).give()
    with permitted(path, 0) as first:
        first.finish("x" * 100)
        os.ftruncate(first.handle, 1050)
    with permitted(path, 0) as second:
        assert second.outcome == ""


def test_without_room_for_the_outcome_no_other_task_works_on_it(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    path = Permits(tmp_path).give()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1010, hard))
    try:
        with permitted(path, 0) as held:
            held.finish("x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(InputError, match="its run has ended"), permitted(path, 0):
        pass


def test_shares_leave_the_permits_of_shares_beside_them(tmp_path: Path) -> None:
    mine, other = Permits(tmp_path, Shard(1, 2)).give(), Permits(tmp_path, Shard(2, 2)).give()
    counted, whole = Permits(tmp_path, Shard(2, 3)).give(), Permits(tmp_path).give()
    withdraw_permits(tmp_path, Shard(1, 2))
    assert [path.exists() for path in (mine, other, counted, whole)] == [False, True, False, False]
    with permitted(other, 0), pytest.raises(InputError, match="still writes"):
        withdraw_permits(tmp_path, Shard(1, 3))
    withdraw_permits(tmp_path, None)
    assert not other.exists()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    strange = tmp_path / f"{PERMIT}.notes"
    strange.write_text("mine")
    withdraw_permits(tmp_path, None)
    assert strange.read_text() == "mine"
    path = Permits(tmp_path).give()
    path.unlink()
    path.symlink_to(strange)
    with pytest.raises(InputError, match=r"cannot be removed .*symbolic links"):
        withdraw_permits(tmp_path, None)
    with pytest.raises(InputError, match=r"cannot be locked by this worker .*symbolic links"):
        permitted(path, 0).__enter__()


def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Permits(tmp_path).give()

    def flock(handle: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match=r"cannot be locked by this worker \(No locks available\)"):
        permitted(path, 0).__enter__()


def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    with pytest.raises((InputError, StorageError), match="cannot be written"):
        Permits(tmp_path / "none").give()
