"""A mask on another grid: on request only, and recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from c3s3_seg.geometry.volume import Geometry, Volume


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
