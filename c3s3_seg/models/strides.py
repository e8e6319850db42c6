"""How the four downsamplings of a backbone divide the sides of its input. Without torch."""

from collections.abc import Sequence
from math import prod

Triple = tuple[int, int, int]
# Finest first: along which axes (x, y, z) each downsampling halves, 2, or does not, 1.
Strides = tuple[Triple, Triple, Triple, Triple]
EVEN: Strides = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
NONE: Triple = (1, 1, 1)  # of what keeps its sides
THICK = 2.0  # times the smallest spacing, from which an axis is not halved: nnU-Net's value


def multiple_of(strides: Strides) -> Triple:
    """What the sides of an input (x, y, z) must be multiples of.

    >>> multiple_of(((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)))
    (16, 16, 4)
    """
    x, y, z = (prod(axis) for axis in zip(*strides, strict=True))
    return x, y, z


def strides_of(spacing_mm: Sequence[float]) -> Strides:
    """For voxels of this size: each downsampling halves the axes whose spacing is below twice the smallest.

    >>> strides_of((1.5, 1.5, 10.0))
    ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    """
    spacing = [float(size) for size in spacing_mm]
    found = []
    for _ in EVEN:
        x, y, z = (2 if size < THICK * min(spacing) else 1 for size in spacing)
        spacing = [size * stride for size, stride in zip(spacing, (x, y, z), strict=True)]
        found.append((x, y, z))
    return found[0], found[1], found[2], found[3]
