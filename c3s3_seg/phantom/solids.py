"""Solids whose distances can be evaluated anywhere, and smooth random fields: the parts of a phantom.

A `Field` is a distance to a surface in mm, float32, positive inside; it is exact only near the
surface, which is where it is used.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float32]
Floats = NDArray[np.float64]

_FAR_MM = 20.0  # beyond this a distance is only "outside": wider than any wall or margin of a phantom
_COARSE = 4  # voxels between the samples that decide which part of the grid a solid can touch


class Canvas:
    """The places of a grid's voxels in the anatomy.

    Parameters
    ----------
    points
        (3, i, j, k) float32: x, y, z of each voxel, mm from the middle of the atrium, LPS.
    """

    def __init__(self, points: Field) -> None:
        self.points = points
        self.shape = points.shape[1:]
        self._coarse = points[:, ::_COARSE, ::_COARSE, ::_COARSE]

    def box(self, low_mm: Floats, high_mm: Floats) -> tuple[slice, slice, slice]:
        """Return the part of the grid within reach of the block between two corners (3,)."""
        low = (low_mm - _FAR_MM).astype(np.float32)[:, None, None, None]
        high = (high_mm + _FAR_MM).astype(np.float32)[:, None, None, None]
        near: NDArray[np.bool_] = np.all((self._coarse >= low) & (self._coarse <= high), axis=0)
        slices = []
        for others in ((1, 2), (0, 2), (0, 1)):
            hits = np.flatnonzero(np.any(near, axis=others))
            start, stop = (hits[0] - 1, hits[-1] + 2) if hits.size else (0, 0)
            slices.append(slice(max(0, start * _COARSE), max(0, stop * _COARSE)))
        return slices[0], slices[1], slices[2]

    def tube(self, *tubes: Floats) -> Field:
        """Return the distance to a union of tapering, round-ended tubes: (n, 4) knots x, y, z, radius."""
        field = np.full(self.shape, -_FAR_MM, np.float32)
        for a, b in (piece for knots in tubes for piece in pairwise(knots)):
            reach = max(a[3], b[3])
            box = self.box(np.minimum(a, b)[:3] - reach, np.maximum(a, b)[:3] + reach)
            np.maximum(field[box], _segment(self.points[:, *box], a, b), out=field[box])
        return field

    def ellipsoid(self, centre: ArrayLike, radii: ArrayLike, axes: ArrayLike | None = None) -> Field:
        """Return the distance to an ellipsoid; centre and half axes (3,) in mm, axes (3, 3) as columns."""
        turn = np.eye(3) if axes is None else np.asarray(axes)
        middle, half = np.asarray(centre, dtype=np.float64), np.asarray(radii, dtype=np.float64)
        extent = np.sqrt((turn**2) @ half**2)
        box = self.box(middle - extent, middle + extent)
        offset = self.points[:, *box] - middle.astype(np.float32)[:, None, None, None]
        local = np.einsum("ba,b...->a...", turn.astype(np.float32), offset)
        local /= half.astype(np.float32)[:, None, None, None]
        size = np.sqrt(np.einsum("a...,a...->...", local, local))
        local /= half.astype(np.float32)[:, None, None, None]
        slope = np.sqrt(np.einsum("a...,a...->...", local, local))
        field = np.full(self.shape, -_FAR_MM, np.float32)
        # First-order distance: value of the implicit function over the length of its gradient.
        field[box] = size * (1 - size) / np.maximum(slope, 1e-4)
        return field


def _segment(points: Field, a: Floats, b: Floats) -> Field:
    """Return the distance to a piece of a tube between knots a and b (4,), at points (3, i, j, k)."""
    start, along = a[:3].astype(np.float32), (b - a).astype(np.float32)
    offset = points - start[:, None, None, None]
    part = np.einsum("a...,a->...", offset, along[:3])
    part /= np.float32(along[:3] @ along[:3])
    np.clip(part, 0, 1, out=part)
    for axis in range(3):
        offset[axis] -= part * along[axis]
    length = np.einsum("a...,a...->...", offset, offset)
    np.sqrt(length, out=length)
    part *= along[3]
    part += np.float32(a[3])
    part -= length
    return np.asarray(part, dtype=np.float32)


def smooth_union(a: Field, b: Field, fillet_mm: float) -> Field:
    """Return the union of two fields with a rounded seam (quadratic blend)."""
    near = np.maximum(fillet_mm - np.abs(a - b), 0) / fillet_mm
    return np.asarray(np.maximum(a, b) + near**2 * (fillet_mm / 4), dtype=np.float32)


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], order: int) -> Field:
    """Return a random sum of cosines up to `order` half waves per axis: (i, j, k), mean 0, SD 1."""
    waves = np.arange(order + 1)
    weights = rng.standard_normal((order + 1,) * 3)
    weights /= 1 + np.add.outer(np.add.outer(waves**2, waves**2), waves**2)
    weights[0, 0, 0] = 0
    basis = [np.cos(np.pi * np.outer((np.arange(n) + 0.5) / n, waves)) for n in shape]
    # One axis at a time, and without BLAS: its sums depend on the number of threads.
    field = np.einsum("abc,kc->abk", weights, basis[2])
    field = np.einsum("abk,jb->ajk", field, basis[1])
    field = np.einsum("ajk,ia->ijk", field, basis[0])
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)
