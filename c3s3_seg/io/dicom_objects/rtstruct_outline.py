"""Closed contours, and the relation of two contours: apart, one within the other, or crossing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Nearer than this, in voxels, two outlines are the same: planning systems round to a tenth of a mm.
NEAR_VOX = 0.2
STEP_VOX = 0.25  # distance of the points at which an outline is compared
# A contour that lies within another one, but everywhere this near to its line, or with this part on it, may
# as well be the same contour drawn again.
THIN_VOX, MOST_SHARED = 0.6, 0.3
SEEN_VOX = 1.0  # longer distances are not distinguished
RUN = 128  # points of an outline compared at once: few edges of the other outline are near them

# Limit of points times edges on a slice: this takes minutes, two contours of 40,000 points would take hours.
MOST_WORK = 1 << 32
# Limit of points of all compared lines on a slice, which are held: 128 MiB. The lines around each voxel of
# 512 x 512 have a quarter of it.
MOST_POINTS = 1 << 23

Relation = Literal["apart", "same", "within", "around", "cross", "unclear"]


class TooManyPairs(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """More contours, or more points of them, lie over each other than are compared."""


def check_points(count: int) -> None:
    """Raise TooManyPairs if so many points would take all memory."""
    if count > MOST_POINTS:
        raise TooManyPairs(f"their lines are {count * STEP_VOX:.3g} voxels long in all, too long to compare")


def check_work(work: int) -> None:
    """Raise TooManyPairs if so much work would take hours."""
    if work > MOST_WORK:
        raise TooManyPairs("their lines have more points than can be compared with each other")


@dataclass(frozen=True)
class Outline:
    """A closed contour (n, 2), as (i, j) in voxels."""

    polygon: Floats

    @cached_property
    def is_keyhole(self) -> bool:
        """Whether the contour runs along a slit, there and back."""
        starts, ends = self.polygon, np.roll(self.polygon, -1, axis=0)
        limits = np.minimum(np.linalg.norm(ends - starts, axis=1) / 4, NEAR_VOX)
        # Edges that begin near the end of another edge are adjacent in the order of their starts along i.
        order = np.argsort(starts[:, 0])
        low = np.searchsorted(starts[order, 0], ends[:, 0] - limits - 1e-9)
        high = np.searchsorted(starts[order, 0], ends[:, 0] + limits + 1e-9, side="right")
        check_work(int((high - low).sum()))
        for n, (first, stop) in enumerate(zip(low, high, strict=True)):
            near = order[first:stop]
            off = np.maximum(np.abs(ends[near] - starts[n]), np.abs(starts[near] - ends[n])).max(axis=1)
            if (off <= limits[n]).any():
                return True
        return False

    @property
    def point_count(self) -> int:
        """The number of `points`, which are not computed for it."""
        return int(self._counts.sum())

    @property
    def _counts(self) -> NDArray[np.int_]:
        """(n,): the number of points on each edge, its start included."""
        run = np.roll(self.polygon, -1, axis=0) - self.polygon
        return np.asarray(np.maximum(np.ceil(np.linalg.norm(run, axis=1) / STEP_VOX), 1).astype(int))

    @cached_property
    def points(self) -> Floats:
        """(m, 2): the corners of the contour, and points between them."""
        run = np.roll(self.polygon, -1, axis=0) - self.polygon
        counts = self._counts
        edge = np.repeat(np.arange(len(run)), counts)
        number = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(self.polygon[edge] + run[edge] * (number / counts[edge])[:, None])

    def takes(self, turns: NDArray[np.int32]) -> Bools:
        """Return whether points with these winding numbers are inside.

        A point surrounded twice, where the line overlaps itself, is inside, unless the line is a keyhole.
        """
        odd, twice = turns % 2 == 1, (turns != 0) & (turns % 2 == 0)
        return np.asarray(odd | twice if twice.any() and not self.is_keyhole else odd)


def inside(polygon: Floats, shape: tuple[int, int]) -> Bools:
    """Return which points of a grid lie in a closed polygon, by the even-odd rule.

    Parameters
    ----------
    polygon
        (n, 2): corners as (i, j), in voxels; the last corner is joined to the first.
    shape
        Numbers of points along i, j.

    Returns
    -------
    array
        (i, j) bool. A point on the edge is inside on the low side and outside on the high side.
    """
    return np.asarray(turns(polygon, shape) % 2 == 1)


def turns(polygon: Floats, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return the winding number (i, j) of a polygon at each point of a grid; negative for the other way."""
    ends = np.roll(polygon, -1, axis=0)
    low, high = np.minimum(polygon[:, 1], ends[:, 1]), np.maximum(polygon[:, 1], ends[:, 1])
    first = np.clip(np.ceil(low), 0, shape[1]).astype(int)
    count = np.clip(np.ceil(high), 0, shape[1]).astype(int) - first
    edge = np.repeat(np.arange(len(polygon)), count)
    j = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    start, run = polygon[edge], (ends - polygon)[edge]
    crossing = start[:, 0] + (j - start[:, 1]) * run[:, 0] / run[:, 1]
    steps = np.zeros((shape[0] + 1, shape[1]), dtype=np.int32)
    np.add.at(steps, (np.clip(np.ceil(crossing), 0, shape[0]).astype(int), j), np.sign(run[:, 1]).astype(int))
    return np.asarray(np.cumsum(steps[:-1], axis=0, dtype=np.int32))


