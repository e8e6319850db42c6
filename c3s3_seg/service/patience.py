"""Growing waits before something that failed, or had no room, is tried again."""

from __future__ import annotations

from dataclasses import dataclass, field

from c3s3_seg.errors import InputError
from c3s3_seg.service.database import Clock

FULL = "the spool has no room, or a study is larger than allowed; it is tried again later"
LONGEST_S = 3600.0


class NoRoomError(InputError):
    """A file that had no room in the spool."""


@dataclass
class Patience:
    """Growing waits before failed items are retried, so that they do not hold up other items.

    Parameters
    ----------
    first_s
        Half of the first wait; each further wait is twice as long, up to an hour.
    clock
        Clock of the service.
    """

    first_s: float
    clock: Clock
    _failed: dict[str, tuple[int, float]] = field(default_factory=dict)  # item -> failures, due time

    def is_due(self, what: str) -> bool:
        """Return whether an item may be tried."""
        wait = self._failed.get(what, (0, 0.0))[1] - self.clock()
        return not 0 < wait <= LONGEST_S  # longer than any wait: the clock was set back

    def failures(self, what: str) -> int:
        """Return how often an item has failed since it last succeeded."""
        return self._failed.get(what, (0, 0.0))[0]

    def failed(self, what: str) -> None:
        """Record one more failure of an item."""
        times = self.failures(what) + 1
        self._failed[what] = times, self.clock() + min(LONGEST_S, self.first_s * 2.0 ** min(times, 30))

    def succeeded(self, what: str) -> None:
        """Forget the failures of an item."""
        self._failed.pop(what, None)
