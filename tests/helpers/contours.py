"""Shared by tests: inside."""

import numpy as np


def inside(polygons: list[np.ndarray], points: np.ndarray) -> np.ndarray:
    """Return which points (n, 2) lie within an odd number of closed polygons (even-odd rule)."""
    odd = np.zeros(len(points), bool)
    for polygon in polygons:
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            crosses = (a[1] > points[:, 1]) != (b[1] > points[:, 1])
            with np.errstate(divide="ignore", invalid="ignore"):
                at = a[0] + (points[:, 1] - a[1]) * (b[0] - a[0]) / (b[1] - a[1])
            odd ^= crosses & (points[:, 0] < at)
    return odd
