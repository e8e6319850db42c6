"""Random changes of the geometry and the intensities of one crop, drawn from the given generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from c3s3_seg.training.settings import AugmentConfig

LATTICE = 4  # control points of smooth random fields along each axis of a crop


def draw_geometry(
    patch: tuple[int, int, int], spacing_mm: Tensor, config: AugmentConfig, random: Generator
) -> tuple[Tensor, Tensor]:
    """Draw the positions at which the scan is sampled for a crop, and return them with the crop's extent.

    Rotation, magnification and displacement act in mm, so they mean the same at every spacing; with
    `slice_axis` they do not change the position along that axis.

    Returns
    -------
    (X, Y, Z, 3) voxel offsets from the crop's centre; and (3,) the crop's extent in voxels along the scan's
    axes, after quarter turns and before all other changes.
    """
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(patch, spacing_mm, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    angles = _uniform(-config.rotation_rad, config.rotation_rad, random, 3)
    if config.slice_axis is not None:
        angles = angles * torch.eye(3)[config.slice_axis]
    matrix = _rotation(angles) / _log_uniform(config.scale, random)
    if config.slice_axis is not None:
        matrix[config.slice_axis, config.slice_axis] = 1.0
    turn = torch.eye(3)
    for axis in config.quarter_turns:
        turn = turn @ _quarter_turns(axis, int(torch.randint(4, (), generator=random)))
    matrix = matrix @ turn  # exact: a turn permutes columns and changes signs
    for axis in config.flip_axes:
        if float(torch.rand((), generator=random)) < 0.5:
            matrix[:, axis] *= -1
    points = points @ matrix.T
    if config.elastic_mm > 0:
        field = torch.randn(1, 3, *[LATTICE] * 3, generator=random) * config.elastic_mm
        if config.slice_axis is not None:
            field[:, config.slice_axis] = 0.0
        points = points + _smooth(field, patch)[0].movedim(0, -1)
    return points / spacing_mm, _turned(patch, spacing_mm, turn)


def whole_axes(config: AugmentConfig) -> Tensor:
    """Return for each axis whether crops are cut at whole voxels: (3,), 1 or 0.

    They are where no change needs values between voxels, which are means of several voxels, so smoother than
    what validation and `predict` see.
    """
    still = config.rotation_rad == 0 and config.scale == (1, 1) and config.elastic_mm == 0
    return torch.tensor([float(still or axis == config.slice_axis) for axis in range(3)])


def change_intensity(image: Tensor, config: AugmentConfig, random: Generator) -> Tensor:
    """Change the intensities of a crop (1, X, Y, Z) at random, as another scanner or day might have."""
    low, high = image.min(), image.max()
    exponent = _log_uniform(config.gamma, random)
    span = (high - low).clamp_min(1e-6)
    image = ((image - low) / span) ** exponent * span + low
    if config.bias > 0:
        field = torch.randn(1, 1, *[LATTICE] * 3, generator=random) * config.bias
        image = image * _smooth(field, tuple(image.shape[1:]))[0].exp()
    gain, offset = torch.randn(2, generator=random)
    level = torch.rand((), generator=random) * config.noise
    noise = torch.randn(image.shape, generator=random)
    changed: Tensor = image * (1 + config.gain * gain) + config.offset * offset + level * noise
    return changed


def _smooth(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    smooth: Tensor = F.interpolate(field, size=shape, mode="trilinear", align_corners=True)
    return smooth


def _uniform(low: float, high: float, random: Generator, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=random)


def _log_uniform(ends: tuple[float, float], random: Generator) -> Tensor:
    low, high = torch.tensor(ends).log()
    drawn: Tensor = (low + (high - low) * torch.rand((), generator=random)).exp()
    return drawn


def _quarter_turns(axis: int, count: int) -> Tensor:
    """Return the exact matrix (3, 3) of a rotation by `count` times 90 degrees about an axis."""
    first, second = (n for n in range(3) if n != axis)
    turn = torch.eye(3)
    turn[[first, second]] = torch.eye(3)[[second, first]]
    turn[first] *= -1
    matrix: Tensor = torch.linalg.matrix_power(turn, count)
    return matrix


def _turned(patch: tuple[int, int, int], spacing_mm: Tensor, turn: Tensor) -> Tensor:
    """Return the extent (3,) of a crop in voxels along the scan's axes, after quarter turns."""
    come_from = turn.abs().argmax(dim=1)
    return (torch.tensor(patch)[come_from] - 1) * (spacing_mm[come_from] / spacing_mm) + 1


def _rotation(angles: Tensor) -> Tensor:
    """Return the matrix (3, 3) of rotations by angles (3,) in radians, about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().tolist(), angles.sin().tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
