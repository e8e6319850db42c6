"""Repair a stack of slices on request: gaps between slices, and the shear of a tilted gantry.

Each repair returns a note, because a repaired scan is not the one that was acquired.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.orthonormalize import REPAIRED
from c3s3_seg.geometry.volume import Array
from c3s3_seg.io.dicom.grid import Stack
from c3s3_seg.io.limits import check_size
from c3s3_seg.io.reading import GAPS_REPAIRED

Floats = NDArray[np.float64]
# New slices per acquired slice: with more, nearly all of the scan would be interpolated.
MOST_FILLED = 10


def repair(array: Array, found: Stack, root: Path) -> tuple[Array, Floats, tuple[str, ...]]:
    """Put the slices of a stack on an even, upright grid.

    Parameters
    ----------
    array
        (i, j, k) float32 or float64, one plane for each place of `found`.
    found
        Places of the slices.
    root
        The folder that messages name.

    Returns
    -------
    array, affine, notes
        The array and affine of the grid with right angles and even steps; unchanged if already on it.

    Raises
    ------
    InputError, MemoryLimitError
        If most of the scan would be interpolated, or the grid takes more memory than there is.
    """
    affine, notes = found.affine, found.notes
    if not found.upright:
        array, shift, note = _straighten(array, found, root)
        affine[:3, 3] = found.points_mm[0] + found.turn[:, :2] @ shift
        notes = (*notes, note)
    affine[:3, 2] = found.turn[:, 2] * found.step_mm
    if not found.even:
        array, step, note = _even(array, found.offsets_mm[:, 2], root)
        affine[:3, 2] = found.turn[:, 2] * step
        notes = (*notes, note)
    return array, affine, notes


def _straighten(array: Array, found: Stack, root: Path) -> tuple[Array, Floats, str]:
    """Move each slice back by its in-plane offset, in a field of view that holds all slices."""
    shifts = found.offsets_mm[:, :2] / found.spacing_mm  # in pixels
    low = np.floor(shifts.min(axis=0))
    extra = np.ceil(shifts.max(axis=0)) - low
    shape = (array.shape[0] + int(extra[0]), array.shape[1] + int(extra[1]), array.shape[2])
    check_size(root, shape, math.prod(shape) * array.itemsize)
    wide = np.full(shape, array.min(), dtype=array.dtype)
    for k, (along_i, along_j) in enumerate(shifts - low):
        plane = _moved(array[:, :, k], along_i, wide.shape[0], wide[0, 0, 0])
        wide[:, :, k] = _moved(plane.T, along_j, wide.shape[1], wide[0, 0, 0]).T
    tilt = float(np.linalg.norm(found.offsets_mm[-1, :2]) / found.offsets_mm[-1, 2])
    degrees = float(np.degrees(np.arctan(tilt)))
    note = f"{REPAIRED} (tilt): each slice was moved back, the tilt being {degrees:.3g} degrees"
    return wide, low * found.spacing_mm, note


def _moved(plane: Array, shift: float, size: int, fill: float) -> Array:
    """Move a plane along its first axis by `shift` >= 0 pixels, linearly: (n, m) -> (size, m)."""
    places = np.arange(size) - shift
    low = np.floor(places).astype(int)
    part = (places - low).astype(plane.dtype)[:, None]
    padded = np.full((plane.shape[0] + 2, plane.shape[1]), fill, dtype=plane.dtype)
    padded[1:-1] = plane
    below = padded[np.clip(low + 1, 0, len(padded) - 1)]
    above = padded[np.clip(low + 2, 0, len(padded) - 1)]
    return np.asarray(below + part * (above - below), dtype=plane.dtype)


def even_steps(heights_mm: Floats, root: Path) -> tuple[int, float]:
    """Return number and length in mm of the steps to which slices at these heights (from 0) are resampled.

    Raises
    ------
    InputError
        If most of the scan would be interpolated.
    """
    count = round(float(heights_mm[-1]) / float(np.median(np.diff(heights_mm))))
    if count > MOST_FILLED * len(heights_mm):
        what = f"{count + 1} slices would be made of {len(heights_mm)}: nearly all of the scan is missing"
        raise InputError(what, where=root, todo="Export the whole series again")
    return count, float(heights_mm[-1]) / count


def _even(array: Array, heights_mm: Floats, root: Path) -> tuple[Array, float, str]:
    """Interpolate linearly between neighbouring slices, at even steps near the usual step."""
    gaps = np.diff(heights_mm)
    count, step = even_steps(heights_mm, root)
    shape = (*array.shape[:2], count + 1)
    check_size(root, shape, 2 * math.prod(shape) * array.itemsize)  # both neighbours are gathered first
    wanted = np.arange(count + 1) * step
    upper = np.clip(np.searchsorted(heights_mm, wanted, side="left"), 1, len(heights_mm) - 1)
    part = ((wanted - heights_mm[upper - 1]) / gaps[upper - 1]).astype(array.dtype)
    filled = array[:, :, upper - 1] * (1 - part) + array[:, :, upper] * part
    made = int(np.sum((part > 0.02) & (part < 0.98)))
    note = (
        f"{GAPS_REPAIRED}: resampled to steps of {step:.4g} mm, {made} of {count + 1} slices between"
        f" acquired ones; the widest gap was {gaps.max():.4g} mm"
    )
    return np.asarray(filled, dtype=array.dtype), step, note
