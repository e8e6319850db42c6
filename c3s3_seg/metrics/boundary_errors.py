"""Find where the boundary of a prediction is wrong, by how much, and to which side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.metrics.nearest import Floats, Neighbours, Points, nearest
from c3s3_seg.metrics.surface_distance import step_mm, surface_voxels, union_box


@dataclass(frozen=True, eq=False)
class BoundaryError:
    """The boundary error of one label in one case.

    Parameters
    ----------
    voxels
        (3, n): the surface voxels of the prediction.
    signed_mm
        (n,) float64: the distance of each voxel to the truth's surface; positive outside of the truth,
        where the prediction is too large, negative inside.
    worst
        The surface voxel of either mask that is farthest from the other's surface.
    worst_mm
        The distance of `worst` from that surface; equals `hd_mm`.
    """

    voxels: Points
    signed_mm: Floats
    worst: tuple[int, int, int]
    worst_mm: float


def boundary_error(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], grid: Volume
) -> BoundaryError | None:
    """Measure the boundary of one label.

    Parameters
    ----------
    prediction, truth
        (i, j, k) bool on the grid of `grid`.
    grid
        Any volume on that grid.

    Returns
    -------
    BoundaryError
        None if one of the masks is empty: there is no surface to measure to.
    """
    if not (prediction.any() and truth.any()):
        return None
    box = union_box(prediction, truth)
    low = np.array([part.start for part in box])[:, None]
    on_p, on_t = (surface_voxels(mask[box])[0] + low for mask in (prediction, truth))
    near = Neighbours.of(step_mm(grid.geometry))
    d_pt, d_tp = nearest(on_p, on_t, near), nearest(on_t, on_p, near)
    i, j, k = on_p[:, d_pt.argmax()] if d_pt.max() >= d_tp.max() else on_t[:, d_tp.argmax()]
    signed = np.where(truth[tuple(on_p)], -d_pt, d_pt)
    return BoundaryError(on_p, signed, (int(i), int(j), int(k)), float(max(d_pt.max(), d_tp.max())))
