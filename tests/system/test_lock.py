import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from c3s3_seg.errors import InputError, StorageError
from c3s3_seg.system.lock import NAME, hold
from c3s3_seg.system.shard import Shard

HOLDER = """
import sys, time
from pathlib import Path
from c3s3_seg.system.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_waits_gets_it_after_the_other(tmp_path: Path) -> None:
    process, order = holder(tmp_path), []

    def wait() -> None:
        with hold(tmp_path, wait=True):
            order.append("held")

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        with pytest.raises(InputError, match="another run"):
            hold(tmp_path).__enter__()
        order.append("refused")
    finally:
        process.kill()
        process.wait()
    thread.join(20)
    assert order == ["refused", "held"]


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(InputError, match=rf"another run.*process {process.pid} on ") as error:
            hold(tmp_path).__enter__()
        assert "since 20" in str(error.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / NAME).exists()  # after a kill the file remains, but not the lock
    with hold(tmp_path):
        pass
    assert not (tmp_path / NAME).exists()


def test_a_share_without_locks_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match=r"\(No locks available\).*a folder on a local disk"):
        hold(tmp_path).__enter__()


def test_shards_share_the_folder_but_not_a_share(tmp_path: Path) -> None:
    with hold(tmp_path, Shard(1, 2)), hold(tmp_path, Shard(2, 2)):
        with pytest.raises(InputError, match="another run"):
            hold(tmp_path, Shard(1, 2)).__enter__()
        with pytest.raises(InputError, match="another run"):
            hold(tmp_path).__enter__()
    with hold(tmp_path), pytest.raises(InputError, match="another run"):
        hold(tmp_path, Shard(1, 2)).__enter__()


def test_shards_of_two_counts_are_refused(tmp_path: Path) -> None:
    """Case 7 is in the shards 1/2 and 1/3, so both runs would write its files."""
    with hold(tmp_path, Shard(1, 2)), hold(tmp_path, Shard(2, 2)):
        with pytest.raises(
            InputError, match="a run with --shard 1/2 writes into this folder: process"
        ) as error:
            hold(tmp_path, Shard(1, 3)).__enter__()
        assert "the same count" in (error.value.todo or "")
        assert not (tmp_path / f"{NAME}.1-of-3").exists()
    (tmp_path / f"{NAME}.1-of-2").touch()  # as a killed run leaves it
    (tmp_path / f"{NAME}.2-of-2").symlink_to("nowhere")
    os.mkfifo(tmp_path / f"{NAME}.2-of-4")
    with hold(tmp_path, Shard(1, 3)):
        pass


def test_shares_that_begin_at_the_same_moment_leave_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a scheduler's job array, machines with names of different lengths write to the same file."""
    monkeypatch.setattr(socket, "gethostname", lambda: threading.current_thread().name)

    def begin(share: Shard) -> None:
        for _ in range(100):
            with hold(tmp_path, share):
                pass

    with ThreadPoolExecutor(4) as pool:
        shares = [Shard(n, 4) for n in range(1, 5)]
        for done in [pool.submit(_renamed, "x" * 9 * n, begin, share) for n, share in enumerate(shares)]:
            done.result()
    with hold(tmp_path):
        pass


def _renamed(name: str, task: Callable[[Shard], None], share: Shard) -> None:
    threading.current_thread().name = name
    task(share)


def test_a_lock_file_of_zeros_is_what_a_power_cut_may_leave(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(bytes(82))
    with hold(tmp_path):
        pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written to"):
        hold(tmp_path / "none").__enter__()


def test_a_lock_file_of_nonsense_is_one_line(tmp_path: Path) -> None:
    with hold(tmp_path):
        (tmp_path / NAME).write_text("[" * 1000)
        with pytest.raises(InputError, match="is not the lock file that c3s3-seg makes here"):
            hold(tmp_path).__enter__()


@pytest.mark.parametrize("room", [0, 10])
@pytest.mark.parametrize("share", [None, Shard(1, 2)])
def test_a_disk_without_room_for_the_lock_is_named(tmp_path: Path, share: Shard | None, room: int) -> None:
    """A limit on the size of files stands in for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(StorageError, match=rf"{NAME}: cannot be written \((File too large|No space)"):
            hold(tmp_path, share).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    with hold(tmp_path, share):
        assert (tmp_path / NAME).exists()
