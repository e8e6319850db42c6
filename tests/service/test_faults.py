"""Faults of the service's surroundings: mistakes of operators, full disks, wrong clocks, hostile senders."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from helpers.dicom_files import edit, values
from helpers.ports import free_port
from helpers.service import Bench, results, settings, study

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.client import send
from c3s3_seg.io.pacs.identity import Identity, identity
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.receiver import Gate, receiving
from c3s3_seg.service import folder_source
from c3s3_seg.service.preflight import check_start
from c3s3_seg.service.segment import SegmentTask
from c3s3_seg.service.service import opened
from c3s3_seg.service.spool import key_of
from c3s3_seg.system.lock import hold
from c3s3_seg.system.reading import read_regular

DAY_S = 86_400.0


def test_a_clock_that_is_set_back_holds_nothing_up(tmp_path: Path) -> None:
    """A machine may start with a wrong clock, which is corrected once the network is available."""
    bench = Bench(tmp_path)
    bench.take(study(tmp_path / "sent", 1))
    bench.clock.sleep(15)
    bench.service.tick()
    study(tmp_path / "watch" / "two", 2)
    bench.sources[0].look()
    assert bench.counts() == {"complete": 1}
    bench.clock.sleep(-2 * DAY_S)
    assert len(bench.wait()) == 2
    bench.clock.sleep(-2 * DAY_S)
    bench.wait(300, 10)
    assert bench.service.spool.size_bytes == 0


def test_what_failed_in_a_watched_folder_waits_for_no_clock(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "files = 15\n", base=_limits_last())
    study(tmp_path / "watch" / "one", 1)
    bench.wait(20)
    bench.clock.sleep(-2 * DAY_S)
    assert bench.sources[0]._patience.is_due(next(iter(bench.sources[0]._seen)))


def test_an_entry_that_cannot_be_written_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens if its folder in the spool is not writable; on a full disk no entry is tried."""
    bench = Bench(tmp_path)
    study(tmp_path / "watch" / "one", 1)
    study(tmp_path / "watch" / "two", 2)
    put, refused = bench.service.spool.put, set()

    def fails(found: Identity, content: bytes) -> None:
        if found.study in (refused or {found.study}):
            refused.add(found.study)
            raise InputError("cannot be written (Permission denied)")
        put(found, content)

    with monkeypatch.context() as patch:
        patch.setattr(bench.service.spool, "put", fails)
        assert len(bench.wait(100, 5)) == 1
    assert len(bench.wait(1000, 10)) == 2
    assert bench.counts() == {"done": 2}


