import threading
import time
from collections.abc import Callable, Iterator

import pytest

from c3s3_seg.batch.pipeline import overlapped


def test_results_in_order_and_stages_at_the_same_time() -> None:
    meeting = threading.Barrier(3)

    def stage(number: int) -> Callable[[int], int]:
        def work(item: int) -> int:
            if item + number == 4:  # items 4, 3 and 2, one in each stage
                meeting.wait(timeout=30)
            return item

        return work

    assert list(overlapped(range(10), *(stage(n) for n in range(3)))) == list(range(10))


def test_no_more_under_way_than_stages() -> None:
    under_way, most = 0, 0
    lock = threading.Lock()

    def items() -> Iterator[int]:
        nonlocal under_way, most
        for n in range(20):
            with lock:
                under_way += 1
                most = max(most, under_way)
            yield n

    for _ in overlapped(items(), lambda n: n, lambda n: n, lambda n: n):
        time.sleep(0.002)
        with lock:
            under_way -= 1
    assert under_way == 0
    assert most <= 3


def test_an_error_ends_the_line() -> None:
    def third(item: int) -> int:
        if item == 3:
            raise ValueError("no 3")
        return item

    got = []
    with pytest.raises(ValueError, match="no 3"):
        got.extend(n for n in overlapped(range(100), third, lambda n: n))
    before = threading.active_count()
    line = overlapped(range(100), lambda n: n)
    assert next(line) == 0
    line.close()  # the consumer stops early
    assert threading.active_count() <= before + 1


def test_an_error_of_the_source_is_told() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(overlapped(items(), lambda n: n))
    assert list(overlapped([], lambda n: n)) == []
