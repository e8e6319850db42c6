"""Shared by tests: to_scan, the plain way from the model's grid to the scan's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.resample import resample
from c3s3_seg.geometry.volume import Geometry


def to_scan(numbers: NDArray[Any], scan: Geometry) -> NDArray[np.float32]:
    """Resample numbers (i, j, k) on the model's grid to (i, j, k) float32 on the scan's grid, all at once."""
    permutation, flips = scan.patient_axes
    array = resample(np.asarray(numbers, np.float32), tuple(scan.shape[axis] for axis in permutation))
    array = np.flip(array, tuple(axis for axis in range(3) if flips[axis]))
    return np.ascontiguousarray(array.transpose(np.argsort(permutation)))
