"""Budgets by hand, and real steps."""

import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.training.config import load_config
from c3s3_seg.training.timing import LEAST, MOST, READ, Timing, free_bytes, length, parse_time, time_steps

TIMING = Timing(warm_s=1.0, full_s=3.0, validate_s=2.0, load_s=0.5, case_bytes=100, peak_bytes=1000)


def test_iterations_follow_from_the_budget() -> None:
    found = length(TIMING, 1000, (20, 5), share=0.5)
    # 920 s; 5 to start, 12.5 to read, 8 validations of 10 s; 2 s a step
    assert found.validations == 8
    assert found.iterations == int((920 - 5 - 12.5 - 80) / 2)
    assert found.every * 7 < found.iterations <= found.every * 8
    assert length(TIMING, 1000, (20, 0), share=1.0).iterations == (920 - 5 - 10)
    assert length(TIMING, 1000, (20, 0), share=1.0).validations == 0
    assert length(TIMING, 1e6, (20, 5), share=0.5).iterations == MOST
    begun = length(TIMING, 1000, (20, 5), share=0.5, begun=True)
    assert begun.iterations == found.iterations - 5  # another validation of 10 s


def test_validation_takes_a_fifth_at_most() -> None:
    found = length(TIMING, 1000, (20, 50), share=0.0)
    assert found.validations == 2  # of 100 s each
    assert length(TIMING, 200, (1, 25), share=0.0).validations == 1  # one at least


def test_a_budget_that_is_too_short_says_what_would_do() -> None:
    with pytest.raises(InputError, match=r"allows 0 iterations\. Give at least --budget 2m"):
        length(TIMING, 10, (20, 5), share=0.5)
    assert length(TIMING, 120, (20, 5), share=0.5).iterations >= LEAST


def test_memory_grows_with_the_cases() -> None:
    assert TIMING.needs_bytes(READ) == 1000
    assert TIMING.needs_bytes(READ + 10) == 2000
    assert free_bytes() > 1e6


@pytest.mark.parametrize(
    ("text", "seconds"), [("6h", 21600), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("0.5h", 1800)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "0h", "1.2.3h", "30m1h", "-1h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InputError, match="wanted one such as 6h"):
        parse_time(text)


def test_steps_are_real(toy_config: Path, two_nets: ModelBundle) -> None:
    found = time_steps(load_config(toy_config, ["run.iterations=100", "c3s3.warm_start=8"]))
    for seconds in (found.warm_s, found.full_s, found.validate_s, found.load_s):
        assert 0 < seconds < inf
    assert found.case_bytes >= 2 * 4 * 27 * 26 * 27  # of an unlabelled case, and half as much again
    assert 5e7 < found.peak_bytes < inf
    with pytest.raises(InputError, match=r"task\.labels: the bundle has"):
        time_steps(load_config(toy_config), two_nets)


CROWDED = """
import os, subprocess, sys, time
from c3s3_seg.training.timing import scheduled, share_waited
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def share(seconds=0.5):
    before, until = scheduled(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return share_waited(before, scheduled())
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same processor
try:
    print(share())
finally:
    other.kill()
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="only Linux tells it")
def test_steps_that_wait_for_a_processor_are_noticed() -> None:
    answer = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, check=True)
    assert 0.2 < float(answer.stdout) < 1
