"""How to read a scan: which series of several, and which faults may be mended."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from c3s3_seg.errors import InputError
from c3s3_seg.schema import closed

Fix = Literal["gaps", "tilt", "orthonormal"]


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
    """

    modality: str | None = None
    description: str | None = None
    exclude: str | None = None

    def __post_init__(self) -> None:
        for pattern in (self.description, self.exclude):
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise ValueError(f"a regular expression ('{pattern}': {error})") from None

    def takes(self, modality: str, description: str) -> bool:
        """Whether a series of this modality and description is meant."""
        if self.modality is not None and modality.upper() != self.modality.upper():
            return False
        if self.description is not None and not re.search(self.description, description, re.IGNORECASE):
            return False
        return self.exclude is None or not re.search(self.exclude, description, re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """How to read.

    Parameters
    ----------
    series
        Number (from 1) or UID of the series to take from a folder; None takes the only volume.
    fix
        Faults to mend, each recorded in the notes of the volume: `gaps` resamples missing or unevenly
        spaced slices, `tilt` undoes the shear of a tilted gantry, `orthonormal` takes the nearest
        rotation for axes that are not quite perpendicular. None is mended unasked.
    rule
        Which series to take among several, where `series` does not say.
    """

    series: int | str | None = None
    fix: frozenset[Fix] = frozenset()
    rule: SeriesRule | None = None


def fixes(names: Collection[str]) -> frozenset[Fix]:
    """Names of repairs -> a set of them.

    Raises
    ------
    InputError
        If one is unknown.
    """
    known = get_args(Fix)
    for name in names:
        if name not in known:
            raise InputError(f"there is no repair '{name}'; wanted {', '.join(known)}")
    return frozenset(names)  # type: ignore[arg-type]
