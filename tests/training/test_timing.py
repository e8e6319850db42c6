"""Time budgets worked out by hand, and real training steps."""

import multiprocessing
import subprocess
import sys
import time
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.training import sampler

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.training import train
from c3s3_seg.training.config import TrainConfig, load_config
from c3s3_seg.training.planning import timing
from c3s3_seg.training.planning.step_costs import Pieces, scaled
from c3s3_seg.training.planning.timing import (
    LEAST,
    MOST,
    READ,
    FixedRhythm,
    Timing,
    length,
    parse_time,
    time_steps,
)
from c3s3_seg.training.planning.trial import step_seconds
from c3s3_seg.training.precision import Precision
from c3s3_seg.training.run import Run

TIMING = Timing(warm_s=1.0, full_s=3.0, validate_s=2.0, load_s=0.5, case_bytes=100, peak_bytes=1000)


def test_iterations_follow_from_the_budget() -> None:
    found = length(TIMING, 1000, (20, 5), share=0.5)
    # Of 920 s, 5 s are for the start, 12.5 s for reading, 10 s for reading training scans again (the domain),
    # and 80 s for 8 validations; a step takes 2 s.
    assert found.validations == 8
    assert found.iterations == int((920 - 5 - 22.5 - 80) / 2)
    assert found.every * 7 < found.iterations <= found.every * 8
    assert length(TIMING, 1000, (20, 0), share=1.0).iterations == (920 - 5 - 20)
    assert length(TIMING, 1000, (20, 0), share=1.0).validations == 0
    assert length(TIMING, 1e6, (20, 5), share=0.5).iterations == MOST
    begun = length(TIMING, 1000, (20, 5), share=0.5, begun=True)
    assert begun.iterations == found.iterations - 5  # another validation of 10 s


