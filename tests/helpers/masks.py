"""Shared by tests: blobs."""

import numpy as np


def blobs(seed: int, shape: tuple[int, int, int] = (24, 20, 16)) -> tuple[np.ndarray, np.ndarray]:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    base, change = (gaussian_filter(rng.standard_normal(shape), 2.5) for _ in range(2))
    return base > 0.02, base + 0.6 * change > 0.03
