"""Reorient arrays to the patient's axes, and resample them to another number of voxels or another grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.axis_order import AxisPermutation
from c3s3_seg.geometry.volume import Geometry, Volume

FloatArray = NDArray[np.float32]


def resample_mask(mask: Volume, grid: Geometry) -> Volume:
    """Give each voxel of `grid` the label of the mask's voxel that it lies in; background outside the mask.

    Parameters
    ----------
    mask
        Labels (i, j, k) on any grid.
    grid
        The requested grid, in the same patient coordinates.

    Returns
    -------
    Volume
        The mask on `grid`, with a note in its source that states how many labelled voxels, if any, lie
        outside `grid` and are lost. A mask that is already on `grid` is returned unchanged.
    """
    from scipy.ndimage import affine_transform

    if mask.geometry.matches(grid):
        return mask
    # Index on the requested grid -> index on the mask's grid.
    there = np.linalg.inv(mask.geometry.affine) @ grid.affine
    array = affine_transform(
        mask.array.view(np.uint8) if mask.array.dtype == np.bool_ else mask.array,
        there[:3, :3],
        offset=there[:3, 3],
        output_shape=grid.shape,
        order=0,
        mode="grid-constant",
    )
    note = f"the mask was resampled (nearest voxel) from {mask.geometry} to {grid}"
    note += mask.geometry.distance_note(grid)
    lost, labelled = _outside(mask, grid), int(np.count_nonzero(mask.array))
    note += f"; {lost} of its {labelled} labelled voxels lie outside and are left out" if lost else ""
    return grid.volume(array, replace(mask.source, notes=(*mask.source.notes, note)))


def _outside(mask: Volume, grid: Geometry) -> int:
    """Count, plane by plane, the labelled voxels whose centre lies in no voxel of `grid`."""
    there, count = np.linalg.inv(grid.affine) @ mask.geometry.affine, 0
    for number, plane in enumerate(mask.array):
        j, k = np.nonzero(plane)
        index = there[:3, 1:3] @ np.stack([j, k]) + (there[:3, 0] * number + there[:3, 3])[:, None]
        inside = (index >= -0.5) & (index < np.array(grid.shape)[:, None] - 0.5)
        count += j.size - int(inside.all(axis=0).sum())
    return count


def orient(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Return a view of an array (i, j, k) on a scan's grid, with axes along the patient's (x, y, z)."""
    return AxisPermutation.to_patient(geometry).view(array)


def oriented(geometry: Geometry) -> Geometry:
    """Return the grid of `orient(array, geometry)`."""
    return AxisPermutation.to_patient(geometry).grid(geometry)


def resample(array: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Resample to another number of voxels in the same field of view.

    Parameters
    ----------
    array
        (x, y, z) float32.
    shape
        Number of voxels of the result along each axis. An axis with fewer voxels than before is reduced by
        box averages, an axis with more is interpolated linearly.

    Returns
    -------
    FloatArray
        Array of `shape`, float32, row-major.
    """
    for axis in resampled_axes(array.shape, shape):
        array = along(axis_weights(array.shape[axis], shape[axis]), array, axis)
    return np.ascontiguousarray(array, dtype=np.float32)


def resampled_axes(old: tuple[int, ...], new: tuple[int, ...]) -> list[int]:
    """Return the axes whose number of voxels changes, in the order in which they are resampled.

    The order decides how sums are rounded, so every implementation of resampling keeps it.
    """
    # Gathering along the last axis is the slowest, so it is done when the array is smallest.
    order = sorted(range(3), key=lambda n: n if new[n] < old[n] else 5 - n)
    return [axis for axis in order if new[axis] != old[axis]]


@dataclass(frozen=True)
class AxisWeights:
    """The weights of sums along one axis, where each output depends on a few adjacent inputs.

    As a matrix, the weights would take (outputs, inputs) numbers: 29 GB for an axis of 60,000 voxels at half
    the spacing. Only the band that is not 0 is kept.

    Parameters
    ----------
    first
        (outputs,): the first input that each output depends on.
    values
        (outputs, neighbours) float32: the weights of `first`, `first` + 1, ...; weights after the last input
        that the output depends on are 0.
    inputs
        Number of inputs.
    """

    first: NDArray[np.intp]
    values: FloatArray
    inputs: int

    @property
    def last(self) -> NDArray[np.intp]:
        """(outputs,): the last input that each output depends on."""
        behind = (self.values != 0)[:, ::-1].argmax(axis=1)
        return np.asarray(self.first + (self.values.shape[1] - 1 - behind))

    def part(self, outputs: slice, inputs: slice) -> AxisWeights:
        """Return the weights of some outputs; `inputs` must include all inputs that they depend on."""
        values = self.values[outputs]
        width = int(np.flatnonzero(values.any(axis=0))[-1]) + 1
        return AxisWeights(self.first[outputs] - inputs.start, values[:, :width], inputs.stop - inputs.start)

    def neighbours(self) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
        """Yield the neighbours that the weighted sums gather, in the order in which they are added.

        Yields
        ------
        tuple
            Index and weight, (outputs,) each, of the first, second, ... neighbour of all outputs.
        """
        for step in range(self.values.shape[1]):
            yield np.minimum(self.first + step, self.inputs - 1), self.values[:, step]


def along(weights: AxisWeights, array: FloatArray, axis: int) -> FloatArray:
    """Return weighted sums along one axis: (..., n, ...) float32 -> (..., m, ...) for weights from n to m.

    Neighbours are gathered and added up. The equivalent matrix product is up to eight times slower, and its
    threads keep spinning after it is done: the network that ran next took twice as long.
    """
    total: FloatArray | None = None
    for index, weight in weights.neighbours():
        part: FloatArray = np.take(array, index, axis=axis, mode="clip")
        part *= np.expand_dims(weight, tuple(n for n in range(array.ndim) if n != axis))
        if total is None:
            total = part
        else:
            total += part
    if total is None:
        raise ValueError("every output has a neighbour that counts")
    return total


def axis_weights(inputs: int, outputs: int) -> AxisWeights:
    """Return weights that sum to 1: box averages if voxels grow, linear interpolation if they shrink."""
    factor = inputs / outputs
    if factor > 1:
        edges = np.arange(outputs + 1) * factor
        first, stop = np.floor(edges[:-1]).astype(np.intp), np.ceil(edges[1:]).astype(np.intp)
        voxels = first[:, None] + np.arange(int((stop - first).max()))
        low, high = np.maximum(edges[:-1, None], voxels), np.minimum(edges[1:, None], voxels + 1)
        values = (high - low).clip(0) / factor
    else:
        centres = ((np.arange(outputs) + 0.5) * factor - 0.5).clip(0, inputs - 1)
        first = np.floor(centres).astype(np.intp)
        voxels = first[:, None] + np.arange(2)
        values = (1 - np.abs(centres[:, None] - voxels)).clip(0)
    values[voxels >= inputs] = 0
    whole = AxisWeights(first, values.astype(np.float32), inputs)
    return whole.part(slice(None), slice(0, inputs))
