"""Swap and reverse the axes of a grid: to those of the patient, or to those of the scan of a mask.

A converter may reorder a series for NIfTI. A mask that was drawn on the converted scan has the voxels of the
series, with axes swapped or reversed. Undoing this moves voxels and changes no value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.volume import Geometry, Volume


@dataclass(frozen=True)
class AxisPermutation:
    """A permutation of axes, with flips, from one grid to another.

    Parameters
    ----------
    order
        For each axis of the wanted grid, the parallel axis of the other grid.
    reversed
        For each axis of the wanted grid, whether the parallel axis runs the other way.
    """

    order: tuple[int, int, int]
    reversed: tuple[bool, bool, bool]

    @property
    def is_none(self) -> bool:
        """Whether no axis has to be swapped or reversed."""
        return self.order == (0, 1, 2) and not any(self.reversed)

    @classmethod
    def to_patient(cls, grid: Geometry) -> AxisPermutation:
        """Return the permutation to the axes nearest to left, posterior and superior (x, y, z)."""
        return cls(*grid.patient_axes)

    def view(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an array (i, j, k) of the other grid, with the axes of the wanted one."""
        return np.flip(array.transpose(self.order), tuple(n for n in range(3) if self.reversed[n]))

    def grid(self, other: Geometry) -> Geometry:
        """Return the wanted grid, which `view` of an array of the other one lies on."""
        first = np.zeros(3)
        affine = np.eye(4)
        for n, axis in enumerate(self.order):
            first[axis] = other.shape[axis] - 1 if self.reversed[n] else 0
            affine[:3, n] = other.affine[:3, axis] * (-1 if self.reversed[n] else 1)
        affine[:3, 3] = other.to_mm(first)
        x, y, z = (other.shape[axis] for axis in self.order)
        return Geometry((x, y, z), affine, other.frame_uid)


def permutation_between(other: Geometry, wanted: Geometry) -> AxisPermutation | None:
    """Return the permutation from one grid to another; None if the grids do not have the same voxels.

    Parameters
    ----------
    other, wanted
        The two grids. Voxels are the same if their centres match by `Geometry.matches`.
    """
    if sorted(other.shape) != sorted(wanted.shape):
        return None
    # Column n: the change of the index on the other grid for one step along axis n of the wanted grid.
    steps = np.rint(np.linalg.solve(other.affine[:3, :3], wanted.affine[:3, :3]))
    if not ((np.abs(steps).sum(axis=0) == 1).all() and (np.abs(steps).sum(axis=1) == 1).all()):
        return None
    x, y, z = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    against = [bool(steps[axis, n] < 0) for n, axis in enumerate((x, y, z))]
    turn = AxisPermutation((x, y, z), (against[0], against[1], against[2]))
    return turn if turn.grid(other).matches(wanted) else None


def permuted_onto(mask: Volume, wanted: Geometry) -> Volume:
    """Return a mask in the voxel order of another grid; unchanged if the grid has other voxels.

    Parameters
    ----------
    mask
        Labels (i, j, k) on any grid.
    wanted
        Grid of the mask's scan.
    """
    turn = permutation_between(mask.geometry, wanted)
    if turn is None or turn.is_none:
        return mask
    note = "the axes of the mask were turned to those of its scan; no voxel was changed"
    source = replace(mask.source, notes=(*mask.source.notes, note))
    return wanted.volume(np.ascontiguousarray(turn.view(mask.array)), source)
