"""Shared by tests: Threshold, ball."""

import numpy as np


class Threshold:
    """A backend that costs no time: voxels brighter than a limit are foreground."""

    name = "threshold"

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(patches), (patches - self.limit) * 20], axis=1)


def ball(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    """Return an array (i, j, k) uint8 that is 1 inside a ball in the middle and 0 elsewhere."""
    x, y, z = (np.square(np.arange(n, dtype=np.float32) - (n - 1) / 2) for n in shape)
    return np.asarray(x[:, None, None] + y[:, None] + z < radius**2, dtype=np.uint8)
