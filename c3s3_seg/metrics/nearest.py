"""The exact distance from each voxel of one set to the nearest voxel of another.

Distances between voxel centres take few values. So the offsets to the nearest neighbours are tried in
rising order of their length, all voxels at once, and only what is then left asks a KD-tree. No array of
distances as large as the image is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = NDArray[np.intp]

# Two real surfaces are mostly one to three voxels apart. From 100 offsets to 800 the time on real and on
# large masks changes by less than a tenth.
OFFSETS = 200
# Needle-shaped voxels would else need a margin of thousands of them along their short side.
REACH = 8


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The offsets to a voxel's nearest neighbours on one grid, itself first.

    Parameters
    ----------
    step
        (3,): distance of neighbouring voxels along each axis; or (3, 3): its columns are the steps
        along each axis as vectors.
    offsets
        (3, n) voxels, nearest first.
    distances
        (n,) float64: their lengths in the unit of `step`.
    """

    step: Floats
    offsets: Points
    distances: Floats

    @classmethod
    def of(cls, step: Floats) -> Neighbours:
        """All offsets within the ball that holds about `OFFSETS` voxels, or reaches `REACH` voxels."""
        axes = np.diag(step) if step.ndim == 1 else step
        radius = (OFFSETS * abs(np.linalg.det(axes)) * 3 / (4 * math.pi)) ** (1 / 3)
        radius = min(radius, REACH * np.linalg.norm(axes, axis=0).min())
        # The rows of the inverse are the normals of the planes of voxels, one over their distance long.
        reach = np.floor(radius * np.linalg.norm(np.linalg.inv(axes), axis=1)).astype(np.intp)
        grid = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
        offsets = np.stack([axis.ravel() for axis in grid])
        distances = np.linalg.norm(_place(offsets, step), axis=1)
        order = np.argsort(distances, kind="stable")
        order = order[distances[order] <= radius]
        return cls(step, offsets[:, order], distances[order])

    def shells(self, flat: Points) -> Iterator[tuple[list[int], float]]:
        """The offsets, given as (n,) steps in a flat array, in groups of one distance each."""
        ends = np.flatnonzero(np.diff(self.distances, append=math.inf)) + 1
        start = 0
        for end in ends.tolist():
            yield flat[start:end].tolist(), float(self.distances[start])
            start = end


def nearest(start: Points, goal: Points, near: Neighbours) -> Floats:
    """From each voxel of `start` to the nearest of `goal`.

    Parameters
    ----------
    start, goal
        (3, n) and (3, m): voxel indices.
    near
        Of the grid that both lie on.

    Returns
    -------
    (n,) float64
        In the unit of the grid's step; inf where `goal` is empty.
    """
    found = np.full(start.shape[1], math.inf)
    if not start.size or not goal.size:
        return found
    reach = np.abs(near.offsets).max(axis=1)
    low = start.min(axis=1) - reach
    shape = start.max(axis=1) + reach + 1 - low
    taken = np.zeros(shape.prod(), dtype=np.bool_)
    # What lies farther than `reach` outside of the start's box is a matter for the tree alone.
    taken[_flat(_within(goal, low, low + shape), low, shape)] = True
    left, at = np.arange(found.size), _flat(start, low, shape)
    for shell, distance in near.shells(_flat(near.offsets, np.zeros(3, dtype=np.intp), shape)):
        hit = taken[at + shell[0]]
        for offset in shell[1:]:
            hit |= taken[at + offset]
        if hit.any():
            found[left[hit]] = distance
            miss = ~hit
            left, at = left[miss], at[miss]
            if not left.size:
                return found
    found[left] = _ask_tree(start[:, left], goal, near.step)
    return found


def _flat(index: Points, low: Points, shape: Points) -> Points:
    """(3, n) voxels -> (n,) their places in a flat C-ordered box that begins at `low`."""
    i, j, k = index
    width, depth = int(shape[1]), int(shape[2])
    first = (int(low[0]) * width + int(low[1])) * depth + int(low[2])
    return np.asarray((i * width + j) * depth + k - first, dtype=np.intp)


def _within(index: Points, low: Points, high: Points) -> Points:
    """Those of (3, n) voxels that lie in a box."""
    if (index.min(axis=1) >= low).all() and (index.max(axis=1) < high).all():
        return index
    return index[:, ((index >= low[:, None]) & (index < high[:, None])).all(axis=0)]


def _ask_tree(start: Points, goal: Points, step: Floats) -> Floats:
    from scipy.spatial import cKDTree

    tree = cKDTree(_place(goal, step), leafsize=32, compact_nodes=False, balanced_tree=False)
    return np.asarray(tree.query(_place(start, step))[0], dtype=np.float64)


def _place(index: Points, step: Floats) -> Floats:
    """(3, n) voxels -> (n, 3) positions."""
    return np.asarray(index.T * step if step.ndim == 1 else index.T @ step.T, dtype=np.float64, order="C")
