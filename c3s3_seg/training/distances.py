"""Signed distance maps, as SASSNet and DTC learn them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def signed_distance(target: Tensor, *, zero_boundary: bool = False) -> Tensor:
    """Soft targets (N, K, X, Y, Z) -> distance to the surface in [-1, 1], negative inside, in voxels.

    Each side is scaled by its own largest distance, as published. A class that is absent, or everywhere,
    gives 0 everywhere.

    Parameters
    ----------
    zero_boundary
        Whether voxels of the class that touch others have 0, as SASSNet learns. DTC turns distances into
        labels, and a 0 there would be half a label.
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
