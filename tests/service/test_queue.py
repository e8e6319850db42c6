"""The queue: states, the quiet time, growing waits, and studies that a restart resumes."""

from pathlib import Path

import pytest
from helpers.service import SetClock

from c3s3_seg.errors import InputError
from c3s3_seg.service.database import ServiceDatabase
from c3s3_seg.service.deliveries import Deliveries
from c3s3_seg.service.queue import MOST_INTERRUPTED, Finished, StudyQueue
from c3s3_seg.service.results_log import write_lines


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def database(tmp_path: Path, clock: SetClock) -> ServiceDatabase:
    return ServiceDatabase(tmp_path / "queue.sqlite", clock)


@pytest.fixture
def queue(database: ServiceDatabase) -> StudyQueue:
    return StudyQueue(database)


def state(queue: StudyQueue, key: str = "a") -> str:
    found = queue.get(key)
    assert found is not None
    return found.state


def test_a_study_is_complete_after_a_quiet_time(queue: StudyQueue, clock: SetClock) -> None:
    for _ in range(3):
        queue.touch("a")
        clock.sleep(9)
        assert queue.close_quiet(10) == []
    assert queue.claim() is None
    clock.sleep(1)
    assert queue.close_quiet(10) == ["a"]
    found = queue.claim()
    assert found is not None
    assert (found.key, found.state, state(queue)) == ("a", "working", "working")
    assert queue.claim() is None


def test_a_clock_that_is_set_back_holds_no_study(queue: StudyQueue, clock: SetClock) -> None:
    queue.touch("a")
    clock.sleep(-7200)
    assert queue.close_quiet(10) == ["a"]
    assert queue.claim() is not None


def test_a_file_that_comes_during_the_work_is_not_forgotten(queue: StudyQueue, clock: SetClock) -> None:
    queue.touch("a")
    clock.sleep(10)
    queue.close_quiet(10)
    queue.claim()
    queue.touch("a")
    assert state(queue) == "working"
    queue.finish("a", Finished(1, {}))
    assert state(queue) == "received"
    assert queue.close_quiet(10) == []
    clock.sleep(10)
    assert queue.close_quiet(10) == ["a"]


def test_waits_grow_and_a_study_that_is_given_up_stays_visible(queue: StudyQueue, clock: SetClock) -> None:
    queue.touch("a")
    clock.sleep(10)
    queue.close_quiet(10)
    assert queue.claim() is not None
    assert queue.fail("a", "store", "no answer", 30) == "failed"
    assert queue.claim() is None
    clock.sleep(30)
    found = queue.claim()
    assert found is not None
    assert (found.attempts, found.kind, found.reason) == (1, "store", "no answer")
    assert queue.fail("a", "store", "no answer", None) == "dead"
    clock.sleep(1e5)
    assert queue.claim() is None
    assert queue.counts()["dead"] == 1
    assert queue.revive() == 1
    assert queue.claim() is not None


def test_what_was_in_work_is_done_again_but_not_for_ever(
    tmp_path: Path, database: ServiceDatabase, clock: SetClock
) -> None:
    queue = StudyQueue(database)
    queue.touch("a")
    queue.touch("b")
    clock.sleep(10)
    queue.close_quiet(10)
    for _ in range(MOST_INTERRUPTED - 1):
        queue.claim()
        queue.claim()
        database.close()
        database = ServiceDatabase(tmp_path / "queue.sqlite", clock)
        queue = StudyQueue(database)
        assert queue.recover() == 2
        assert queue.counts()["complete"] == 2
    queue.claim()
    queue.recover()
    assert (queue.counts()["dead"], queue.counts()["complete"]) == (1, 1)
    (why,) = queue.dead().values()
    assert why.startswith("interrupted: the service died")
    assert queue.incomplete() == 0


def test_lines_are_written_once(tmp_path: Path, database: ServiceDatabase) -> None:
    queue, deliveries, log = StudyQueue(database), Deliveries(database), tmp_path / "results.jsonl"
    for key in ("a", "b"):
        queue.touch(key)
        queue.finish(key, Finished(1, {}, f'{{"id": "{key}-1"}}'))
    # The service was killed after it had written one line and half of the next.
    log.write_text('{"id": "a-1"}\n{"id": "b')
    assert write_lines(log, deliveries, first=True) == 2
    assert log.read_text() == '{"id": "a-1"}\n{"id": "b-1"}\n'
    assert write_lines(log, deliveries) == 0


def test_objects_are_remembered_for_each_target(database: ServiceDatabase) -> None:
    deliveries = Deliveries(database)
    assert deliveries.expect("one", ["1.2", "1.3"], "a", 1) == ["1.2", "1.3"]
    deliveries.stored("one", "1.2")
    assert deliveries.expect("one", ["1.2", "1.3"], "a", 1) == ["1.3"]
    assert deliveries.expect("two", ["1.2", "1.3"], "a", 1) == ["1.2", "1.3"]
    assert (deliveries.is_ours("1.2"), deliveries.is_ours("1.9")) == (True, False)


@pytest.mark.parametrize("content", [b"something else", b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_queue_is_refused(tmp_path: Path, clock: SetClock, content: bytes) -> None:
    path = tmp_path / "queue.sqlite"
    path.write_bytes(content)
    with pytest.raises(InputError, match="the queue is damaged"):
        ServiceDatabase(path, clock)
    assert path.read_bytes() == content


def test_a_link_in_its_place_is_refused(tmp_path: Path, clock: SetClock) -> None:
    (tmp_path / "queue.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link"):
        ServiceDatabase(tmp_path / "queue.sqlite", clock)
