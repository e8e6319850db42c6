"""Masks on other grids, where the answer is known."""

import numpy as np
import pytest
from conftest import rotation

from c3s3_seg.geometry.resample import resample_mask
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
