"""Tests of volumes, pieces and cut sides of masks for which the result is known."""

import numpy as np
import pytest

from c3s3_seg.dataset.check.mask_statistics import measure_mask
from c3s3_seg.geometry.volume import Array, Geometry, Volume


def mask(array: Array) -> Volume:
    return Geometry.build(array.shape, (1.0, 2.0, 2.5)).volume(array.astype(np.uint8))


def test_a_box() -> None:
    array = np.zeros((20, 20, 20))
    array[5:15, 5:15, 5:15] = 2
    found = measure_mask(mask(array), {"a": 2, "b": 3})
    assert found.volumes_ml == {"a": pytest.approx(5.0), "b": 0}
    assert found.second == {"a": (0.0, None), "b": (0.0, None)}
    assert found.cut == 0


def test_a_second_piece_and_where_it_is() -> None:
    array = np.zeros((20, 20, 20))
    array[2:12, 2:12, 2:12] = 1
    array[15:17, 15:17, 15:17] = 1
    array[12, 12, 12] = 1  # touches the box at a corner, so it is no separate piece
    share, at = measure_mask(mask(array), {"a": 1}).second["a"]
    assert share == pytest.approx(8 / 1001)
    assert at is not None
    assert all(15 <= n < 17 for n in at)


def test_a_cut_side() -> None:
    array = np.zeros((20, 20, 20))
    array[:10, 5:15, 5:15] = 1
    assert measure_mask(mask(array), {"a": 1}).cut == pytest.approx(100 / (1000 - 512))


def test_without_names_and_without_anything() -> None:
    array = np.zeros((4, 4, 4))
    assert measure_mask(mask(array), {}).volumes_ml == {}
    array[1, 1, 1] = 7
    assert measure_mask(mask(array), {}).volumes_ml == {"7": pytest.approx(0.005)}