def test_iterations_follow_from_what_is_set() -> None:
    warm = length(TIMING, 1000, (20, 0), share=1.0, fixed=FixedRhythm(warm_up=200))
    assert warm.iterations == 200 + int((920 - 5 - 20 - 200) / 3)
    often = length(TIMING, 1000, (20, 5), share=0.0, fixed=FixedRhythm(validate_every=4))
    # 3 s a step, and a validation of 10 s after every fourth step and after the last.
    assert often.iterations == int((920 - 5 - 22.5 - 10) / (3 + 10 / 4))
    assert often.validations == -(-often.iterations // 4)
    assert length(TIMING, 1000, (20, 0), share=0.0, fixed=FixedRhythm(validate_every=4)).validations == 0


def test_validation_takes_a_fifth_at_most() -> None:
    found = length(TIMING, 1000, (20, 50), share=0.0)
    assert found.validations == 2  # of 100 s each
    assert length(TIMING, 200, (1, 25), share=0.0).validations == 1  # at least one


def test_a_budget_that_is_too_short_says_what_would_do() -> None:
    with pytest.raises(InputError, match=r"allows 0 iterations\. Give at least --budget 2m"):
        length(TIMING, 10, (20, 5), share=0.5)
    assert length(TIMING, 120, (20, 5), share=0.5).iterations >= LEAST


def test_memory_grows_with_the_cases() -> None:
    assert TIMING.needs_bytes(READ) == 1000
    assert TIMING.needs_bytes(READ + 10) == 2000
    assert replace(TIMING, validation_bytes=50).needs_bytes(READ + 10, 5) == 2000 + 4 * 50
    assert replace(TIMING, validation_bytes=50).needs_bytes(READ + 10, 0) == 2000


@pytest.mark.parametrize(
    ("text", "seconds"), [("6h", 21600), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("0.5h", 1800)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "0h", "1.2.3h", "30m1h", "-1h", "9" * 400 + "h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InputError, match="wanted one such as 6h"):
        parse_time(text)


@pytest.mark.slow
def test_steps_that_take_too_long_are_ended_and_assumed(toy_config: Path) -> None:
    """The networks are far too wide for the time limit."""
    wide = ["networks.a.filters=64", "networks.b.filters=64", "task.patch=[96, 96, 96]"]
    config = load_config(toy_config, [*wide, "run.iterations=100", "c3s3.warm_up=8"])
    told: list[str] = []
    began = time.monotonic()
    found = time_steps(config, limit_s=4.0, report=told.append)
    assert time.monotonic() - began < 30
    assert found.guessed
    assert found.assumed[0].startswith("a step takes ")
    assert found.full_s == pytest.approx(2.3 * found.warm_s)
    assert told[0].endswith("of at most 4 s")
    assert not multiprocessing.active_children()


def test_without_time_all_is_assumed_and_no_process_started(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(toy_config, ["c3s3.warm_up=3"])
    monkeypatch.setattr(timing, "get_context", None)  # no process could be started
    found = time_steps(config, limit_s=0.5)
    # Two crops of 32 x 32 x 32 voxels and 2 filters in both nets.
    assert found.warm_s == pytest.approx(6e-7 * 2 * 32**3 * 2)
    assert len(found.assumed) == 5
    assert found.needs_bytes(2) == found.peak_bytes > 0  # of this process: a run takes no less


def pieces(config: TrainConfig, *said: tuple[str, object]) -> Timing:
    found = Pieces(config)
    for name, value in said:
        found.take(name, value)
    return found.timing()


def test_what_is_known_is_taken_and_the_rest_follows_from_it(toy_config: Path) -> None:
    config = load_config(toy_config, ["c3s3.warm_up=3"])
    begun = [("loaded", None), ("load_s", 0.2), ("case_bytes", 100), ("voxels", 4 * 32**3)]
    begun += [("precision", Precision("bfloat16", "it has units")), ("warm_s", 3.0), ("peak_bytes", 1e9)]
    first = pieces(config, *begun)
    assert (first.warm_s, first.full_s) == (3.0, pytest.approx(6.9))
    assert first.validate_s == pytest.approx(3.0 / 3 * 4 / 2)  # a third of a step, for 4 crops instead of 2
    assert len(first.assumed) == 2
    assert not first.guessed
    more = [("full_s", 9.0), ("validate_s", 2.0), ("warm_s", 1.0), ("full_s", 4.0), ("warm_s", 2.0)]
    found = pieces(config, *begun, *more)
    assert (found.warm_s, found.full_s, found.validate_s) == (1.5, 4.0, 2.0)  # the first steps load libraries
    assert (found.precision, found.precision_why, found.peak_bytes) == ("bfloat16", "it has units", 1e9)
    assert found.assumed == ()
    single = load_config(toy_config, ["method=supervised"])
    assert pieces(single, ("full_s", 3.0)).warm_s == 3.0  # supervised runs have one kind of step


def test_another_configuration_takes_in_proportion(toy_config: Path) -> None:
    before = load_config(toy_config)
    narrow = load_config(toy_config, ["networks.a.filters=1", "networks.b.filters=1"])
    found = scaled(TIMING, before, narrow)
    assert (found.warm_s, found.full_s, found.validate_s) == (0.5, 1.5, 1.0)
    assert "in proportion" in found.assumed[0]
    assert found.peak_bytes == TIMING.peak_bytes  # a part of it belongs to the libraries
    assert scaled(TIMING, narrow, before).peak_bytes == 2 * TIMING.peak_bytes


def test_what_is_assumed_is_stated_as_scaled(toy_config: Path) -> None:
    """A plan used to print "0.47 s a step" and, in the same reason, "a step takes 1.47 s"."""
    before = load_config(toy_config, ["method=supervised"])
    narrow = load_config(toy_config, ["method=supervised", "networks.a.filters=1"])
    guessed = replace(time_steps(before, limit_s=0.0), warm_s=1.5, full_s=1.5, validate_s=4.0)
    found = scaled(guessed, before, narrow)
    assert found.assumptions == (
        "a step takes 0.75 s, by the size of crops and networks alone",
        "validating a case takes 2.00 s",
        "reading a case takes 1 s",
        "the memory suffices",
    )


def test_a_process_that_dies_needs_more_memory_than_there_is(toy_config: Path) -> None:
    found = Pieces(load_config(toy_config))
    found.died = True
    assert found.timing().needs_bytes(2) == inf


@pytest.mark.parametrize(("device", "least_s", "most_s"), [("cpu", 1.3, inf), ("cuda", 0.1, 1.2)])
def test_a_gpu_steps_while_batches_are_drawn(
    monkeypatch: pytest.MonkeyPatch, device: str, least_s: float, most_s: float
) -> None:
    """A batch takes a thread 1.2 s, and there are four; a step takes 0.1 s. Both used to be added."""
    monkeypatch.setattr(train, "LOADERS", 4)
    run = SimpleNamespace(
        iteration=3,
        device=torch.device(device),
        method=SimpleNamespace(views=lambda iteration: iteration),
        step=lambda batch: time.sleep(0.1),
    )
    sampler = SimpleNamespace(batch=lambda iteration, views: time.sleep(1.2))
    assert least_s <= step_seconds(run, sampler) < most_s  # type: ignore[arg-type]


def test_batches_for_a_timed_step_are_real(monkeypatch: pytest.MonkeyPatch, toy_config: Path) -> None:
    monkeypatch.setattr(train, "draws_ahead", lambda run: True)
    run = Run(load_config(toy_config), Path("unused"))
    assert 0 < step_seconds(run, sampler(toy_config)) < inf


@pytest.mark.slow
def test_steps_are_real(toy_config: Path, two_nets: ModelBundle) -> None:
    found = time_steps(load_config(toy_config, ["run.iterations=100", "c3s3.warm_up=8"]))
    for seconds in (found.warm_s, found.full_s, found.validate_s, found.load_s):
        assert 0 < seconds < inf
    assert found.case_bytes >= 2 * 4 * 27 * 26 * 27  # bytes of an unlabelled case, plus a half
    assert 5e7 < found.peak_bytes < inf
    assert found.precision == "float32"
    assert found.assumed == ()
    with pytest.raises(InputError, match=r"task\.labels: the bundle has"):
        time_steps(load_config(toy_config), two_nets)


CROWDED = """
import os, subprocess, sys, time
from c3s3_seg.training.planning.trial import scheduled, share_waited
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
