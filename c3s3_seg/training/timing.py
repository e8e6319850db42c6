"""A few real steps of a configuration, timed in a process of their own, and the length that fits a budget."""

from __future__ import annotations

import re
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil, inf
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from c3s3_seg.allocator import keep_pages
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.training.config import TrainConfig

STEPS = 3  # timed ones of each kind; one before them warms up
READ = 2  # cases of each kind that are read for them
SPARE = 0.92  # of the budget is planned; other work and slow disks take their share
VALIDATIONS = 8  # wanted in a run
VALIDATING = 0.2  # of the budget at most
LEAST = 10  # iterations; fewer are no training
MOST = 6000  # iterations, the published number; more has only been seen to overfit
STARTING_S = 5.0  # torch, and writing the bundle
BUSY = 0.1  # of the time: two threads of which one waits hold each other up far more than that


@dataclass(frozen=True)
class Timing:
    """What was measured.

    Parameters
    ----------
    warm_s, full_s
        Of a step of the warm start, and of the method's own.
    validate_s
        Of one case by all nets.
    load_s, case_bytes
        Of reading a case, and of keeping it.
    peak_bytes
        Of the process (its peak resident size) or of the GPU, with `READ` cases of each kind; inf where the
        system ended it.
    waited
        Share of the steps' time, over all threads, in which they were ready and other programs had the
        processors: 0 to 1. 0 where the system does not say.
    """

    warm_s: float
    full_s: float
    validate_s: float
    load_s: float
    case_bytes: int
    peak_bytes: float
    waited: float = 0.0

    def needs_bytes(self, cases: int) -> float:
        """With all cases in memory."""
        return self.peak_bytes + self.case_bytes * max(0, cases - READ)

    def mean_s(self, share: float) -> float:
        """Of a step, where `share` of them are the warm start's."""
        return share * self.warm_s + (1 - share) * self.full_s


@dataclass(frozen=True)
class Length:
    """What a budget allows: iterations, and how often to validate (0: no validation cases)."""

    iterations: int
    validations: int

    @property
    def every(self) -> int:
        """Iterations from one validation to the next."""
        return ceil(self.iterations / max(1, self.validations))


def time_steps(config: TrainConfig, start: ModelBundle | None = None) -> Timing:
    """Run a few steps in a fresh process: memory is that of such a run and nothing else.

    Raises
    ------
    InputError
        What the steps raise: data that cannot be read, a bundle that does not fit, a loss that is not finite.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, config, start).result()
        except (BrokenProcessPool, MemoryError):
            return Timing(inf, inf, inf, 0.0, 0, inf)


def length(
    timing: Timing, budget_s: float, cases: tuple[int, int], share: float, *, begun: bool = False
) -> Length:
    """The iterations that fit into a budget, with reading, validating and writing counted.

    Parameters
    ----------
    timing
        What the parts take.
    budget_s
        Wall clock of the whole run.
    cases
        To learn from, and for validation.
    share
        Of the iterations that are the warm start's.
    begun
        Whether it begins from a bundle, and so validates once before its first iteration.

    Raises
    ------
    InputError
        If fewer than `LEAST` iterations fit.
    """
    learnt, judged = cases
    rest = SPARE * budget_s - STARTING_S - timing.load_s * (learnt + judged)
    once = timing.validate_s * judged
    validations = 0 if not judged else max(1, min(VALIDATIONS, int(VALIDATING * budget_s / max(once, 1e-9))))
    rest -= once * begun
    iterations = int((rest - validations * once) / timing.mean_s(share))
    if iterations < LEAST:
        least = (LEAST * timing.mean_s(share) + once + budget_s - rest) / 60
        what = f"a budget of {budget_s / 60:.1f} min allows {max(0, iterations)} iterations"
        raise InputError(what, todo=f"Give at least --budget {ceil(least) + 1}m, or coarser --set values")
    return Length(min(iterations, MOST), validations)


def parse_time(text: str) -> float:
    """`6h`, `90m`, `300s`, `1h30m` -> seconds.

    Raises
    ------
    InputError
        If it is not a positive time.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    match = re.fullmatch(r"(?:([0-9.]+)h)?(?:([0-9.]+)m)?(?:([0-9.]+)s)?", text.strip().lower())
    try:
        parts = zip(match.groups(), units.values(), strict=True) if match else ()
        seconds = sum(float(number) * unit for number, unit in parts if number)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise InputError(f"found the time {text!r}, wanted one such as 6h, 90m or 1h30m")
    return seconds


def _measure(config: TrainConfig, start: ModelBundle | None) -> Timing:
    """In the process of its own."""
    from c3s3_seg.training.data import Sampler, read_splits, read_validation
    from c3s3_seg.training.run import Run, warm_start
    from c3s3_seg.training.start import begin_from
    from c3s3_seg.training.train import deterministic

    keep_pages()
    deterministic(config)
    data, splits = read_splits(config.data)
    judged = (splits.validation or splits.labelled)[:1]
    few = replace(splits, labelled=splits.labelled[:READ], unlabelled=splits.unlabelled[:READ])
    began = time.perf_counter()
    sampler = Sampler.of(config, data, few)
    read = len(sampler.labelled) + len(sampler.unlabelled)
    load_s = (time.perf_counter() - began) / read
    run = Run(config, Path("unused"))
    if start is not None:
        begin_from(run, start)
    seconds = []
    before = _scheduled()
    for first in (0, warm_start(config)):
        run.iteration, taken = first, []
        for _ in range(STEPS + 1):
            began = time.perf_counter()
            run.step(sampler.batch(run.iteration, run.method.views(run.iteration)))
            taken.append(time.perf_counter() - began)
        seconds.append(median(taken[1:]))
    waited = _share_waited(before, _scheduled())
    cases = read_validation(data, judged)
    run.validate(cases)  # the first also loads what it needs
    began = time.perf_counter()
    run.validate(cases)
    return Timing(
        warm_s=seconds[0],
        full_s=seconds[1],
        validate_s=time.perf_counter() - began,
        load_s=load_s,
        case_bytes=sum(case.stack.nbytes for case in (*sampler.labelled, *sampler.unlabelled)) // read,
        peak_bytes=_peak_bytes(),
        waited=waited,
    )


def _scheduled() -> tuple[int, int]:
    """Of all threads of this process: ns on a processor, and ns ready without one (Linux: schedstat)."""
    ran = waited = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread that has just ended
            on, ready, _ = map(int, path.read_text(encoding="ascii").split())
            ran, waited = ran + on, waited + ready
    return ran, waited


def _share_waited(before: tuple[int, int], after: tuple[int, int]) -> float:
    ran, waited = (max(0, b - a) for a, b in zip(before, after, strict=True))
    return waited / max(1, ran + waited)


def _peak_bytes() -> float:
    """The largest resident size of this process so far, or what torch took of a GPU, where that is more."""
    import torch

    host = 0.0
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        host = float(found[1]) * 1024 if found else 0.0
    return max(host, float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0)


def free_bytes() -> float:
    """Memory that this machine could give to a run now; inf where it does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return inf
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="utf-8"))
    return float(found[1]) * 1024 if found else inf
