"""Measure a mask: volumes, connected pieces, and the share that the scan's border cuts off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.dataset.prepare.inventory import reason_of
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.io.image.files import ROUNDED_BY, as_labels, nearest_whole
from c3s3_seg.io.scan_like import holds_bodies

MOST_VALUES = 64  # different values of a mask, with background, unless its voxels are plainly those of bodies
LARGEST_VALUE = 65535

Bools = NDArray[np.bool_]
Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class MaskStatistics:
    """The measurements of one mask.

    Parameters
    ----------
    volumes_ml
        Label name -> volume in ml; 0 if the label is missing.
    second
        Label name -> size of its second largest piece as a share of the largest, and a voxel of that
        piece (None if there is none); pieces connect by faces, edges or corners.
    cut
        Voxels of the mask on the worst of the scan's six sides, as a share of its surface voxels.
    """

    volumes_ml: dict[str, float]
    second: dict[str, tuple[float, Voxel | None]]
    cut: float


def few_values(array: Array) -> tuple[int, ...] | None:
    """Return the foreground values of a possible mask; None if it has other than few whole numbers from 0.

    Parameters
    ----------
    array
        Voxels (i, j, k) of any real type. Up to `MOST_VALUES` different values are few; more are accepted
        if each lies in bodies, as in a mask of the whole body.
    """
    top = float(array.max())
    if float(array.min()) < -ROUNDED_BY or top > LARGEST_VALUE:
        return None
    whole, _ = nearest_whole(array)
    if whole is None:
        return None
    there = np.zeros(int(whole.max()) + 1, dtype=bool)
    there[whole.astype(np.uint16, copy=False).ravel(order="K")] = True
    values = np.flatnonzero(there)
    few = len(values) <= MOST_VALUES or holds_bodies(array)
    return tuple(int(v) for v in values if v) if few else None


def why_no_mask(volume: Volume) -> str:
    """Return why a volume is no mask, as a predicate, if `few_values` returned None for its array."""
    what = "holds values that no mask has"
    try:
        as_labels(volume)
    except InputError as error:
        return f"{what}: {reason_of(error)}"
    return f"{what}: more than {MOST_VALUES} different ones, or one above {LARGEST_VALUE}. Rename or mend it."


def measure_mask(mask: Volume, labels: Mapping[str, int]) -> MaskStatistics:
    """Measure a mask (i, j, k); if no labels are named, every value except 0 counts as a label."""
    names = labels or {str(value): int(value) for value in np.unique(mask.array) if value}
    volumes, second = {}, {}
    for name, value in names.items():
        body = mask.array == value
        volumes[name] = float(np.count_nonzero(body)) * mask.geometry.voxel_ml
        second[name] = _second(body)
    return MaskStatistics(volumes, second, _cut(mask.array != 0))


def _box(body: Bools) -> tuple[slice, ...] | None:
    box = []
    for axis in range(3):
        used = np.flatnonzero(body.any(axis=tuple(n for n in range(3) if n != axis)))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def _second(body: Bools) -> tuple[float, Voxel | None]:
    from scipy import ndimage

    box = _box(body)
    if box is None:
        return 0.0, None
    pieces, count = ndimage.label(body[box], np.ones((3, 3, 3)))
    if count < 2:
        return 0.0, None
    sizes = np.bincount(pieces.ravel())[1:]
    largest, second = np.argsort(sizes)[::-1][:2].tolist()
    places = np.argwhere(pieces == second + 1)
    # The centre of a hollow piece lies outside it; the voxel nearest to the centre does not.
    nearest = np.square(places - places.mean(axis=0)).sum(axis=1).argmin()
    middle = places[nearest] + [part.start for part in box]
    return float(sizes[second] / sizes[largest]), (int(middle[0]), int(middle[1]), int(middle[2]))


def _cut(body: Bools) -> float:
    from scipy import ndimage

    box = _box(body)
    if box is None:
        return 0.0
    faces = [np.take(body, side, axis=axis) for axis in range(3) for side in (0, -1)]
    worst = max(int(np.count_nonzero(face)) for face in faces)
    if not worst:
        return 0.0
    inside = body[box]
    surface = np.count_nonzero(inside) - np.count_nonzero(ndimage.binary_erosion(inside))
    return worst / surface
