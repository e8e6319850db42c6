"""Postprocess a finished mask: largest component, least volume, holes; each step only if requested.

Components are labelled a few planes at a time and joined where the planes meet, so that a mask as
large as the scan never needs a second array of 4 bytes per voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.inference.components import label_components

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]

PART = 4_000_000  # voxels that are labelled at a time: 40 MB with the copies of SimpleITK


@dataclass(frozen=True)
class Postprocessing:
    """The steps to apply to the labels of a mask, in this order. Neighbours share a face.

    Parameters
    ----------
    keep_largest
        Whether to keep only the largest connected component.
    min_volume_ml
        Volume below which components are removed, even the last one.
    fill_holes
        Whether background that a label encloses becomes that label.
    """

    keep_largest: bool = False
    min_volume_ml: float = 0.0
    fill_holes: bool = False


def postprocess_all(
    mask: Labels, values: Iterable[int], wanted: Postprocessing, voxel_ml: float
) -> dict[int, dict[str, float]]:
    """Postprocess the labels of a mask (i, j, k), in place.

    Holes are filled last, because removing a part of one label may leave a hole in another.

    Returns
    -------
    dict
        Value -> changes, as returned by `postprocess`; without the labels that did not change.
    """
    first = replace(wanted, fill_holes=False)
    done = {value: postprocess(mask, value, first, voxel_ml) for value in values}
    if wanted.fill_holes:
        for value, filled in _fill_all(mask, done).items():
            done[value] |= {"filled_ml": filled * voxel_ml} if filled else {}
    return {value: changes for value, changes in done.items() if changes}


def _fill_all(mask: Labels, values: Iterable[int]) -> dict[int, int]:
    """Fill the holes of all labels, in place; return value -> number of voxels.

    Of nested labels each encloses the holes of those within it. So holes that border on one label only are
    filled first, with that label. A hole that borders on several goes to the first of `values` around it.
    """
    boxes = {value: box for value in values if (box := _box_of(mask, value)) is not None}
    filled, shared = {}, []
    for value, box in boxes.items():
        filled[value], more = _fill(mask[box], value, bordering_others=False)
        shared += [value] if more else []
    for value in shared:
        filled[value] += _fill(mask[boxes[value]], value)[0]
    return filled


def postprocess(mask: Labels, value: int, wanted: Postprocessing, voxel_ml: float) -> dict[str, float]:
    """Postprocess one label of a mask (i, j, k), in place.

    Returns
    -------
    dict
        Changes in ml: `removed_ml` and `filled_ml`, each only if not 0. Empty if nothing changed.
    """
    box = _box_of(mask, value)
    if box is None:
        return {}
    inside = mask[box]
    removed = filled = 0
    if wanted.keep_largest or wanted.min_volume_ml > 0:
        removed = _remove(inside, value, wanted, voxel_ml)
    if wanted.fill_holes:
        filled, _ = _fill(inside, value)
    done = {"removed_ml": removed * voxel_ml, "filled_ml": filled * voxel_ml}
    return {name: ml for name, ml in done.items() if ml}


def _remove(inside: Labels, value: int, wanted: Postprocessing, voxel_ml: float) -> int:
    found = _Components(inside, lambda part: part == value)
    kept = found.sizes * voxel_ml >= wanted.min_volume_ml
    if wanted.keep_largest:
        kept &= np.arange(len(kept)) == found.sizes.argmax()
    return 0 if kept.all() else found.write(~kept, 0)


def _fill(inside: Labels, value: int, *, bordering_others: bool = True) -> tuple[int, bool]:
    """Fill the holes of a label in its box; return the number of voxels, and whether others lie in holes.

    Parameters
    ----------
    inside, value
        The mask in the box around the label, changed in place, and the label.
    bordering_others
        Whether to fill also the background that borders on other labels within the same hole.
    """
    outside = _Components(inside, lambda part: part != value, find_labels=True)
    holes = ~outside.at_edge
    chosen = holes if bordering_others else holes & ~outside.labelled
    filled = outside.write(chosen, value, only=0) if chosen.any() else 0
    return filled, bool((holes & outside.labelled).any())


class _Components:
    """6-connected components of part of an array: their sizes, and which touch its faces or hold labels.

    Parameters
    ----------
    array
        Array (i, j, k).
    choose
        Function: a part of the array -> mask of the voxels to label.
    find_labels
        Whether to set `labelled`: which components hold another value than 0.
    """

    def __init__(self, array: Labels, choose: Callable[[Labels], Mask], *, find_labels: bool = False) -> None:
        self._array, self._choose = array, choose
        sizes, links = [np.zeros(0, np.int64)], []
        edges, labelled = [np.zeros(0, np.bool_)], [np.zeros(0, np.bool_)]
        count = before = 0
        above: NDArray[np.int32] | None = None
        for part, labels, found in self._parts():
            sizes.append(np.bincount(labels.ravel(), minlength=found + 1)[1:])
            edges.append(_touching(labels, found, first=above is None))
            if find_labels:
                labelled.append(_present(found, labels[(labels > 0) & (array[part] > 0)]))
            if above is not None:
                pairs = np.stack([above.ravel(), labels[0].ravel()])
                met = np.unique(pairs[:, (pairs > 0).all(axis=0)], axis=1) - 1
                links.append(np.stack([met[0] + count - before, met[1] + count]))
            before, above = found, labels[-1].copy()
            count += found
        if above is not None:
            edges[-1] |= np.isin(np.arange(1, before + 1), above)
        self._join(count, links)
        count = self._group.max(initial=-1) + 1
        self.sizes = np.bincount(self._group, np.concatenate(sizes), minlength=count)
        self.at_edge = np.bincount(self._group, np.concatenate(edges), minlength=count) > 0
        if find_labels:
            self.labelled = np.bincount(self._group, np.concatenate(labelled), minlength=count) > 0

    def write(self, chosen: NDArray[np.bool_], value: int, only: int | None = None) -> int:
        """Write a value into the chosen components (where the array holds `only`); return how many voxels."""
        changed = count = 0
        for part, labels, found in self._parts():
            chosen_here = np.concatenate([[False], chosen[self._group[count : count + found]]])
            here = chosen_here[labels]
            if only is not None:
                here &= self._array[part] == only
            self._array[part][here] = value
            changed += int(np.count_nonzero(here))
            count += found
        return changed

    def _parts(self) -> Iterator[tuple[slice, NDArray[np.int32], int]]:
        step = max(1, PART // max(1, self._array[0].size))
        for start in range(0, len(self._array), step):
            part = slice(start, start + step)
            yield part, *label_components(self._choose(self._array[part]))

    def _join(self, count: int, links: list[NDArray[np.int64]]) -> None:
        """Set `_group`, which maps the components of the parts to those of the whole array."""
        if not links:
            self._group = np.arange(count)
            return
        first, second = np.concatenate(links, axis=1)
        group = np.arange(count)  # the lowest number known to belong to the same component
        while True:
            low = np.minimum(group[first], group[second])
            joined = group.copy()
            np.minimum.at(joined, group[first], low)
            np.minimum.at(joined, group[second], low)
            joined = joined[joined]
            if np.array_equal(joined, group):
                break
            group = joined
        self._group = np.unique(group, return_inverse=True)[1]


def _touching(labels: NDArray[np.int32], found: int, *, first: bool) -> NDArray[np.bool_]:
    """Return which labels touch the faces; along axis 0 only the first plane, and only if `first`."""
    faces = [labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1], *([labels[0]] if first else [])]
    return _present(found, *faces)


def _present(found: int, *places: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which of the components 1 to `found` are among the numbers at some places; 0 is none."""
    there = np.zeros(found + 1, dtype=np.bool_)
    for numbers in places:
        there[numbers.ravel()] = True
    return there[1:]


def _box_of(mask: Labels, value: int) -> tuple[slice, ...] | None:
    """Return the smallest box around a label; None if no voxel has the label."""
    planes = [np.zeros(n, dtype=np.bool_) for n in mask.shape]
    for index, plane in enumerate(mask):
        here = plane == value
        rows = here.any(axis=1)
        if rows.any():
            planes[0][index] = True
            planes[1] |= rows
            planes[2] |= here.any(axis=0)
    ends = [np.flatnonzero(found)[[0, -1]] for found in planes if found.any()]
    return tuple(slice(int(a), int(b) + 1) for a, b in ends) if ends else None
