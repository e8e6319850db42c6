"""A scan is brought to the model's grid where the network runs: `Recipe.to_model` on tensors.

Geometry and recipe say which axes, which weights and which intensities. Here is the arithmetic only, in the
same order and precision, so that the network is given the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3s3_seg.bundle.preprocessing import ExactScan, Intensity
from c3s3_seg.geometry.resample import axis_weights, orient, resampled_axes
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference.device.arrays import TorchArrays

if TYPE_CHECKING:
    from torch import Tensor

BYTES = 24  # for each voxel of a part of the scan: as read, as float32, turned, and the sums along two axes
SHARE = 4  # a part may take one in so many of the bytes that are allowed
STATISTICS = 16_000_000  # voxels of which squares are taken at a time, in float64


def to_model_grid(
    scan: ExactScan, geometry: Geometry, grid: Geometry, arrays: TorchArrays, limit: int | None = None
) -> Tensor:
    """Upload a scan, orient and resample it.

    A scan that memory does not hold at full size is brought there in parts, which changes no number: they are
    parts along the axis that is resampled last.

    Parameters
    ----------
    scan
        (i, j, k) on the scan's grid.
    geometry, grid
        Of the scan, and of the model: `Recipe.grid`.
    arrays
        Where to.
    limit
        Bytes that may be taken there; None: the scan in one part.

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
    """How many planes are brought to the device at a time."""
    voxels = 1
    for n, side in enumerate(shape):
        voxels *= side if n != axis else 1
    return shape[axis] if limit is None else min(shape[axis], max(1, limit // SHARE // BYTES // voxels))


def scale(rule: Intensity, array: Tensor, offset: float) -> Tensor:
    """What `Intensity` does, on a tensor (x, y, z) of intensities less `offset`; a flat volume becomes zeros.

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
