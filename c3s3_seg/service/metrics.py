"""What is counted, in memory: the monitor shows it. No value of a DICOM header is ever a label."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Metrics:
    """Counters of the service since its start, and the times of its sources.

    Parameters
    ----------
    failures
        Kind -> failed attempts and refused files.
    refused
        Reason -> refused associations.
    seconds, times
        Stage -> seconds spent in it; how often.
    totals
        Files, bytes, objects, studies.
    source_errors
        Source -> what is wrong with it now; "" where nothing is.
    source_seen
        Source -> when it last did what it should, seconds since 1970.
    """

    failures: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    source_errors: dict[str, str] = field(default_factory=dict)
    source_seen: dict[str, float] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def failed(self, kind: str) -> None:
        """An attempt failed, or a file was refused."""
        with self._turn:
            self.failures[kind] += 1

    def refuse(self, reason: str) -> None:
        """An association was refused."""
        with self._turn:
            self.refused[reason] += 1

    def received(self, size: int) -> None:
        """A file was taken."""
        with self._turn:
            self.totals["files"] += 1
            self.totals["bytes"] += size

    def add(self, name: str) -> None:
        """Count something of `totals`: studies, objects, passed_over."""
        with self._turn:
            self.totals[name] += 1

    def spent(self, stage: str, seconds_s: float) -> None:
        """A stage of a study took so long."""
        with self._turn:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds_s
            self.times[stage] += 1

    def source(self, name: str, when: float, error: str = "") -> None:
        """A source was looked at, with or without an error."""
        with self._turn:
            self.source_errors[name] = error
            if not error:
                self.source_seen[name] = when
