"""Resample a scan to the model's grid on the network's device: `Recipe.to_model` on tensors.

Geometry and recipe define the axes, weights and intensities. This module only does the arithmetic, in the
same order and precision, so that the network gets the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3s3_seg.bundle.preprocessing import ExactScan, Intensity
from c3s3_seg.geometry.resample import axis_weights, orient, resampled_axes
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference.device.arrays import TorchArrays

if TYPE_CHECKING:
    from torch import Tensor

BYTES = 24  # per voxel of a part of the scan: as read, as float32, flipped, and the sums along two axes
SHARE = 4  # a part of the scan may take 1 / SHARE of the bytes that are allowed
STATISTICS = 16_000_000  # voxels that are squared at a time, in float64


def to_model_grid(
    scan: ExactScan, geometry: Geometry, grid: Geometry, arrays: TorchArrays, limit: int | None = None
) -> Tensor:
    """Upload a scan, orient and resample it.

    A scan that does not fit into memory at full size is uploaded in parts, which changes no number: the parts
    lie along the axis that is resampled last.

    Parameters
    ----------
    scan
        Scan (i, j, k) on its own grid.
    geometry, grid
        Geometry of the scan, and of the model's grid: `Recipe.grid`.
    arrays
        Array operations of the target device.
    limit
        Bytes that may be taken on the device; None: the scan is uploaded in one part.

    Returns
    -------
    Tensor
        (x, y, z) float32 on the model's grid, not scaled. May share memory with the scan.
    """
    oriented = orient(scan.array, geometry)
    axes = resampled_axes(oriented.shape, grid.shape)
    last = axes.pop() if axes else 2
    step = _planes(oriented.shape, last, limit)
    parts = []
    for start in range(0, oriented.shape[last], step):
        part = arrays.of(oriented[(slice(None),) * last + (slice(start, start + step),)]).float()
        for axis in axes:
            part = arrays.along(axis_weights(part.shape[axis], grid.shape[axis]), part, axis)
        parts.append(part)
    whole = parts[0] if len(parts) == 1 else arrays.concatenate(parts, last)
    if whole.shape[last] != grid.shape[last]:
        whole = arrays.along(axis_weights(whole.shape[last], grid.shape[last]), whole, last)
    return whole.contiguous()


def _planes(shape: tuple[int, ...], axis: int, limit: int | None) -> int:
    """Return how many planes are brought to the device at a time."""
    voxels = 1
    for n, side in enumerate(shape):
        voxels *= side if n != axis else 1
    return shape[axis] if limit is None else min(shape[axis], max(1, limit // SHARE // BYTES // voxels))


def scale(rule: Intensity, array: Tensor, offset: float) -> Tensor:
    """Apply `Intensity` to a tensor (x, y, z) of intensities less `offset`; z-scores of a flat volume are 0.

    Mean and spread are sums in float64, which torch adds up in another order than numpy. They are rounded to
    float32 before they are used, which leaves a difference in one of some ten million scans.
    """
    import torch

    if rule.rule == "window":
        low, high = rule.low - offset, rule.high - offset
        span = torch.tensor(rule.high - rule.low, dtype=torch.float32, device=array.device)
        return array.clamp(low, high).sub_(low).div_(span)
    mean = array.mean(dtype=torch.float64)
    parts = torch.split(array.reshape(-1), STATISTICS)
    squares = torch.stack([(part.double() - mean).square_().sum() for part in parts])
    spread = (squares.sum() / array.numel()).sqrt()
    if bool(spread <= 1e-6 * array.abs().max().double()):  # resampling leaves rounding in a flat volume
        return torch.zeros_like(array)
    return array.sub(mean.float()).div_(spread.float())
