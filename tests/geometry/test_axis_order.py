"""Tests of the same voxels in another order: all 48 orders are recognised, other voxels are not."""

from itertools import permutations, product

import numpy as np
import pytest
from conftest import rotation

from c3s3_seg.geometry.axis_order import permutation_between, permuted_onto
from c3s3_seg.geometry.volume import Geometry, Volume

SCAN = Geometry.build((5, 6, 7), (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), rotation(12, -20, 30))
MASK = SCAN.volume(np.arange(210, dtype=np.uint8).reshape(5, 6, 7))


def stored(order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """Return the same mask as a converter could have stored it."""
    affine = np.eye(4)
    affine[:3, :3] = SCAN.affine[:3, list(order)] * np.where(flips, -1, 1)
    first = np.zeros(3)
    for axis, flip in zip(order, flips, strict=True):
        first[axis] = (SCAN.shape[axis] - 1) * flip
    affine[:3, 3] = SCAN.to_mm(first)
    array = np.flip(MASK.array.transpose(order), [n for n in range(3) if flips[n]])
    return Volume(array, Geometry(array.shape, affine))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_all_48(order: tuple[int, ...]) -> None:
    for flips in product((False, True), repeat=3):
        mask = stored(order, flips)
        back = permuted_onto(mask, SCAN)
        assert np.array_equal(back.array, MASK.array)
        assert back.geometry.matches(SCAN)
        changed = order != (0, 1, 2) or any(flips)
        assert ("the axes of the mask were turned" in str(back.source.notes)) == changed


def test_other_voxels_are_left_as_they_are() -> None:
    shifted = SCAN.affine.copy()
    shifted[:3, 3] += 0.3
    finer = SCAN.affine.copy()
    finer[:3, 0] /= 2
    turned = Geometry.build(SCAN.shape, SCAN.spacing_mm, SCAN.origin_mm)
    larger = Geometry((5, 6, 8), SCAN.affine)
    for other in (Geometry(SCAN.shape, shifted), Geometry(SCAN.shape, finer), turned, larger):
        assert permutation_between(other, SCAN) is None
        mask = other.volume(np.zeros(other.shape, np.uint8))
        assert permuted_onto(mask, SCAN) is mask
