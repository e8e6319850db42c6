"""Time a few real steps of a configuration in a separate process, and find the length that fits a budget."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from math import ceil, inf
from multiprocessing import get_context
from multiprocessing.connection import Connection

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.system.progress import Progress, silent
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.planning.step_costs import Pieces
from c3s3_seg.training.planning.step_costs import Timing as Timing
from c3s3_seg.training.planning.trial import READ as READ
from c3s3_seg.training.planning.trial import STEPS as STEPS
from c3s3_seg.training.planning.trial import serve

LEAST_S = 1.0  # seconds; in less a process does not even start
SPARE = 0.92  # share of the budget that is planned; other work and slow disks take the rest
VALIDATIONS = 8  # wanted number in a run
VALIDATING = 0.2  # largest share of the budget for validation
LEAST = 10  # iterations; fewer are no training
MOST = 6000  # iterations, the published number; more iterations only overfitted
STARTING_S = 5.0  # seconds to load torch and to write the bundle
BUSY = 0.1  # share of the time waited; of two threads, one waiting delays both far more than that


@dataclass(frozen=True)
class Length:
    """The length that a budget allows: iterations and validations (0: no validation cases)."""

    iterations: int
    validations: int

    @property
    def every(self) -> int:
        """Iterations from one validation to the next."""
        return ceil(self.iterations / max(1, self.validations))


@dataclass(frozen=True)
class FixedRhythm:
    """The rhythm of a run that a person set; None: it is chosen.

    Parameters
    ----------
    warm_up
        Iterations of the warm-up.
    validate_every
        Iterations from one validation to the next.
    """

    warm_up: int | None = None
    validate_every: int | None = None


CHOSEN = FixedRhythm()


def time_steps(
    config: TrainConfig,
    start: ModelBundle | None = None,
    limit_s: float = inf,
    report: Progress = silent,
) -> Timing:
    """Time a few steps in a fresh process, so that the memory measured is that of such a run alone.

    Parameters
    ----------
    config
        Configuration with a length that reaches the method's own steps.
    start
        Bundle to begin from.
    limit_s
        Seconds after which the process is ended; values unknown then are assumed, and reported as assumed.
    report
        Called about once a second with the progress.

    Raises
    ------
    InputError
        If the steps raise it: unreadable data, a bundle that does not fit, a loss that is not finite.
    """
    found = Pieces(config)
    if limit_s < LEAST_S:
        return found.timing()
    began = time.monotonic()
    context = get_context("spawn")  # a fork would count this process's memory
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(config, start, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        _listen(ours, found, began, limit_s, report)
    finally:
        process.kill()
        process.join()
        ours.close()
    return found.timing()


def _listen(pipe: Connection, found: Pieces, began: float, limit_s: float, report: Progress) -> None:
    """Take measurements from the process until it ends or dies, or the time is up."""
    while not found.complete:
        spent_s = time.monotonic() - began
        if spent_s >= limit_s:
            return
        limit = f" of at most {limit_s:.0f}" if limit_s < inf else ""
        report(f"{found.words}; {spent_s:.0f}{limit} s")
        if pipe.poll(min(1.0, limit_s - spent_s)):
            try:
                found.take(*pipe.recv())
            except (EOFError, OSError):
                found.died = True
                return


def length(
    timing: Timing,
    budget_s: float,
    cases: tuple[int, int],
    share: float,
    *,
    begun: bool = False,
    fixed: FixedRhythm = CHOSEN,
) -> Length:
    """Return the iterations that fit into a budget, with reading, validating and writing counted.

    Parameters
    ----------
    timing
        Seconds of the parts of a run.
    budget_s
        Wall clock of the whole run.
    cases
        Numbers of training and validation cases.
    share
        Share of the iterations that are the warm-up's.
    begun
        Whether the run begins from a bundle, and so validates once before its first iteration.
    fixed
        Rhythm that replaces `share`, and the chosen number of validations.

    Raises
    ------
    InputError
        If fewer than `LEAST` iterations fit.
    """
    trained_on, validation = cases
    # The domain of the bundle is measured on the training scans at the end: they are read a second time.
    rest = SPARE * budget_s - STARTING_S - timing.load_s * (2 * trained_on + validation)
    once = timing.validate_s * validation
    validations = (
        0 if not validation else max(1, min(VALIDATIONS, int(VALIDATING * budget_s / max(once, 1e-9))))
    )
    rest -= once * begun
    left_s, step_s = rest - validations * once, timing.mean_s(share)
    if fixed.warm_up is not None:
        left_s, step_s = left_s + fixed.warm_up * (timing.full_s - timing.warm_s), timing.full_s
    if validation and fixed.validate_every is not None:
        left_s += (validations - 1) * once  # a validation follows the last iteration in any case
        step_s += once / fixed.validate_every
    iterations = int(left_s / step_s)
    if iterations < LEAST:
        least = (LEAST * timing.mean_s(share) + once + budget_s - rest) / 60
        what = f"a budget of {budget_s / 60:.1f} min allows {max(0, iterations)} iterations"
        raise InputError(what, todo=f"Give at least --budget {ceil(least) + 1}m, or coarser --set values")
    iterations = min(iterations, MOST)
    if validation and fixed.validate_every is not None:
        validations = ceil(iterations / fixed.validate_every)
    return Length(iterations, validations)


def parse_time(text: str) -> float:
    """Return the seconds of a time such as `6h`, `90m`, `300s` or `1h30m`.

    Raises
    ------
    InputError
        If the text is not a positive time.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    match = re.fullmatch(r"(?:([0-9.]+)h)?(?:([0-9.]+)m)?(?:([0-9.]+)s)?", text.strip().lower())
    try:
        parts = zip(match.groups(), units.values(), strict=True) if match else ()
        seconds = sum(float(number) * unit for number, unit in parts if number)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < inf:
        raise InputError(f"found the time {text!r}, wanted one such as 6h, 90m or 1h30m")
    return seconds
