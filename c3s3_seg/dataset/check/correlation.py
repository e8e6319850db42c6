"""Correlate small volumes that are each known in only a part of space, also turned and moved."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
AxisPermutation = tuple[tuple[int, int, int], tuple[bool, bool, bool]]

# The 48 ways in which a volume's axes can be confused: an order, and which of them run backwards.
TURNS: tuple[AxisPermutation, ...] = tuple(
    ((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))
    for order in permutations(range(3))
    for flips in product((False, True), repeat=3)
)
OVERLAP = 0.6  # share of the largest overlap: a correlation over less is ignored
TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Cube:
    """Intensities (n, n, n) float32, and where they are known."""

    values: Floats
    inside: Bools

    def turned(self, turn: AxisPermutation) -> Cube:
        """Return the cube with its axes in another order and direction."""
        return Cube(turned(self.values, turn), turned(self.inside, turn))


def turned(array: NDArray[Any], turn: AxisPermutation) -> NDArray[Any]:
    """Return a view of an array (x, y, z) with its axes in another order and direction."""
    order, flips = turn
    return np.flip(array.transpose(order), tuple(axis for axis in range(3) if flips[axis]))


def cube(array: Floats, spacing_mm: ArrayLike, centre: ArrayLike, step_mm: float, size: int) -> Cube:
    """Cut a cube of `size` voxels of `step_mm` out of an array (x, y, z) around a voxel (3,)."""
    from scipy import ndimage

    steps = np.asarray(step_mm / np.asarray(spacing_mm))
    places = [
        (np.arange(size) - (size - 1) / 2) * step + middle
        for step, middle in zip(steps, np.asarray(centre), strict=True)
    ]
    points = np.meshgrid(*places, indexing="ij")
    values = ndimage.map_coordinates(array, points, order=1, mode="nearest")
    known = [(p > -0.5) & (p < n - 0.5) for p, n in zip(places, array.shape, strict=True)]
    inside = known[0][:, None, None] & known[1][:, None] & known[2]
    return Cube(np.asarray(values, dtype=np.float32), inside)


def correlation(a: Floats, b: Floats, where: Bools | None = None) -> float:
    """Return Pearson's correlation of two arrays of one shape, -1 to 1; 0 if one is constant.

    Parameters
    ----------
    a, b
        Floating-point arrays of any one shape.
    where
        Elements that count, bool of the same shape; None: all. Fewer than two give 0.
    """
    x, y = (a.ravel(), b.ravel()) if where is None else (a[where], b[where])
    if x.size < 2:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt(float(x @ x) * float(y @ y) + TINY))


def moved(cube: Cube, reference: Cube, reach: int) -> tuple[NDArray[np.int64], float, float]:
    """Find the move in voxels by which a cube fits a reference best.

    Parameters
    ----------
    cube, reference
        Cubes (n, n, n).
    reach
        Largest move in voxels along each axis; all moves are tried at once, in Fourier space.

    Returns
    -------
    tuple
        Move (3,), Pearson's correlation over the common voxels with this move, and without a move.
    """
    from scipy import fft

    size = cube.values.shape[0] + 2 * reach

    def transform(array: NDArray[Any]) -> NDArray[np.complex64]:
        return np.asarray(fft.rfftn(np.asarray(array, dtype=np.float32), (size,) * 3))

    near = np.r_[0 : reach + 1, size - reach : size]

    def summed(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> Floats:
        return np.asarray(fft.irfftn(np.conj(a) * b, (size,) * 3)[np.ix_(near, near, near)])

    ones, values, squares = (transform(x) for x in _moments(cube))
    other_ones, other_values, other_squares = (transform(x) for x in _moments(reference))
    count = summed(ones, other_ones).clip(1)
    mine, theirs = summed(values, other_ones), summed(ones, other_values)
    spread = summed(squares, other_ones) - mine**2 / count
    other_spread = summed(ones, other_squares) - theirs**2 / count
    shared = summed(values, other_values) - mine * theirs / count
    found = shared / np.sqrt((spread * other_spread).clip(TINY))
    found[count < OVERLAP * count.max()] = -1
    best = np.unravel_index(int(found.argmax()), found.shape)
    move = np.array([n if n <= reach else n - 2 * reach - 1 for n in best])
    return move, float(found[best]), float(found[0, 0, 0])


def _moments(cube: Cube) -> tuple[Bools, Floats, Floats]:
    known = np.where(cube.inside, cube.values, 0)
    return cube.inside, known, known**2


def mean_of_others(cubes: list[Cube]) -> list[Cube]:
    """Return for each cube the mean of all others, known where half of the others are."""
    values = np.stack([np.where(c.inside, c.values, 0) for c in cubes])
    inside = np.stack([c.inside for c in cubes])
    total, count = values.sum(axis=0), inside.sum(axis=0)
    means = []
    for own, known in zip(values, inside, strict=True):
        left = count - known
        mean = (total - own) / left.clip(1)
        means.append(Cube(np.asarray(mean, dtype=np.float32), left >= max(1, (len(cubes) - 1) / 2)))
    return means