def test_files_that_came_again_in_part_are_removed_with_the_dead_study(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    bench.take(files)
    bench.wait(200)
    bench.take(files[:3])
    bench.wait()
    assert bench.counts() == {"dead": 1}
    assert bench.service.queue.revive() == 1  # its files exist
    bench.wait()
    bench.wait(int(40 * DAY_S), int(DAY_S))
    assert bench.service.spool.size_bytes == 0


def test_a_file_that_was_refused_and_then_written_before_a_kill_counts_as_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    bench.take(files)
    found = identity(files[0].read_bytes())
    bench.service.queue.refuse(key_of(found.study), key_of(found.instance))  # noted by an earlier try
    bench.take(files[:1])
    assert len(bench.wait()) == 1


def test_folders_of_others_do_not_end_the_service(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "[serve.output]\nkeep_days = 1\n")
    for parent in ("results", "spool"):
        place = bench.settings.state / parent
        place.mkdir(exist_ok=True)
        os.mkdir(os.fsencode(place) + b"/caf\xe9")
    bench.service.clean()
    assert bench.service.spool.studies() == []


def test_a_damaged_row_does_not_end_the_worker_thread(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2):
        bench.take(study(tmp_path / str(seed), seed))
        bench.clock.sleep(1)
    first = key_of(identity(next((tmp_path / "1").iterdir()).read_bytes()).study)
    bench.service.database.run("UPDATE studies SET done = '{' WHERE key = ?", first)
    bench.clock.sleep(20)
    bench.service.tick()
    bench.service.stopping.wait = lambda _: True  # type: ignore[method-assign,assignment]
    for _ in range(2):
        with bench.service._guarded("queue"):
            bench.service.work_one(bench.work)
    assert bench.counts() == {"working": 1, "done": 1}
    with bench.service._guarded("service"):
        raise OSError("whatever")
    assert "defect" in bench.service.metrics.source_errors["service"]


def _limits_last() -> str:
    from helpers.service import BASE

    head, _, tail = BASE.partition("[serve.limits]")
    return f'{head}{tail[tail.index("[serve.monitor]") :]}[serve.limits]\nfree = "1MB"\n'


def test_an_entry_with_a_file_that_cannot_be_taken_waits_as_a_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A part of a study must not be taken for the whole study."""
    bench = Bench(tmp_path)
    files = study(tmp_path / "watch" / "one", 1)
    (tmp_path / "watch" / "one" / "movie.mp4").write_bytes(bytes(200_000))  # irrelevant
    bench.sources[0].object_bytes = 100_000  # type: ignore[union-attr]
    last = files[-1].read_bytes()
    files[-1].write_bytes(last + bytes(100_000))
    study(tmp_path / "watch" / "two", 2)
    assert len(bench.wait(60)) == 1
    assert caplog.text.count("larger than serve.limits.object") < 6
    files[-1].write_bytes(last)
    assert len(bench.wait(60)) == 2


def test_an_entry_that_cannot_be_looked_through_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    study(tmp_path / "watch" / "one", 1)
    (tmp_path / "watch" / "one" / "closed").mkdir()
    opened = os.scandir

    def refusing(path: Any = ".") -> Any:  # tests may run as root, who may read everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        assert bench.wait(60) == []
    assert "cannot be read: none of it is taken" in caplog.text
    assert len(bench.wait(60)) == 1


def test_half_a_line_does_not_stay_in_the_log(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    bench = Bench(tmp_path)
    bench.service.deliveries.database.run("INSERT INTO results VALUES ('a-1', ?)", json.dumps({"id": "a-1"}))
    log = bench.settings.log
    log.write_text('{"id": "z-1"}\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            _append_waiting(bench)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.read_text() == '{"id": "z-1"}\n'
    bench.service.tick()
    assert [line.get("id") for line in results(bench.settings)] == ["z-1", "a-1"]


def _append_waiting(bench: Bench) -> None:
    from c3s3_seg.service.results_log import write_lines

    write_lines(bench.settings.log, bench.service.deliveries)


def test_an_answer_that_cannot_be_read_is_not_taken_for_the_next_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    worker = bench.service._worker()
    said = '{"ready": 1}\nnoise\n{"study": {}}\n'
    talker = f"import sys; sys.stdout.write({said!r}); sys.stdout.flush(); sys.stdin.read()"
    started = subprocess.Popen

    def talks(_: Any, **words: Any) -> Any:
        return started([sys.executable, "-c", talker], **words)

    monkeypatch.setattr(subprocess, "Popen", talks)
    with pytest.raises(ValueError, match="Expecting value"):
        worker.segment(SegmentTask(tmp_path, tmp_path / "out"))
    assert worker.process_id is None
    assert worker._rest == b""


def test_an_association_that_is_kept_open_does_not_hold_a_study_for_ever(tmp_path: Path) -> None:
    class Association:
        """An association that stays open."""

    bench, link = Bench(tmp_path), Association()
    for path in study(tmp_path / "sent", 1):
        content = path.read_bytes()
        bench.service.intake.take(identity(content), content, link)
    assert bench.wait(500, 10) == []
    assert len(bench.wait(200, 10)) == 1


@pytest.mark.parametrize("content", [b"[serve]\nstate = 1", b'{"ids": [1, 2,', b"\0\1\2"])
def test_a_file_of_somebody_else_is_no_log_of_results(tmp_path: Path, content: bytes) -> None:
    """Its last line, which has no newline, used to be taken for half a line of the log and cut off."""
    log = tmp_path / "other"
    log.write_bytes(content)
    with pytest.raises(InputError, match=r"other: there is a file that is no log of c3s3-seg"):
        Bench(tmp_path, f'[serve.output]\nlog = "{log}"\n')
    assert log.read_bytes() == content


def test_a_line_that_could_not_be_crossed_off_is_not_written_twice(tmp_path: Path) -> None:
    """The log is not on the same disk as the queue, whose disk is full."""
    bench = Bench(tmp_path)
    database = bench.service.database
    database.run("INSERT INTO results VALUES ('a-1', ?)", json.dumps({"id": "a-1"}))
    database.run("CREATE TRIGGER full BEFORE DELETE ON results BEGIN SELECT RAISE(ABORT, 'full'); END")
    for _ in range(3):
        with pytest.raises(InputError, match="full"):
            bench.service.tick()
    database.run("DROP TRIGGER full")
    bench.service.tick()
    assert results(bench.settings) == [{"id": "a-1"}]
    assert bench.service.deliveries.unlogged() == []


def test_a_full_disk_is_named_although_it_has_rolled_back_already(tmp_path: Path) -> None:
    database = Bench(tmp_path).service.database
    pages = database.row("PRAGMA page_count")
    assert pages is not None
    database.rows(f"PRAGMA max_page_count = {pages[0] + 2}")
    with pytest.raises(InputError, match=r"\(database or disk is full\)"), database.transaction():
        database.run("INSERT INTO results VALUES ('a', ?)", "x" * 30_000)


def test_a_queue_that_cannot_be_read_is_never_healthy(tmp_path: Path) -> None:
    """A failure that a worker reported for the queue is tolerated for minutes; an unreadable queue is not."""
    bench = Bench(tmp_path)
    with bench.service._guarded("queue"):
        pass
    bench.service.database.close()
    bench.service.stopping.wait = lambda _: True  # type: ignore[method-assign,assignment]
    with bench.service._guarded("queue"):
        bench.service.work_one(bench.work)
    assert "the queue is damaged" in bench.service.health()["queue"]


def test_a_study_of_which_a_file_cannot_be_written_is_not_complete(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    bench.take(files[:-1])
    found = identity(files[-1].read_bytes())
    place = bench.service.spool.folder / key_of(found.study) / key_of(found.series)
    moved = place.rename(tmp_path / "aside")
    place.write_bytes(b"")  # stands in for a disk that is not writable for a while
    with pytest.raises(InputError, match="cannot be made"):
        bench.take(files[-1:])
    place.unlink()
    moved.rename(place)
    assert bench.wait() == []
    assert bench.counts() == {"dead": 1}
    bench.take(files)
    assert len(bench.wait()) == 1


def test_files_of_which_the_removal_was_killed_are_removed_at_the_next_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.take(study(tmp_path / "sent", 1))
    bench.wait()
    bench.service.database.run("UPDATE studies SET removed = 1")  # killed after this
    bench.service.close()
    again = Bench(tmp_path)
    assert again.service.spool.studies() == []
    assert again.service.spool.size_bytes == 0
    assert again.counts() == {"done": 1}


def test_a_place_of_results_that_is_taken_is_no_fault_of_the_study(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    bench.take(files)
    out = bench.settings.results / key_of(identity(files[0].read_bytes()).study) / "1"
    out.mkdir(parents=True)
    with hold(out):
        assert bench.wait() == []
        assert bench.counts() == {"failed": 1}
    out.rmdir()
    out.write_bytes(b"")  # as with a read-only disk
    assert bench.wait(100, 10) == []
    assert bench.counts() == {"failed": 1}
    out.unlink()
    assert len(bench.wait(1000, 10)) == 1


def test_a_file_of_an_entry_that_cannot_be_read_holds_up_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file server may open a file and then fail: the study must wait for that file."""
    bench = Bench(tmp_path)
    files = study(tmp_path / "watch" / "one", 1)

    def read(path: Path, limit: int) -> bytes:
        if path == files[9]:
            raise InputError("cannot be read", where=path) from OSError(errno.EIO, "Input/output error")
        return read_regular(path, limit)

    with monkeypatch.context() as patch:
        patch.setattr(folder_source, "read_regular", read)
        assert bench.wait(100, 5) == []
        assert bench.counts() == {"received": 1}
    assert "cannot be read: none of it is taken" in caplog.text
    (line,) = bench.wait(100, 5)
    assert line["revision"] == 1
    assert bench.segmented == 1


@pytest.mark.parametrize("size", [0, 100, 300])
def test_an_entry_with_a_damaged_slice_waits_as_a_whole(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """After an interrupted copy, the slice was left out in silence, and the others were segmented."""
    bench = Bench(tmp_path)
    files = study(tmp_path / "watch" / "one", 1)
    whole = files[-1].read_bytes()
    files[-1].write_bytes(whole[:size])
    study(tmp_path / "watch" / "two", 2)
    assert len(bench.wait(60)) == 1
    assert bench.counts() == {"done": 1}
    assert "a DICOM file that is empty, damaged or without valid UIDs" in caplog.text
    assert bench.service.metrics.failures["unreadable"] >= 1
    files[-1].write_bytes(whole)
    assert len(bench.wait(60)) == 2


def test_an_entry_in_which_slices_share_a_uid_waits_as_a_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last one replaced the others, and the scan without them was segmented."""
    bench = Bench(tmp_path)
    files = study(tmp_path / "watch" / "one", 1)
    whole, uid = files[-1].read_bytes(), str(pydicom.dcmread(files[0]).SOPInstanceUID)
    edit(files[-1], values(SOPInstanceUID=uid, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.4"))
    shutil.copy(files[0], files[0].with_name("copy.dcm"))  # the same file twice is no fault
    bench.wait(60)
    assert bench.counts() == {}
    assert "two different DICOM files of a series with one SOPInstanceUID" in caplog.text
    files[-1].write_bytes(whole)
    assert len(bench.wait(60)) == 1


def test_a_state_folder_whose_work_is_somebody_elses_is_refused(tmp_path: Path) -> None:
    settings_ = settings(tmp_path)
    own = settings_.state / "work" / ("0" * 32)
    own.mkdir(parents=True)
    (own / "left.dcm").touch()
    with opened(settings_):
        assert not own.exists()
    theirs = settings_.state / "work" / "thesis"
    theirs.mkdir()
    for check in (lambda: check_start(settings_), lambda: opened(settings_).__enter__()):
        with pytest.raises(InputError, match=r"1 files or folders that are not of the service.*of its own"):
            check()
    assert theirs.is_dir()


def test_files_beside_the_slices_hold_up_no_entry(tmp_path: Path) -> None:
    """A DICOMDIR states no study, and an empty file may be a mark of another program."""
    bench = Bench(tmp_path)
    files = study(tmp_path / "watch" / "one", 1)
    index = files[0].with_name("DICOMDIR")
    data = pydicom.dcmread(files[0])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        delattr(data, keyword)
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.save_as(index)
    index.with_name("done").touch()
    assert len(bench.wait(60)) == 1
    assert bench.service.metrics.failures["not DICOM"] == 2


def test_slices_without_a_preamble_are_taken(tmp_path: Path) -> None:
    """They are read by `predict`, and were left out of a watched folder in silence."""
    bench = Bench(tmp_path)
    for path in study(tmp_path / "watch" / "one", 1):
        content = path.read_bytes()
        length = int.from_bytes(content[140:144], "little")  # of group 0002, which follows this element
        path.write_bytes(content[144 + length :])
        assert path.read_bytes()[:2] == b"\x08\x00"
    (line,) = bench.wait(60)
    assert line["verdict"] == "segmented"


def test_a_log_that_cannot_be_written_keeps_no_files_in_the_spool(tmp_path: Path) -> None:
    """The disk of log and spool could never become free again, nor at the next start."""
    bench = Bench(tmp_path)
    log = bench.settings.log
    bench.take(study(tmp_path / "sent", 1))
    log.mkdir()  # cannot be opened for writing, also by root
    with pytest.raises(InputError, match=r"results\.jsonl: cannot be written"):
        bench.wait()
    bench.service.work_one(bench.work)
    assert bench.counts() == {"done": 1}
    for _ in range(20):
        bench.clock.sleep(10)
        with pytest.raises(InputError, match=r"results\.jsonl: cannot be written"):
            bench.service.tick()
    assert bench.service.spool.size_bytes == 0
    log.rmdir()
    assert len(bench.wait(2)) == 1


def test_the_spool_is_cleaned_at_a_start_at_which_the_log_cannot_be_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.take(study(tmp_path / "sent", 1))
    bench.wait()
    bench.service.database.run("UPDATE studies SET changed = changed - 1000")
    bench.service.close()
    bench.settings.log.unlink()
    bench.settings.log.mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        Bench(tmp_path)
    assert not list((bench.settings.state / "spool").glob("*/*/*.dcm"))


def test_entries_of_a_share_that_was_not_mounted_for_a_while_are_not_taken_again(tmp_path: Path) -> None:
    bench, watch = Bench(tmp_path), tmp_path / "watch"
    files = study(watch / "one", 1)
    bench.wait(200, 10)
    assert bench.service.spool.size_bytes == 0
    watch.rename(tmp_path / "share")
    watch.mkdir()
    bench.wait(10)
    watch.rmdir()
    (tmp_path / "share").rename(watch)
    bench.wait(20)
    assert bench.service.metrics.totals["files"] == len(files)
    memory, folder = bench.service.intake.memory, key_of(str(watch))
    entry = f"{folder}:{key_of('one')}"
    assert memory.remembered("watched", entry)
    (watch / "one").rename(tmp_path / "one")
    study(watch / "two", 2)
    bench.wait(2)
    assert memory.remembered("watched", entry) is None


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow, neither in the spool nor of the queue: a limit on their size stands in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def let_time_pass(bench: Bench, seconds: int) -> None:
    """Let time pass as `Service.run` does: an error is reported, and the next tick goes on."""
    for _ in range(0, seconds, 5):
        bench.clock.sleep(5)
        with bench.service._guarded("watch"):
            bench.sources[0].look()
        bench.service._guarded_tick()


def test_a_part_is_not_segmented_after_the_disk_of_spool_and_queue_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal could not be recorded either, and the slices before it were taken for the study."""
    bench = Bench(tmp_path)
    files = study(tmp_path / "watch" / "one", 1)
    with ExitStack() as full, monkeypatch.context() as patch:

        def read(path: Path, limit: int) -> bytes:
            content = read_regular(path, limit)
            if path == files[9]:
                full.enter_context(full_disk())
            return content

        patch.setattr(folder_source, "read_regular", read)
        let_time_pass(bench, 10)
        patch.undo()
        assert bench.service.metrics.totals["files"] == 9
        let_time_pass(bench, 300)
        assert bench.counts() == {"received": 1}
    bench.service.tick()
    assert bench.counts() == {"received": 1}  # the refusal is a file that arrived just now
    bench.clock.sleep(10)
    bench.service.tick()
    assert bench.counts() == {"dead": 1}
    (line,) = bench.wait(1000, 10)
    assert (line["revision"], bench.segmented) == (1, 1)


def test_a_sender_is_told_of_a_full_disk_and_the_rest_does_not_pass_for_the_study(tmp_path: Path) -> None:
    bench, port = Bench(tmp_path), free_port()
    files = study(tmp_path / "sent", 1)
    with ExitStack() as full:

        def take(found: Identity, content: bytes, sender: object) -> bool:
            if bench.service.metrics.totals["files"] == 9:
                full.enter_context(full_disk())
            return bench.service.intake.take(found, content, sender)

        gate = Gate(AssociationListener("C3S3SEG", "127.0.0.1", port), ("SCANNER",))
        with receiving(gate, take, lambda _: None, bench.service.intake.parted):
            with pytest.raises(InputError, match="0xA700"):
                send(Node("C3S3SEG", "127.0.0.1", port), files, Caller("SCANNER"))
            let_time_pass(bench, 300)
    assert bench.wait() == []
    assert bench.counts() == {"dead": 1}
    bench.take(files)
    assert len(bench.wait()) == 1


def test_a_refused_file_that_is_taken_before_the_refusal_is_recorded_counts_as_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    bench.take(files[:9])
    with full_disk(), pytest.raises(InputError, match="cannot be written"):
        bench.take(files[9:10])
    assert all(bench.take(files[9:]))
    assert len(bench.wait()) == 1


def test_half_of_an_entry_waits_while_its_share_is_not_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was empty, as if the entry had been removed, and its first slices were segmented."""
    bench, watch = Bench(tmp_path), tmp_path / "watch"
    files = study(watch / "one", 1)

    def read(path: Path, limit: int) -> bytes:
        if path == files[9]:
            raise InputError("cannot be read", where=path) from OSError(errno.EIO, "Input/output error")
        return read_regular(path, limit)

    with monkeypatch.context() as patch:
        patch.setattr(folder_source, "read_regular", read)
        assert bench.wait(20) == []
    watch.rename(tmp_path / "share")
    watch.mkdir()
    assert bench.wait(60) == []
    watch.rmdir()
    (tmp_path / "share").rename(watch)
    (line,) = bench.wait(100, 5)
    assert (line["revision"], bench.segmented) == (1, 1)
