"""Counters in memory, which the monitor shows. No label is ever a value of a DICOM header."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

LATE_S = 300.0  # a source may fail, or not answer, this long before the service reports that it is not ready


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
        Source -> time of its last success, seconds since 1970.
    source_due
        Source that is being inspected -> time by which the present step should have ended.
    """

    failures: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    source_errors: dict[str, str] = field(default_factory=dict)
    source_seen: dict[str, float] = field(default_factory=dict)
    source_due: dict[str, float] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

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

    def expect(self, name: str, due: float) -> None:
        """Record that a step of inspecting a source begins, and when it should have ended."""
        with self._turn:
            self.source_due[name] = due

    def source(self, name: str, when: float, error: str = "") -> None:
        """Record that a source was inspected, with or without an error."""
        with self._turn:
            self.source_due.pop(name, None)
            self.source_errors[name] = error
            if not error:
                self.source_seen[name] = when
