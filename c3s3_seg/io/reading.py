"""How to read a scan: which series of several, and which faults may be mended."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from c3s3_seg.errors import InputError
from c3s3_seg.system.choices import Repair
from c3s3_seg.system.schema import closed

# A pattern may come with somebody's bundle, and Python's search has no limit of time: over 64 letters (a+)+$
# takes years. What `_slowness` lets through takes seconds at worst.
LONGEST_PATTERN, LONGEST_DESCRIPTION = 200, 64  # characters; the latter is that of DICOM
MOST_WAYS = 21  # 2 to the power of this: ways to match that are tried. A repeat has 2^6, one a character
REPEAT = 6
# The parts of a pattern; an escape or a class is one character to the rest of it.
PARTS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<times>(?:[*+?]|\{\d*,?\d*\})[?+]?)|.", re.DOTALL)


@closed
@dataclass(frozen=True)
class SeriesRule:
    """Which series of a study a model wants, where a folder holds several volumes.

    Parameters
    ----------
    modality
        DICOM modality (MR, CT); None takes any.
    description
        A regular expression to be found in SeriesDescription, upper and lower case alike; None takes any.
    exclude
        A regular expression not to be found in it; None excludes nothing.

    Raises
    ------
    ValueError
        If one is no regular expression, or one that might be searched for without an end.
    """

    modality: str | None = None
    description: str | None = None
    exclude: str | None = None

    def __post_init__(self) -> None:
        for pattern in (self.description, self.exclude):
            try:
                re.compile(pattern or "")
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"a regular expression ('{pattern}': {error})") from None
            why = _slowness(pattern or "")
            if why:
                raise ValueError(f"a regular expression that is found quickly ('{pattern}' {why})")

    def takes(self, modality: str, description: str) -> bool:
        """Whether a series of this modality and description is meant."""
        description = description[:LONGEST_DESCRIPTION]
        if self.modality is not None and modality.upper() != self.modality.upper():
            return False
        if self.description is not None and not re.search(self.description, description, re.IGNORECASE):
            return False
        return self.exclude is None or not re.search(self.exclude, description, re.IGNORECASE)


def _slowness(pattern: str) -> str:
    """What could make the search for a valid regular expression very long; "" if nothing does."""
    if len(pattern) > LONGEST_PATTERN:
        return f"is longer than {LONGEST_PATTERN} characters"
    if re.search(r"\(\?([a-z]*x|#)", pattern):  # they may stand between a group and its repeat
        return "has comments"
    ways, depth, before = [0], 0, ""  # ways of each alternative of the whole pattern
    for part in PARTS.finditer(pattern):
        text, times = part[0], part["times"]
        if times and before != "(":
            once = times[0] == "?"
            if before == ")" and not once:
                return "repeats a group"
            ways[-1] += 1 if once else 0 if times[1:-1].isdigit() else REPEAT
        elif text == "|" and depth:
            ways[-1] += 1
        elif text == "|":
            ways.append(0)
        depth += (text == "(") - (text == ")")
        before = text
    return "has too many repeats and options" if max(ways) > MOST_WAYS else ""


@dataclass(frozen=True)
class Reading:
    """How to read.

    Parameters
    ----------
    series
        Number (from 1) or UID of the series to take from a folder; None takes the only volume.
    repair
        Faults to mend, each recorded in the notes of the volume: `gaps` resamples missing or unevenly
        spaced slices, `tilt` undoes the shear of a tilted gantry, `orthonormal` takes the nearest
        rotation for axes that are not quite perpendicular. None is mended unasked.
    rule
        Which series to take among several, where `series` does not say.
    """

    series: int | str | None = None
    repair: frozenset[Repair] = frozenset()
    rule: SeriesRule | None = None


def repairs(names: Collection[str]) -> frozenset[Repair]:
    """Names of repairs -> a set of them.

    Raises
    ------
    InputError
        If one is unknown.
    """
    known = get_args(Repair)
    for name in names:
        if name not in known:
            raise InputError(f"there is no repair '{name}'; wanted {', '.join(known)}")
    return frozenset(names)  # type: ignore[arg-type]
