"""Find the voxels inside the closed contours of a region on a slice (PS3.3, C.8.8.6.1 and C.8.8.6.3).

CLOSEDPLANAR_XOR: a point is inside if an odd number of contours surrounds it, as the standard states.

CLOSED_PLANAR: the standard defines holes only as a "keyhole", a slit from the outer line to an inner one.
Many programs write the inner line as a contour of its own, so a contour within another one is a hole.
Exclusive or would give the same result for these, but erases a contour that is drawn twice and digs a hole
where contours cross. So equal contours count once, and crossing contours are united.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.io.dicom_objects.rtstruct_outline import (
    NEAR_VOX,
    Bools,
    Floats,
    Outline,
    Relation,
    TooManyPairs,
    check_points,
    check_work,
    relate,
    turns,
    work_of,
)

# A contour that crosses another one, with this part of its voxels inside, may also be meant as a hole.
MOSTLY_INSIDE = 0.9
# Contours of one slice are compared two by two where their boxes meet: thousands of specks within one outline
# give fewer pairs than this, and thousands over each other would take hours.
MOST_PAIRS = 20_000


class Unclear(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """Contours from which the inside cannot be determined."""


@dataclass(frozen=True)
class Filled:
    """The voxels of a slice that are inside, and notes: text -> number of contours that it is about."""

    inside: Bools
    notes: Counter[str]


def fill(polygons: Sequence[Floats], shape: tuple[int, int], *, exclusive: bool) -> Filled:
    """Return which voxel centres of a slice are inside its contours.

    Parameters
    ----------
    polygons
        Contours, each (n, 2): corners as (i, j), in voxels; the last corner is joined to the first.
    shape
        Numbers of voxels along i, j.
    exclusive
        Whether the contours are CLOSEDPLANAR_XOR; else they are CLOSED_PLANAR.

    Raises
    ------
    Unclear
        If contours cross, or nearly coincide, so that holes cannot be determined.
    TooManyPairs
        If more contours, or more of their points, lie over each other than are compared.
    """
    notes: Counter[str] = Counter()
    outlines = [Outline(polygon) for polygon in map(_distinct, polygons) if len(polygon) > 2]
    found, filling = _exclusive(outlines, shape) if exclusive else _united(outlines, shape, notes)
    if exclusive and filling and not found.any():
        notes["contours of type CLOSEDPLANAR_XOR cancel each other out"] = len(polygons)
    empty = len(polygons) - filling
    if empty:
        notes["contours enclose no voxel centre of the scan"] += empty
    return Filled(found, notes)


def _exclusive(outlines: Sequence[Outline], shape: tuple[int, int]) -> tuple[Bools, int]:
    """Return the voxels inside by exclusive or, and the number of contours that enclose a voxel."""
    found, filling = np.zeros(shape, dtype=np.bool_), 0
    for outline in outlines:  # one at a time: hundreds of contours may each cover the slice
        where, around = _winding(outline.polygon, shape)
        found[where] ^= around % 2 == 1
        filling += bool(around.any())
    return found, filling


def _united(outlines: Sequence[Outline], shape: tuple[int, int], notes: Counter[str]) -> tuple[Bools, int]:
    """Return the voxels inside by the rules for CLOSED_PLANAR; see `_exclusive`."""
    relations = _relations(outlines)  # first: it limits how many contours can cover one voxel
    patches = [_Patch.of(outline, shape, notes) for outline in outlines]
    found = np.zeros(shape, dtype=np.bool_)
    for n, is_hole in _ordered(relations, patches, notes):
        patch = patches[n]
        if is_hole:
            found[patch.where] &= ~patch.mask
        else:
            found[patch.where] |= patch.mask
    return found, sum(bool(patch.bits.any()) for patch in patches)


def _distinct(polygon: Floats) -> Floats:
    """Return a polygon without corners that repeat the previous one; also without a closing corner."""
    return np.asarray(polygon[np.abs(polygon - np.roll(polygon, 1, axis=0)).max(axis=1) > 1e-6])


def _winding(polygon: Floats, shape: tuple[int, int]) -> tuple[tuple[slice, slice], NDArray[np.int32]]:
    """Return the part of a slice that a contour may fill, and its winding number at each voxel there."""
    low = np.clip(np.floor(polygon.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(polygon.max(axis=0)) + 1, low, shape).astype(int)
    where = slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
    size = int(high[0] - low[0]), int(high[1] - low[1])
    return where, turns(polygon - low, size)


@dataclass(frozen=True)
class _Patch:
    """The part of a slice that a contour may fill, and the voxels there that it fills, a bit each."""

    where: tuple[slice, slice]
    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, outline: Outline, shape: tuple[int, int], notes: Counter[str]) -> _Patch:
        where, around = _winding(outline.polygon, shape)
        mask = outline.takes(around)
        if (mask & (around % 2 == 0)).any():
            notes["contours cross themselves: where they overlap is inside"] += 1
        return cls(where, np.packbits(mask))

    @property
    def mask(self) -> Bools:
        """The voxels (i, j) of the part that are filled."""
        size = [part.stop - part.start for part in self.where]
        return np.unpackbits(self.bits, count=size[0] * size[1]).reshape(size).view(np.bool_)

    def full(self, shape: tuple[int, int]) -> Bools:
        """Return the voxels (i, j) of the slice that the contour fills."""
        mask = np.zeros(shape, dtype=np.bool_)
        mask[self.where] = self.mask
        return mask


def _ordered(
    relations: dict[tuple[int, int], Relation], patches: list[_Patch], notes: Counter[str]
) -> Iterator[tuple[int, bool]]:
    """Yield the number of each contour that counts, from outside to inside, and whether it is a hole."""
    twins = {b for (_, b), relation in relations.items() if relation == "same"}
    if twins:
        notes["contours are there twice and were taken once"] += len(twins)
    kept = [n for n in range(len(patches)) if n not in twins]
    relations = {pair: relation for pair, relation in relations.items() if not twins & set(pair)}
    group = list(range(len(patches)))  # the same number for contours that cross
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
    """Return, for each group of crossing contours, the groups that lie around it."""
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


def _relations(outlines: Sequence[Outline]) -> dict[tuple[int, int], Relation]:
    """Return the relation of each two contours that are not apart, by their numbers, the smaller first."""
    found: dict[tuple[int, int], Relation] = {}
    pairs = _near(outlines)
    check_points(sum(outlines[n].point_count for n in set(chain.from_iterable(pairs))))
    work = 0
    for a, b in pairs:
        work += work_of(outlines[a], outlines[b])
        check_work(work)
        relation = relate(outlines[a], outlines[b])
        if relation != "apart":
            found[a, b] = relation
    return found


def _near(outlines: Sequence[Outline]) -> list[tuple[int, int]]:
    """Return the numbers of each two contours whose boxes meet; raise if there are too many of them."""
    if len(outlines) < 2:
        return []
    low = np.array([outline.polygon.min(axis=0) for outline in outlines])
    high = np.array([outline.polygon.max(axis=0) for outline in outlines])
    pairs: list[tuple[int, int]] = []
    for a in range(len(outlines) - 1):
        near = ((low[a + 1 :] <= high[a] + NEAR_VOX) & (low[a] <= high[a + 1 :] + NEAR_VOX)).all(axis=1)
        pairs += [(a, b) for b in (a + 1 + np.flatnonzero(near)).tolist()]
        if len(pairs) > MOST_PAIRS:
            raise TooManyPairs(f"more than {MOST_PAIRS} pairs of them lie over each other")
    return pairs
