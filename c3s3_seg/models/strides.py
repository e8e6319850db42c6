"""Strides of the four downsamplings of a backbone, which divide the sides of its input; without torch."""

from collections.abc import Sequence
from math import prod

Triple = tuple[int, int, int]
# Finest first: for each downsampling, 2 for the axes (x, y, z) that it halves, 1 for the others.
Strides = tuple[Triple, Triple, Triple, Triple]
EVEN: Strides = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
NONE: Triple = (1, 1, 1)  # stride of a layer that keeps its sides
THICK = 2.0  # multiple of the smallest spacing from which an axis is not halved: nnU-Net's value
LEAST = 4  # fewest voxels of a side that halving may leave: nnU-Net's value


def multiple_of(strides: Strides) -> Triple:
    """Return the numbers of which the sides of an input (x, y, z) must be multiples.

    >>> multiple_of(((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)))
    (16, 16, 4)
    """
    x, y, z = (prod(axis) for axis in zip(*strides, strict=True))
    return x, y, z


def strides_of(spacing_mm: Sequence[float], sides: Sequence[float] | None = None) -> Strides:
    """Return strides for a spacing: each downsampling halves the axes with less than twice the smallest.

    Parameters
    ----------
    spacing_mm
        Spacing of the network's input, along x, y and z.
    sides
        Voxels of a scan along each axis: an axis is not halved if fewer than 4 would be left, and the others
        are compared without it. If that holds for every axis, the sides are ignored.

    >>> strides_of((1.5, 1.5, 10.0))
    ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    >>> strides_of((1.5, 1.5, 10.0), (96, 96, 10))
    ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 1))
    >>> strides_of((1.0, 1.0, 1.0), (200, 200, 6))
    ((2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1))
    """
    spacing = [float(size) for size in spacing_mm]
    left = [float(side) for side in sides] if sides is not None else [float("inf")] * 3
    found = []
    for _ in EVEN:
        able = [side >= 2 * LEAST for side in left]
        if not any(able):
            able = [True] * 3
        finest = min(size for size, may in zip(spacing, able, strict=True) if may)
        x, y, z = (2 if may and size < THICK * finest else 1 for size, may in zip(spacing, able, strict=True))
        spacing = [size * stride for size, stride in zip(spacing, (x, y, z), strict=True)]
        left = [side / stride for side, stride in zip(left, (x, y, z), strict=True)]
        found.append((x, y, z))
    return found[0], found[1], found[2], found[3]


def kernels_of(strides: Strides) -> tuple[Triple, Triple, Triple, Triple, Triple]:
    """Return the kernel sides of the five levels, finest first: 1 across slices that are still thick.

    A slice is thick on a level where its axis is not halved, and was not before; on the coarsest level
    all sides are 3, so that slices see each other.

    >>> kernels_of(((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 1)))
    ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    """
    found, thick = [], [True, True, True]
    for stride in strides:
        thick = [was and step == 1 for was, step in zip(thick, stride, strict=True)]
        x, y, z = (1 if still else 3 for still in thick)
        found.append((x, y, z))
    return found[0], found[1], found[2], found[3], (3, 3, 3)
