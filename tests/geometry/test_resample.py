"""Tests of masks on other grids with known results, and of sums along an axis, compared with a matrix."""

import tracemalloc

import numpy as np
import pytest
from conftest import rotation

from c3s3_seg.geometry.resample import along, axis_weights, resample, resample_mask
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.metrics.scoring import score

FINE = Geometry.build((40, 36, 30), (1, 1, 1), (-20, 5, 10), rotation(5, -8, 12))


def ball(grid: Geometry, radius_mm: float = 9.03) -> Volume:
    centre = FINE.to_mm((20, 18, 15))
    points = grid.to_mm(np.moveaxis(np.indices(grid.shape), 0, -1))
    return grid.volume((np.linalg.norm(points - centre, axis=-1) < radius_mm).astype(np.uint8) * 3)


def test_a_ball_stays_where_it_is_in_the_patient() -> None:
    turn, half_mm = rotation(-20, 4, 30), np.array((15, 25, 17)) * (1.4, 0.8, 1.1)
    other = Geometry.build((30, 50, 34), (1.4, 0.8, 1.1), FINE.to_mm((20, 18, 15)) - turn @ half_mm, turn)
    moved = resample_mask(ball(other), FINE)
    assert moved.geometry is FINE
    assert set(np.unique(moved.array)) == {0, 3}
    found = score(moved, ball(FINE), 3)
    assert found.dice > 0.93
    assert found.hd_mm <= 2
    assert abs(found.volume_error_ml / found.truth_ml) < 0.03
    assert "30 x 50 x 34 voxels" in moved.source.notes[-1]


def test_a_shift_by_whole_voxels_is_exact() -> None:
    affine = FINE.affine.copy()
    affine[:3, 3] = FINE.to_mm((3, -2, 1))
    shifted = Geometry((40, 36, 30), affine)
    moved = resample_mask(ball(shifted), FINE)
    assert np.array_equal(moved.array, ball(FINE).array)


def test_outside_is_background() -> None:
    small = Geometry.build((4, 4, 4), (1, 1, 1), FINE.origin_mm, rotation(5, -8, 12))
    moved = resample_mask(small.volume(np.ones((4, 4, 4), bool)), FINE)
    assert np.count_nonzero(moved.array) == 64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_the_same_grid_is_left_alone(dtype: type) -> None:
    mask = FINE.volume(ball(FINE).array.astype(dtype))
    assert resample_mask(mask, FINE) is mask


def test_what_lies_outside_is_counted() -> None:
    """A bar of 10 voxels along x is resampled to a grid of half the spacing that covers 6 of them."""
    mask = np.zeros((10, 3, 3), np.uint8)
    mask[:, 1, 1] = 2
    grid = Geometry.build((12, 6, 6), (0.5, 0.5, 0.5), (1.75, -0.25, -0.25))
    moved = resample_mask(Geometry.build((10, 3, 3)).volume(mask), grid)
    assert moved.source.notes[-1].endswith("; 4 of its 10 labelled voxels lie outside and are left out")
    whole = Geometry.build((20, 6, 6), (0.5, 0.5, 0.5), (-0.25, -0.25, -0.25))
    assert "outside" not in resample_mask(Geometry.build((10, 3, 3)).volume(mask), whole).source.notes[-1]


def matrix(inputs: int, outputs: int) -> np.ndarray:
    """Return the same weights by comparing each voxel of one grid with each voxel of the other."""
    factor, voxels = inputs / outputs, np.arange(inputs)
    if factor > 1:
        edges = np.arange(outputs + 1)[:, None] * factor
        shared = np.minimum(edges[1:], voxels + 1) - np.maximum(edges[:-1], voxels)
        return (shared.clip(0) / factor).astype(np.float32)
    centres = ((np.arange(outputs) + 0.5) * factor - 0.5).clip(0, inputs - 1)
    return (1 - np.abs(centres[:, None] - voxels)).clip(0).astype(np.float32)


SIZES = [
    (13, 1),
    (13, 3),
    (13, 9),
    (13, 13),
    (13, 14),
    (13, 40),
    (1, 5),
    (20, 19),
    (3, 299),
    (299, 7),
    (49, 48),
]


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_the_weights_are_those_of_the_matrix(inputs: int, outputs: int) -> None:
    weights, wanted = axis_weights(inputs, outputs), matrix(inputs, outputs)
    np.testing.assert_array_equal(along(weights, np.eye(inputs, dtype=np.float32), 0), wanted)
    np.testing.assert_array_equal(weights.first, (wanted != 0).argmax(axis=1))
    np.testing.assert_array_equal(weights.last, inputs - 1 - (wanted != 0)[:, ::-1].argmax(axis=1))
    np.testing.assert_allclose(wanted.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_part_gives_the_same_numbers(inputs: int, outputs: int) -> None:
    weights = axis_weights(inputs, outputs)
    array = np.random.default_rng(0).normal(size=(inputs, 2)).astype(np.float32)
    some = slice(outputs // 3, outputs // 3 + (outputs + 1) // 2)
    used = slice(int(weights.first[some].min()), int(weights.last[some].max()) + 1)
    found = along(weights.part(some, used), array[used], 0)
    np.testing.assert_array_equal(found, along(weights, array, 0)[some])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("outputs", [1, 3, 9, 13, 14, 40])
def test_gathering_is_the_matrix_product(axis: int, outputs: int) -> None:
    array = np.random.default_rng(0).normal(size=(13, 13, 13)).astype(np.float32)
    wanted = np.moveaxis(np.tensordot(matrix(13, outputs), array, axes=(1, axis)), 0, axis)
    np.testing.assert_allclose(along(axis_weights(13, outputs), array, axis), wanted, atol=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(60_000, 120_000), (60_000, 40_000), (60_000, 1)])
def test_a_long_axis_takes_memory_by_its_length(inputs: int, outputs: int) -> None:
    """A float32 matrix of both lengths would take 29 and 10 GB in the first two cases."""
    tracemalloc.start()
    found = resample(np.ones((inputs, 1, 1), np.float32), (outputs, 1, 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Each addition rounds to 6e-8 of the sum.
    np.testing.assert_allclose(found, 1, rtol=1e-6 + 6e-8 * inputs / outputs)
    assert peak < 200 * (inputs + outputs)
