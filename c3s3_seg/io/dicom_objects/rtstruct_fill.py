"""The closed contours of a region on one slice -> which voxels are inside (PS3.3, C.8.8.6.1 and C.8.8.6.3).

CLOSEDPLANAR_XOR: a point is inside where an odd number of contours surrounds it, as the standard says.

CLOSED_PLANAR: the standard knows holes only as a "keyhole", a slit from the outer line to an inner one.
Many programs write the inner line as a contour of its own, so one that lies within another is a hole.
Exclusive or would say the same of these, but erases what is drawn twice and digs a hole where contours
cross. So equal contours count once, and crossing ones are united.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.io.dicom_objects.rtstruct_outline import (
    NEAR_VOX,
    Bools,
    Floats,
    Outline,
    Relation,
    TooManyPairs,
    check_work,
    relate,
    turns,
    work_of,
)

# A contour that crosses another one with so much of itself inside may as well be meant as a hole.
MOSTLY_INSIDE = 0.9
# Contours of one slice are compared two by two where their boxes meet: thousands of specks within one outline
# are so few pairs, and thousands over each other would take hours.
MOST_PAIRS = 20_000


class Unclear(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """What is inside cannot be said."""


@dataclass(frozen=True)
class Filled:
    """The voxels of a slice that are inside, and what was done: text -> how many contours it is about."""

    inside: Bools
    notes: Counter[str]


def fill(polygons: Sequence[Floats], shape: tuple[int, int], *, exclusive: bool) -> Filled:
    """Which voxel centres of a slice are inside.

    Parameters
    ----------
    polygons
        Each (n, 2): corners as (i, j), in voxels; the last one is joined to the first.
    shape
        Numbers of voxels along i, j.
    exclusive
        CLOSEDPLANAR_XOR; else CLOSED_PLANAR.

    Raises
    ------
    Unclear
        If contours cross so that nothing says what is a hole.
    TooManyPairs
        If more of them, or more of their points, lie over each other than are compared.
    """
    notes: Counter[str] = Counter()
    found = np.zeros(shape, dtype=np.bool_)
    outlines = [Outline(polygon) for polygon in map(_distinct, polygons) if len(polygon) > 2]
    if exclusive:
        patches = [_Patch.of(outline.polygon, shape) for outline in outlines]
        for patch in patches:
            found[patch.where] ^= patch.turns % 2 == 1
        if not found.any() and any(patch.turns.any() for patch in patches):
            notes["contours of type CLOSEDPLANAR_XOR cancel each other out"] = len(polygons)
    else:
        patches = [_taken(outline, shape, notes) for outline in outlines]
        for n, is_hole in _ordered(outlines, patches, notes):
            patch = patches[n]
            if is_hole:
                found[patch.where] &= patch.turns == 0
            else:
                found[patch.where] |= patch.turns != 0
    empty = len(polygons) - sum(bool(patch.turns.any()) for patch in patches)
    if empty:
        notes["contours enclose no voxel centre of the scan"] += empty
    return Filled(found, notes)


def _distinct(polygon: Floats) -> Floats:
    """Without corners that repeat the one before, the closing one too."""
    return np.asarray(polygon[np.abs(polygon - np.roll(polygon, 1, axis=0)).max(axis=1) > 1e-6])


@dataclass(frozen=True)
class _Patch:
    """The part of a slice that a contour may fill, and how many times it runs round each voxel there."""

    where: tuple[slice, slice]
    turns: NDArray[np.int32]

    @classmethod
    def of(cls, polygon: Floats, shape: tuple[int, int]) -> _Patch:
        low = np.clip(np.floor(polygon.min(axis=0)), 0, shape).astype(int)
        high = np.clip(np.ceil(polygon.max(axis=0)) + 1, low, shape).astype(int)
        where = slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
        size = int(high[0] - low[0]), int(high[1] - low[1])
        return cls(where, turns(polygon - low, size))

    def full(self, shape: tuple[int, int]) -> Bools:
        """(i, j): what it fills."""
        mask = np.zeros(shape, dtype=np.bool_)
        mask[self.where] = self.turns != 0
        return mask


def _taken(outline: Outline, shape: tuple[int, int], notes: Counter[str]) -> _Patch:
    """The patch of a contour, 0 where it is not inside."""
    patch = _Patch.of(outline.polygon, shape)
    mask = outline.takes(patch.turns)
    if (mask & (patch.turns % 2 == 0)).any():
        notes["contours cross themselves: where they overlap is inside"] += 1
    return _Patch(patch.where, np.where(mask, patch.turns, 0))


def _ordered(
    outlines: list[Outline], patches: list[_Patch], notes: Counter[str]
) -> Iterator[tuple[int, bool]]:
    """The numbers of the contours that count, from the outside to the inside, and whether each is a hole."""
    relations = {(a, b): relation for a, b, relation in _relations(outlines)}
    twins = {b for (_, b), relation in relations.items() if relation == "same"}
    if twins:
        notes["contours are there twice and were taken once"] += len(twins)
    kept = [n for n in range(len(outlines)) if n not in twins]
    relations = {pair: relation for pair, relation in relations.items() if not twins & set(pair)}
    group = list(range(len(outlines)))  # the same number for those that cross
    for (a, b), relation in relations.items():
        if relation == "unclear":
            raise Unclear(
                "a contour lies within another one, so near to its line that it may be the same one"
            )
        if relation == "cross":
            _refuse_unclear(patches[a], patches[b])
            group = [group[a] if g == group[b] else g for g in group]
    sizes = Counter(group[n] for n in kept)
    united = sum(size for size in sizes.values() if size > 1)
    if united:
        notes["contours cross and were united"] += united
    around = _around(relations, group)
    for n in sorted(kept, key=lambda n: len(around[group[n]])):
        yield n, len(around[group[n]]) % 2 == 1


def _around(relations: Mapping[tuple[int, int], Relation], group: list[int]) -> dict[int, set[int]]:
    """Of each group of crossing contours: the groups that lie around it."""
    found: dict[int, set[int]] = {g: set() for g in group}
    for (a, b), relation in relations.items():
        if relation in ("within", "around"):
            inner, outer = (a, b) if relation == "within" else (b, a)
            if group[inner] == group[outer]:
                raise Unclear("a contour lies within one that it crosses by way of another")
            found[group[inner]].add(group[outer])
    return found


def _refuse_unclear(one: _Patch, other: _Patch) -> None:
    shape = tuple(max(a.stop, b.stop) for a, b in zip(one.where, other.where, strict=True))
    first, second = one.full((shape[0], shape[1])), other.full((shape[0], shape[1]))
    smaller, larger = sorted((int(first.sum()), int(second.sum())))
    both = int((first & second).sum())
    if smaller and both >= MOSTLY_INSIDE * smaller and smaller < MOSTLY_INSIDE * larger:
        raise Unclear(f"a contour crosses another one, within which {both} of its {smaller} voxels lie")


def _relations(outlines: list[Outline]) -> Iterator[tuple[int, int, Relation]]:
    """Of each two contours that are not apart, the first having the smaller number."""
    if len(outlines) < 2:
        return
    low = np.array([outline.polygon.min(axis=0) for outline in outlines])
    high = np.array([outline.polygon.max(axis=0) for outline in outlines])
    pairs = work = 0
    for a, outline in enumerate(outlines[:-1]):
        near = ((low[a + 1 :] <= high[a] + NEAR_VOX) & (low[a] <= high[a + 1 :] + NEAR_VOX)).all(axis=1)
        pairs += int(near.sum())
        if pairs > MOST_PAIRS:
            raise TooManyPairs(f"more than {MOST_PAIRS} pairs of them lie over each other")
        for b in (a + 1 + np.flatnonzero(near)).tolist():
            work += work_of(outline, outlines[b])
            check_work(work)
            relation = relate(outline, outlines[b])
            if relation != "apart":
                yield a, b, relation
