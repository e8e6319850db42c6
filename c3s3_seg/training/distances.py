"""Signed distance maps, the targets of SASSNet's and DTC's distance heads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def signed_distance(target: Tensor, *, zero_boundary: bool = False) -> Tensor:
    """Return distances to the surface in [-1, 1], negative inside, of soft targets (N, K, X, Y, Z).

    They are measured in voxels; each side of the surface is scaled by its own largest distance, as
    published. A class that is absent, or fills the crop, gives 0 everywhere.

    Parameters
    ----------
    zero_boundary
        Whether voxels of the class that touch others by a face get 0, as in SASSNet. DTC turns distances into
        labels, and a 0 would become half a label.
    """
    from scipy.ndimage import distance_transform_edt

    result = np.zeros(target.shape, dtype=np.float32)
    for index in np.ndindex(*target.shape[:2]):
        inside = target[index].cpu().numpy() > 0.5
        if inside.any() and not inside.all():
            depth, height = distance_transform_edt(inside), distance_transform_edt(~inside)
            result[index] = height / height.max() - depth / depth.max()
            if zero_boundary:
                result[index][depth == 1] = 0
    return torch.from_numpy(result).to(target.device)
