"""Along the patient's axes, with another number of voxels, on another grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.volume import Geometry, Volume

FloatArray = NDArray[np.float32]


def resample_mask(mask: Volume, grid: Geometry) -> Volume:
    """Each voxel of `grid` gets the label of the mask's voxel that it lies in; outside it is background.

    Parameters
    ----------
    mask
        Labels (i, j, k) on any grid.
    grid
        The wanted grid in the same patient coordinates.

    Returns
    -------
    Volume
        On `grid`, with a note in its source. A mask that is on `grid` already is given back as it is.
    """
    from scipy.ndimage import affine_transform

    if mask.geometry.matches(grid):
        return mask
    # Index on the wanted grid -> index on the mask's.
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
    return grid.volume(array, replace(mask.source, notes=(*mask.source.notes, note)))


def orient(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """An array (i, j, k) on a scan's grid, seen along the patient's axes (x, y, z): a view."""
    permutation, flips = geometry.patient_axes
    turned: NDArray[Any] = array.transpose(permutation)
    return np.flip(turned, tuple(axis for axis in range(3) if flips[axis]))


def oriented(geometry: Geometry) -> Geometry:
    """The grid of `orient(array, geometry)`."""
    permutation, flips = geometry.patient_axes
    first = np.zeros(3)
    affine = np.eye(4)
    for row, (axis, flip) in enumerate(zip(permutation, flips, strict=True)):
        affine[:3, row] = geometry.affine[:3, axis] * (-1 if flip else 1)
        first[axis] = geometry.shape[axis] - 1 if flip else 0
    affine[:3, 3] = geometry.to_mm(first)
    i, j, k = (geometry.shape[axis] for axis in permutation)
    return Geometry((i, j, k), affine, geometry.frame_uid)


def resample(array: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Same field of view, another number of voxels: averages going down, linear going up."""
    for axis in resampled_axes(array.shape, shape):
        array = along(weights(array.shape[axis], shape[axis]), array, axis)
    return np.ascontiguousarray(array, dtype=np.float32)


def resampled_axes(old: tuple[int, ...], new: tuple[int, ...]) -> list[int]:
    """The axes whose number of voxels changes, in the order in which they are resampled.

    The order decides how sums are rounded, so every way of resampling keeps it.
    """
    # Gathering along the last axis is the slowest: it is done where there is least to gather.
    order = sorted(range(3), key=lambda n: n if new[n] < old[n] else 5 - n)
    return [axis for axis in order if new[axis] != old[axis]]


def along(rows: FloatArray, array: FloatArray, axis: int) -> FloatArray:
    """Weighted sums along one axis, for rows (n_out, n_in) in which few neighbours count.

    Neighbours are gathered and added up. The matrix product that it stands for is up to eight times slower,
    and its threads go on spinning when it is done: the network that came next took twice as long for it.
    """
    total: FloatArray | None = None
    for index, weight in neighbours(rows):
        part: FloatArray = np.take(array, index, axis=axis, mode="clip")
        part *= np.expand_dims(weight, tuple(n for n in range(array.ndim) if n != axis))
        if total is None:
            total = part
        else:
            total += part
    if total is None:
        raise ValueError("every row has a neighbour that counts")
    return total


def neighbours(rows: FloatArray) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
    """Which neighbours the weighted sums of `along` gather, in the order in which they are added.

    Parameters
    ----------
    rows
        (n_out, n_in) float32, each with a few numbers other than 0 side by side.

    Yields
    ------
    tuple
        For the first, second, ... neighbour of all outputs: its index and its weight, (n_out,) each.
    """
    used, n_in = rows != 0, rows.shape[1]
    first = used.argmax(axis=1)
    span = int((n_in - used[:, ::-1].argmax(axis=1) - first).max())
    for step in range(span):
        index = np.minimum(first + step, n_in - 1)
        weight = np.where(first + step < n_in, rows[np.arange(len(rows)), index], np.float32(0))
        yield index, weight


def weights(n_in: int, n_out: int) -> FloatArray:
    """Rows (n_out, n_in) that sum to 1: box averages where voxels grow, linear where they shrink."""
    factor = n_in / n_out
    if factor > 1:
        edges = np.arange(n_out + 1) * factor
        low = np.maximum(edges[:-1, None], np.arange(n_in))
        high = np.minimum(edges[1:, None], np.arange(n_in) + 1)
        return np.asarray((high - low).clip(0) / factor, dtype=np.float32)
    centres = ((np.arange(n_out) + 0.5) * factor - 0.5).clip(0, n_in - 1)
    return np.asarray((1 - np.abs(centres[:, None] - np.arange(n_in))).clip(0), dtype=np.float32)
