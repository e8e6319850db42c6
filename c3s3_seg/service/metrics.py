"""Counters in memory, which the monitor shows. No label is ever a value of a DICOM header."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

LATE_S = 300.0  # a source may fail, or not answer, this long before the service reports that it is not ready
SERVICE = "service"  # the main loop, which is watched as the sources are
NO_ANSWER = "it has not answered for minutes"
NO_TICK = "it has not looked at the queue for minutes"


@dataclass
class Metrics:
    """Counters of the service since its start, and the times of its sources.

    Parameters
    ----------
    failures
        Kind -> number of failed attempts and refused files.
    refused
        Reason -> number of refused associations.
    seconds, times
        Stage -> seconds spent in the stage; number of times.
    totals
        Numbers of files, bytes, objects, studies and studies passed over.
    source_errors
        Source -> its present error; "" if there is none.
    source_seen
        Source -> time of its last success, seconds since 1970. Only shown: the clock may be set back.
    monotonic
        Called to get the seconds since some moment, which no change of the clock affects.
    """

    failures: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    source_errors: dict[str, str] = field(default_factory=dict)
    source_seen: dict[str, float] = field(default_factory=dict)
    monotonic: Callable[[], float] = time.monotonic
    _answered: dict[str, float] = field(default_factory=dict)  # source -> monotonic time of its last success
    _due: dict[str, float] = field(default_factory=dict)  # source -> when its present step should have ended
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Record the start, from which the time of a source counts that has never answered."""
        self._started = self.monotonic()

    def failed(self, kind: str) -> None:
        """Count a failed attempt or a refused file."""
        with self._turn:
            self.failures[kind] += 1

    def refuse(self, reason: str) -> None:
        """Count a refused association."""
        with self._turn:
            self.refused[reason] += 1

    def received(self, size: int) -> None:
        """Count a file that was taken, and its bytes."""
        with self._turn:
            self.totals["files"] += 1
            self.totals["bytes"] += size

    def add(self, name: str) -> None:
        """Add one to a counter of `totals`: studies, objects, passed_over."""
        with self._turn:
            self.totals[name] += 1

    def spent(self, stage: str, seconds_s: float) -> None:
        """Add the time that a stage of a study took."""
        with self._turn:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds_s
            self.times[stage] += 1

    def expect(self, name: str, limit_s: float) -> None:
        """Record that a step of inspecting a source begins, and how long it may take."""
        with self._turn:
            self._due[name] = self.monotonic() + limit_s

    def source(self, name: str, when: float, error: str = "") -> None:
        """Record that a source was inspected at `when`, seconds since 1970, with or without an error."""
        with self._turn:
            self._due.pop(name, None)
            self.source_errors[name] = error
            if not error:
                self.source_seen[name] = when
                self._answered[name] = self.monotonic()

    def source_faults(self) -> dict[str, str]:
        """Return source -> its error if it has lasted for `LATE_S`, or that it hangs; "" if there is none."""
        with self._turn:
            now = self.monotonic()
            faults = {name: self._lasting(name, now) for name in self.source_errors}
            hanging = [name for name, due in self._due.items() if now > due]
            if now - self._answered.get(SERVICE, now) > LATE_S:
                faults[SERVICE] = faults[SERVICE] or NO_TICK
        return faults | {name: faults.get(name) or NO_ANSWER for name in hanging}

    def _lasting(self, name: str, now: float) -> str:
        late = now - self._answered.get(name, self._started) > LATE_S
        return self.source_errors[name] if late else ""