def work_of(one: Outline, other: Outline) -> int:
    """Return how many points times edges are compared, at most, to relate two contours."""
    return _work(one, other) + _work(other, one)


def _work(one: Outline, other: Outline) -> int:
    low, high = other.polygon.min(axis=0) - NEAR_VOX, other.polygon.max(axis=0) + NEAR_VOX
    points = np.count_nonzero(((one.points >= low) & (one.points <= high)).all(axis=1))
    top, bottom = one.polygon[:, 1].min() - SEEN_VOX, one.polygon[:, 1].max() + SEEN_VOX
    start, end = other.polygon[:, 1], np.roll(other.polygon[:, 1], -1)
    edges = np.count_nonzero((np.maximum(start, end) >= top) & (np.minimum(start, end) <= bottom))
    return int(points) * int(edges)


def relate(one: Outline, other: Outline) -> Relation:
    """Return how two contours lie to each other; a point nearer than `NEAR_VOX` is on the line.

    `within`: the first lies within the second. Contours that only touch are apart.
    """
    first, second = _Lies.of(one, other), _Lies.of(other, one)
    if (first.inside and first.outside) or (second.inside and second.outside):
        return "cross"
    if not (first.inside or first.outside or second.inside or second.outside):
        return "same"
    if not (first.inside or second.inside):
        return "apart"
    inner = first if first.inside else second
    if (first.inside and second.inside) or inner.shared > MOST_SHARED or inner.farthest_vox <= THIN_VOX:
        return "unclear"
    return "within" if first.inside else "around"


@dataclass(frozen=True)
class _Lies:
    """The position of the line of a contour with respect to another contour.

    `inside`, `outside`: whether it has points there, off the other line; `shared`: the part of its points on
    the other line; `farthest_vox`: the largest distance from the other line.
    """

    inside: bool
    outside: bool
    shared: float
    farthest_vox: float

    @classmethod
    def of(cls, one: Outline, other: Outline) -> _Lies:
        low, high = other.polygon.min(axis=0) - NEAR_VOX, other.polygon.max(axis=0) + NEAR_VOX
        points = one.points[((one.points >= low) & (one.points <= high)).all(axis=1)]
        beyond = len(one.points) - len(points)  # outside, whatever the edges are
        if not len(points):
            return cls(False, True, 0.0, SEEN_VOX)
        start, end = other.polygon, np.roll(other.polygon, -1, axis=0)
        parts = [points[n : n + RUN] for n in range(0, len(points), RUN)]
        distance = np.concatenate([_distance(part, start, end) for part in parts])
        within = other.takes(np.concatenate([_turns_at(part, start, end) for part in parts]))
        far = distance > NEAR_VOX
        return cls(
            bool((far & within).any()),
            bool(beyond or (far & ~within).any()),
            float((~far).sum()) / len(one.points),
            SEEN_VOX if beyond else float(distance.max()),
        )


def _distance(points: Floats, start: Floats, end: Floats) -> Floats:
    """Return the distance (n,) from each point to the nearest of the edges, up to `SEEN_VOX`."""
    low, high = points.min(axis=0) - SEEN_VOX, points.max(axis=0) + SEEN_VOX
    seen = ((np.maximum(start, end) >= low) & (np.minimum(start, end) <= high)).all(axis=1)
    start, run = start[seen], (end - start)[seen]
    offset = points[:, None] - start
    part = (offset * run).sum(axis=2) / np.maximum((run * run).sum(axis=1), 1e-12)
    away = np.linalg.norm(offset - np.clip(part, 0, 1)[..., None] * run, axis=2)
    return np.asarray(away.min(axis=1, initial=SEEN_VOX))


def _turns_at(points: Floats, start: Floats, end: Floats) -> NDArray[np.int32]:
    """Return the winding number (n,) of a polygon at each point."""
    x, y = points[:, :1], points[:, 1:]
    seen = (np.maximum(start, end)[:, 1] >= y.min()) & (np.minimum(start, end)[:, 1] <= y.max())
    start, run = start[seen], (end - start)[seen]
    crosses = (start[:, 1] > y) != (start[:, 1] + run[:, 1] > y)
    height = np.where(run[:, 1] == 0, 1, run[:, 1])
    before = start[:, 0] + (y - start[:, 1]) * run[:, 0] / height < x
    return np.asarray(np.where(crosses & before, np.sign(run[:, 1]), 0).sum(axis=1), dtype=np.int32)
