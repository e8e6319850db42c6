"""Tests of areas and shares against the package that defines them, and against values by hand."""

import math

import numpy as np
import pytest
import surface_distance
from helpers.masks import blobs
from surface_distance import lookup_tables

from c3s3_seg.errors import InputError
from c3s3_seg.metrics.surface_area import CORNERS, area_within, surface_element_areas

SPACINGS = [(1.0, 1.0, 1.0), (0.625, 0.625, 2.5), (0.3, 1.7, 0.9)]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_256_areas_equal_the_table_of_surface_distance(spacing: tuple[float, ...]) -> None:
    theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    # The code of `surface_distance` gives corner (i, j, k) the weight at this place of its kernel.
    weights = [int(lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL[corner]) for corner in CORNERS]
    order = [sum(w for bit, w in enumerate(weights) if code >> bit & 1) for code in range(256)]
    assert surface_element_areas(np.array(spacing)) == pytest.approx(theirs[order], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_shares_equal_surface_distance(seed: int, spacing: tuple[float, ...]) -> None:
    p, t = blobs(seed)
    distances = surface_distance.compute_surface_distances(t, p, spacing)
    tolerances = (0.0, 0.5, 1.0, 2.0, 5.0)
    wanted = [surface_distance.compute_surface_dice_at_tolerance(distances, mm) for mm in tolerances]
    assert area_within(p, t, spacing, tolerances) == pytest.approx(wanted, abs=1e-9)
    other = [n * 1.1 for n in spacing]
    assert area_within(p, t, other, tolerances) != pytest.approx(wanted, abs=1e-9)


def test_a_large_cube_has_its_own_area() -> None:
    cube = np.zeros((34, 34, 34), dtype=bool)
    cube[2:32, 2:32, 2:32] = True
    (share,) = area_within(cube, cube, (1, 1, 1), (0.0,))
    assert share == 1
    from c3s3_seg.metrics.surface_area import _elements

    area = _elements(cube, surface_element_areas(np.ones(3)))[1].sum()
    assert area == pytest.approx(6 * 30 * 30, rel=0.05)  # the edges of the cube are bevelled


def test_a_distance_that_equals_the_tolerance_is_within_it() -> None:
    """As for the share of voxels, a spacing that went through float32 may be a little larger."""
    first, second = np.zeros((4, 4, 8), bool), np.zeros((4, 4, 8), bool)
    first[1:3, 1:3, 2] = second[1:3, 1:3, 3] = True
    step = float(np.float32(0.7))
    assert step < 0.7 < (exact := step + 5e-8)
    assert area_within(first, second, (exact,) * 3, (0.7,)) == [1.0]
    assert area_within(first, second, (0.7001,) * 3, (0.7,))[0] < 1


def test_empty_masks() -> None:
    empty, one = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    one[0, 0, 0] = True
    assert math.isnan(area_within(empty, empty, (1, 1, 1), (1.0,))[0])
    assert area_within(empty, one, (1, 1, 1), (1.0, 2.0)) == [0, 0]


def test_a_sheared_grid_is_refused() -> None:
    with pytest.raises(InputError, match="right angles"):
        area_within(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), np.eye(3), (1.0,))
