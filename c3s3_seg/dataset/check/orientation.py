"""Find cases with confused axes: compare thumbnails in all 48 turns with the mean of all others."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from c3s3_seg.dataset.check.correlation import TURNS, correlation, cube, mean_of_others
from c3s3_seg.dataset.check.thumbnail import Thumbnail
from c3s3_seg.report.findings import Finding

LEAST = 5  # cases: a mean of fewer is dominated by single cases
SIZE = 20  # voxels of a cube's side
ACROSS = 14  # voxels across a usual field of view
# Gain by a turn that marks a turned case. Clean: at most 0.055 (80 atria), -0.15 (195 hippocampi), -0.10
# (22 phantoms). Of cases turned by one flip, 5 % gain less than: 0.14, 0.47, 0.13.
GAIN = 0.08
# A turned case is less like the mean than this quantile of the cases; turned back, it nearly reaches it.
USUAL, NEARLY = 0.1, 0.9
# Likeness below which intensities run against the mean of the others, if the usual likeness exceeds the
# second number: clean 0.33 (atria), 0.51, 0.75; inverted: -0.56.
UNLIKE, CLEAR = 0.0, 0.3
AXES = ("left-right", "front-back", "foot-head")


@dataclass(frozen=True)
class Likeness:
    """The likeness of a case to the mean of the others: as it is, and in the best turn."""

    as_is: float
    best: float
    turn: str
    usual: float

    @property
    def gain(self) -> float:
        """The gain in likeness by the best turn; above `GAIN`, a case is turned."""
        return self.best - self.as_is

    @property
    def is_permuted(self) -> bool:
        """Whether the case would be clearly more like the others if it were turned."""
        return self.gain > GAIN and self.as_is < self.usual and self.best > NEARLY * self.usual

    @property
    def is_unlike(self) -> bool:
        """Whether the case is unlike the others, which are alike, and no turn helps."""
        return not self.is_permuted and self.as_is < UNLIKE and self.usual > CLEAR


def likeness(thumbnails: Mapping[str, Thumbnail]) -> dict[str, Likeness]:
    """Compare each case with the others; return nothing for fewer than `LEAST` cases."""
    if len(thumbnails) < LEAST:
        return {}
    fov = np.median([thumbnail.fov_mm for thumbnail in thumbnails.values()], axis=0)
    step_mm = float(np.prod(fov) ** (1 / 3)) / ACROSS
    cubes = [
        cube(t.blurred(0.4 * step_mm), t.spacing_mm, (np.array(t.grey.shape) - 1) / 2, step_mm, SIZE)
        for t in thumbnails.values()
    ]
    rows = []
    for own, mean in zip(cubes, mean_of_others(cubes), strict=True):
        views = (own.turned(turn) for turn in TURNS)
        rows.append([correlation(v.values, mean.values, v.inside & mean.inside) for v in views])
    found = np.array(rows)
    usual = float(np.quantile(found[:, 0], USUAL))
    best = found[:, 1:].argmax(axis=1) + 1
    return {
        name: Likeness(float(row[0]), float(row[n]), _words(n), usual)
        for name, row, n in zip(thumbnails, found, best, strict=True)
    }


def misoriented_cases(alike: Mapping[str, Likeness], erroneous: Container[str] = ()) -> list[Finding]:
    """Return a finding for each case that is turned, or unlike all; a usual case is shown beside it.

    A case that is erroneous in another way is not shown as usual, unless all are.
    """
    typical = max(alike, key=lambda name: (name not in erroneous, alike[name].as_is), default="")
    return [
        _finding(name, one, (name, typical))
        for name, one in alike.items()
        if one.is_permuted or one.is_unlike
    ]


def _finding(name: str, one: Likeness, shown: tuple[str, str]) -> Finding:
    if one.is_permuted:
        found = f"as it is, its correlation with the others is {one.as_is:.2f}; {one.turn} {one.best:.2f}"
        wanted = "voxels where the header says that they are"
        todo = "Look at the letters in the picture; if they are wrong, export the case again"
        return Finding("warning", "orientation", (name,), found, wanted, todo, shown)
    found = f"it is unlike the others in any orientation (correlation {one.as_is:.2f})"
    wanted = "one part of the body, one kind of scan"
    todo = "Look whether it is of the same modality, sequence and part of the body"
    return Finding("warning", "unlike", (name,), found, wanted, todo, shown)


def _words(number: int) -> str:
    order, flips = TURNS[number]
    flipped = " and ".join(AXES[order[axis]] for axis in range(3) if flips[axis])
    swapped = "" if order == (0, 1, 2) else "with its axes in another order"
    return " and ".join(part for part in (swapped, f"flipped {flipped}" if flipped else "") if part)
