"""Repair, on request, an affine whose axes are slightly off right angles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import GeometryError
from c3s3_seg.geometry.volume import Geometry

Floats = NDArray[np.float64]
REPAIRED = "repaired on request"  # beginning of each note on a repair
# Above this a nearest rotation moves the far corner of a scan by centimetres.
MOST_SHEAR_DEGREES = 5.0


def nearest_rotation(affine: Floats, shape: tuple[int, int, int], path: Path) -> tuple[Floats, str]:
    """Return the affine with the nearest orthogonal axes (polar decomposition), and a note on the repair.

    Parameters
    ----------
    affine
        (4, 4): index (i, j, k, 1) to mm in LPS.
    shape
        Number of voxels along i, j, k; the middle of this grid keeps its position.
    path
        The file, for messages.

    Raises
    ------
    GeometryError
        If the axes are further from right angles than a header's rounding or a small shear explains.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    turned = affine.copy()
    turned[:3, :3] = (left @ right) * spacing
    degrees = Geometry(shape, affine).shear_degrees
    if degrees > MOST_SHEAR_DEGREES:
        raise GeometryError(
            f"the axes are sheared by {degrees:.3g} degrees; up to {MOST_SHEAR_DEGREES:g} can be repaired",
            where=path,
            todo="Resample the scan to a grid of right angles",
        )
    corners = (np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)).astype(float)
    # The middle of the scan stays where it is.
    middle = (np.array(shape) - 1) / 2
    turned[:3, 3] += (affine[:3, :3] - turned[:3, :3]) @ middle
    moved = (affine[:3, :3] - turned[:3, :3]) @ (corners - middle[:, None])
    worst = float(np.linalg.norm(moved, axis=0).max())
    return turned, f"{REPAIRED} (orthonormal): the nearest rotation moves voxels by up to {worst:.3g} mm"
