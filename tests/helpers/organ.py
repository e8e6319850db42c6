"""Shared by tests: organ, the part of a phantom that matters."""

import numpy as np

from c3s3_seg.geometry.volume import Geometry, Volume


def organ(scan: Volume, truth: Volume, margin: int = 6) -> tuple[Volume, Volume]:
    """Return the organ and a few voxels around it: a fraction of the patches of the whole scan."""
    inside = truth.array.any
    box = [np.flatnonzero(inside(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    cut = tuple(slice(max(0, int(b[0]) - margin), int(b[-1]) + margin + 1) for b in box)
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.to_mm([part.start for part in cut])
    grid = Geometry(scan.array[cut].shape, affine)
    return grid.volume(scan.array[cut]), grid.volume(truth.array[cut])
