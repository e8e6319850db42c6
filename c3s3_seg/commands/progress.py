"""Progress reports of a long run: text on stderr for people, JSON lines on stdout for machines."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from c3s3_seg.commands.console import Status, counted
from c3s3_seg.commands.events import Events
from c3s3_seg.errors import InputError, public
from c3s3_seg.system.schema import plain
from c3s3_seg.version import __version__

if TYPE_CHECKING:
    from c3s3_seg.batch import BatchProgress
    from c3s3_seg.batch.other_cases import OtherCases
    from c3s3_seg.batch.records import Outcome
    from c3s3_seg.report.rows import PredictionRow

EVERY_S = 30.0  # least time between two lines of progress in a log file


class ProgressReporter:
    """A context manager that reports a batch's progress; call it with each `BatchProgress`.

    Parameters
    ----------
    events
        Writer of the events for machines.
    quiet
        Whether to print nothing on stderr.
    verbose
        Whether to print the settings of the masks, and the steps of each case with their seconds.

    Raises
    ------
    InputError
        If both are set.
    """

    def __init__(self, events: Events, *, quiet: bool, verbose: bool = False) -> None:
        if events.wanted:
            events.ending = _end(None)
        if quiet and verbose:
            raise InputError("found --quiet and --verbose, wanted one of them")
        self._events, self._quiet, self._verbose = events, quiet, verbose
        self._status = Status()
        self._last = time.monotonic()
        self._text = "the first case"

    def __enter__(self) -> ProgressReporter:
        if not self._quiet:
            self._status.__enter__()
        return self

    def __call__(self, progress: BatchProgress) -> None:
        """Report the progress of the batch."""
        if progress.outcome is None and not self._quiet:
            # Compiling and running the network now leave Python idle.
            threading.Thread(target=_load_tables, daemon=True).start()
        if self._events.wanted:
            self._events.ending = _end(progress)
            self._report(progress)
        if self._quiet:
            return
        if progress.note:
            self._status.note(progress.note)
        for item in progress.skipped:
            self._status.note(f"passed over: {item}")
        if progress.outcome is not None and progress.outcome.skipped is not None:
            first, more, _ = str(progress.outcome.skipped).partition("; ")  # the JSON lines have all reasons
            self._status.note(f"passed over: {first}{' ...' if more else ''}")
        if self._verbose:
            self._status.note(_details(progress))
        self._text = text = _text(progress)
        self._status(text)
        if not self._status.live and time.monotonic() - self._last > EVERY_S:
            self._last = time.monotonic()
            self._status.note(text)

    def part(self, what: str, done: int = 0, total: int = 0) -> None:
        """Report the progress of the present case, see `Progress`."""
        if not self._quiet:
            self._status(f"{self._text}; {counted(what, done, total)}")

    def __exit__(self, *_: object) -> None:
        if not self._quiet:
            self._status.__exit__()

    def _report(self, progress: BatchProgress) -> None:
        """Write the events of one step; the log file has kept cases from the run that processed them."""
        if progress.outcome is not None:
            self._events("case", _case(progress, progress.outcome))
            return
        self._events("start", _start(progress))
        for item in progress.skipped:
            self._events("skipped", {"run": progress.run, **asdict(item)})
        for outcome in progress.kept:
            self._events("case", _case(progress, outcome, kept=True), logged=False)
        for outcome in progress.refused:
            self._events("case", _case(progress, outcome))


def _load_tables() -> None:
    """Import in advance the modules that print the final table."""
    import rich.console
    import rich.table  # noqa: F401

    import c3s3_seg.report.terminal  # noqa: F401


def _text(progress: BatchProgress) -> str:
    left = "" if progress.left_s is None else f", about {duration(progress.left_s)} left"
    last = "" if progress.outcome is None else f": {progress.outcome.case}"
    return f"{progress.done} of {progress.total} done{left}{last}"


SETUP = (
    "bundle",
    "backend",
    "device",
    "precision",
    "networks",
    "overlap",
    "stride",
    "weighting",
    "mirroring",
)


def _details(progress: BatchProgress) -> str:
    """Return the settings, before the first case; afterwards the state of the last case."""
    outcome = progress.outcome
    if outcome is None:
        known = {key: progress.made_with.get(key) for key in SETUP}
        return ", ".join(f"{key} {value}" for key, value in known.items() if value not in (None, []))
    steps = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in outcome.seconds.items())
    why = f": {outcome.failure.reason}" if outcome.failure is not None else ""
    verdict = f"; domain check: {outcome.verdict}" if outcome.verdict else ""
    return f"{outcome.case}: {_state(outcome)}{why}{verdict}{f'; {steps}' if steps else ''}"


def duration(seconds_s: float) -> str:
    """Return a time as people plan with it: `40 s`, `12 min`, `3.4 h`, `2.1 days`."""
    if seconds_s < 60:
        return f"{seconds_s:.0f} s"
    if seconds_s < 3600:
        return f"{seconds_s / 60:.0f} min"
    return f"{seconds_s / 3600:.1f} h" if seconds_s < 172_800 else f"{seconds_s / 86_400:.1f} days"


def _state(outcome: Outcome) -> str:
    from c3s3_seg.batch.records import STOPPED

    if outcome.refusal is not None and outcome.refusal.step == STOPPED:
        return "not done"
    if outcome.row is None:
        return "skipped" if outcome.passed_over else "failed"
    return "nothing found" if outcome.row.empty else "done"


# The content of the events; docs/operations.md describes the keys. Each event has all keys of its kind.
def _start(progress: BatchProgress) -> dict[str, Any]:
    counts = progress.counts
    return {
        "run": progress.run,
        "model": progress.made_with.get("bundle"),
        "version": __version__,
        "cases": counts.cases,
        "total": progress.total,
        "kept": counts.kept,
        "failed": counts.failed,
        "skipped": counts.skipped,
        "left": progress.left,
        "note": progress.note,
    }


def _case(progress: BatchProgress, outcome: Outcome, *, kept: bool = False) -> dict[str, Any]:
    row, told = outcome.row, outcome.failure or outcome.skipped
    content: dict[str, Any] = {
        "run": progress.run,
        "case": outcome.case,
        "state": _state(outcome),
        "kept": kept,
        "segmented": not kept and "network" in outcome.seconds,
        "scan": outcome.scan,
        "verdict": outcome.verdict,
        "warnings": None,
        "forced": None,
        "empty": None,
        "needs_review": None,
        "volume_ml": None,
        "uncertainty_mm": None,
        "uncertainty_limit_mm": None,
        "uncertain": None,
        "model": None,
        "version": None,
        "reason": None if told is None else public(told.reason),
        "seconds": outcome.seconds,
        "outputs_sha256": outcome.outputs,
        "done": progress.done,
        "total": progress.total,
        "left_s": None if progress.left_s is None else round(progress.left_s, 1),
    }
    return content if row is None else content | _result(row)


def _result(row: PredictionRow) -> dict[str, Any]:
    return {
        "warnings": [public(warning) for warning in row.warnings],
        "forced": row.forced,
        "empty": row.empty,
        "needs_review": row.needs_review,
        "volume_ml": dict(row.volumes_ml),
        "uncertainty_mm": plain(dict(row.uncertainty_mm)) if row.uncertainty_mm else None,
        "uncertainty_limit_mm": row.uncertainty_limit_mm,
        "uncertain": row.uncertain,
        "model": row.model,
        "version": row.version,
    }


def _end(progress: BatchProgress | None) -> dict[str, Any]:
    """Return the final counts; zeros if the run ended before it had inspected the cases."""
    from c3s3_seg.batch.counts import Counts

    counts = Counts() if progress is None else progress.counts
    ending = {"run": progress and progress.run, **asdict(counts), "left": counts.left}
    return {**ending, "others": None, "others_left_out": None}


def add_others(events: Events, others: OtherCases) -> None:
    """Add the finished cases of earlier runs to the final counts: those in the table, and the rest."""
    events.ending |= {"others": len(others.rows), "others_left_out": others.left_out}
