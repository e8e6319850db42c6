"""Measure the area of surface elements: the normalised surface distance by area instead of voxels.

Each corner at which eight voxels meet, some but not all of them inside, carries the piece of surface between
the eight voxels' centres: polygons whose corners are halfway between a centre inside and one outside.
Nikolov et al. (JMIR 2021) define the measure in this way; the package surface-distance is the reference. Its
table of areas follows from two rules, which a test compares for all 256 cases: where the polygons could be
joined in two ways, the side with fewer centres is cut into separate pieces, and a polygon that is not flat
is cut into the triangles that have the most area on a grid of cubes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from c3s3_seg.errors import InputError
from c3s3_seg.metrics.nearest import Floats, Neighbours, Points, nearest
from c3s3_seg.metrics.surface_distance import NSD_SLACK

Mask = NDArray[np.bool_]
Corner = tuple[float, ...]
Loop = list[NDArray[np.float64]]

CORNERS = tuple(product((0, 1), repeat=3))  # bit n of a code is set if CORNERS[n] is inside


def area_within(a: Mask, b: Mask, spacing: ArrayLike, tolerances: tuple[float, ...]) -> list[float]:
    """Return the share of both surfaces' area that lies within each tolerance of the other surface.

    Parameters
    ----------
    a, b
        (i, j, k) bool, the same shape; outside of the array is background.
    spacing
        (3,): distance of neighbouring voxels along i, j, k.
    tolerances
        Tolerances in the unit of `spacing`; distances are measured between the corners of voxels.

    Returns
    -------
    list of float
        One share for each tolerance; nan if both masks are empty, 0 if one is. Equals
        `compute_surface_dice_at_tolerance` of surface-distance.

    Raises
    ------
    InputError
        If the grid's axes are not perpendicular (`spacing` is not three numbers), for which the areas
        are not defined.
    """
    step = np.asarray(spacing, dtype=np.float64)
    if step.shape != (3,):
        raise InputError("the area of a surface needs a grid with right angles, found a sheared one")
    areas = surface_element_areas(step)
    (at_a, area_a), (at_b, area_b) = (_elements(mask, areas) for mask in (a, b))
    total = float(area_a.sum() + area_b.sum())
    near = Neighbours.of(step)
    d_ab, d_ba = nearest(at_a, at_b, near), nearest(at_b, at_a, near)
    reach = [tolerance + NSD_SLACK for tolerance in tolerances]  # same as in `Surfaces.nsd`
    within = [float(area_a[d_ab <= far].sum() + area_b[d_ba <= far].sum()) for far in reach]
    return [share / total if total else math.nan for share in within]


def surface_element_areas(spacing: Floats) -> Floats:
    """Return the surface area among eight voxels for each code of voxels inside, (256,) float64."""
    # A normal's component is a product of two lengths: it scales with the spacings of the other two axes.
    scale = np.prod(spacing) / spacing
    return np.array([float(np.linalg.norm(normals * scale, axis=1).sum()) for normals in _normals()])


def _elements(mask: Mask, areas: Floats) -> tuple[Points, Floats]:
    """Return the (3, n) corners of voxels on the surface and the (n,) area that each corner carries."""
    framed = np.pad(mask, 1)
    codes = np.zeros([n - 1 for n in framed.shape], dtype=np.uint8)
    for bit, (i, j, k) in enumerate(CORNERS):
        inside = framed[i : i + codes.shape[0], j : j + codes.shape[1], k : k + codes.shape[2]]
        codes |= inside.view(np.uint8) << bit
    found = np.flatnonzero((codes != 0) & (codes != 255))
    return np.stack(np.unravel_index(found, codes.shape)), areas[codes.ravel()[found]]


@lru_cache(maxsize=1)
def _normals() -> tuple[Floats, ...]:
    """Return for each code the (n, 3) triangle normals on a grid of unit cubes, as long as the areas."""
    points = []
    for code in range(256):
        inside = {corner: bool(code >> bit & 1) for bit, corner in enumerate(CORNERS)}
        found = [_largest(loop) for loop in _loops(inside)]
        points.append(np.concatenate([np.zeros((1, 3)), *found]))
    return tuple(points)


def _loops(inside: dict[tuple[int, ...], bool]) -> list[Loop]:
    """Return the polygons of one case, each as the ordered midpoints of the edges that it crosses."""
    links: dict[Corner, list[Corner]] = {}
    for one, other in _face_links(inside):
        links.setdefault(one, []).append(other)
        links.setdefault(other, []).append(one)
    loops = []
    while links:
        at = next(iter(links))
        loop = []
        while at in links:
            loop.append(np.array(at))
            at = next((n for n in links.pop(at) if n in links), at)
        loops.append(loop)
    return loops


def _face_links(inside: dict[tuple[int, ...], bool]) -> list[tuple[Corner, Corner]]:
    """Return, for all six faces, the pairs of edge midpoints that are joined by a line."""
    separate = sum(inside.values()) <= 4  # the side with fewer centres is cut into separate pieces
    links = []
    for axis, side in product(range(3), (0, 1)):
        ring = [(*face[:axis], side, *face[axis:]) for face in ((0, 0), (1, 0), (1, 1), (0, 1))]
        edges = [(ring[n], ring[(n + 1) % 4]) for n in range(4)]
        middle = [tuple(float(m) for m in np.add(a, b) / 2) for a, b in edges if inside[a] != inside[b]]
        if len(middle) == 4 and inside[ring[1]] != separate:
            middle = [*middle[1:], middle[0]]  # cut off corners 0 and 2 instead of 1 and 3
        links += [(middle[n], middle[n + 1]) for n in range(0, len(middle), 2)]
    return links


def _largest(loop: Loop) -> Floats:
    """Return the (n, 3) normals of a polygon's triangles, for the cut with the most area."""
    cuts = [np.array([_normal(loop, *corners) for corners in cut]) for cut in _cuts(0, len(loop) - 1)]
    # Equal areas may differ in their last digit, hence the rounding: the first of them is as good.
    return max(cuts, key=lambda normals: round(float(np.linalg.norm(normals, axis=1).sum()), 9))


def _normal(loop: Loop, a: int, b: int, c: int) -> Floats:
    return np.asarray(np.cross(loop[b] - loop[a], loop[c] - loop[a]) / 2)


def _cuts(first: int, last: int) -> list[list[tuple[int, int, int]]]:
    """Return all ways to cut the polygon first, first + 1, ..., last into triangles."""
    if last - first < 2:
        return [[]]
    return [
        [*one, *other, (first, tip, last)]
        for tip in range(first + 1, last)
        for one in _cuts(first, tip)
        for other in _cuts(tip, last)
    ]
