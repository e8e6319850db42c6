"""Planes through a voxel: the mark stands on it, whatever way the grid is turned."""

from itertools import permutations, product

import numpy as np
import pytest

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.report.outlines import COLOURS, LabelOutline
from c3s3_seg.report.overlay import planes_webp
from c3s3_seg.report.planes import PLANES, cut, intensity_window

TURNS = [
    np.eye(3)[list(order)] * signs
    for order in permutations(range(3))
    for signs in list(product((-1, 1), repeat=3))[::3]
]


@pytest.mark.parametrize("direction", TURNS, ids=str)
def test_the_mark_stands_on_the_voxel(direction: np.ndarray) -> None:
    geometry = Geometry.build((80, 70, 60), (1, 1.2, 2), direction=direction)
    organ, voxel = np.zeros(geometry.shape, bool), np.zeros(geometry.shape, bool)
    organ[40:50, 20:30, 30:35] = True
    voxel[47, 22, 33] = True
    scan = geometry.volume(organ.astype(np.float32))
    panels = cut(scan, [organ, voxel], through=(47, 22, 33))
    # Slices are counted from 1 in the order of the file, whatever way its axes run.
    numbers = {(panel.slice.number, panel.slice.count) for panel in panels}
    assert numbers == {(48, 80), (23, 70), (34, 60)}
    assert [panel.plane for panel in panels] == list(PLANES)
    for panel in panels:
        assert panel.mark is not None
        column, row = panel.mark
        assert np.argwhere(panel.masks[1]).tolist() == [[int(row), int(column)]]


def test_without_a_voxel_there_is_no_mark() -> None:
    geometry = Geometry.build((20, 20, 20))
    mask = np.zeros(geometry.shape, bool)
    mask[5:9, 5:9, 5:9] = True
    volume = geometry.volume(mask.astype(np.float32))
    assert all(panel.mark is None for panel in cut(volume, [mask]))
    outline = LabelOutline("organ", mask, COLOURS[0])
    assert planes_webp(volume, [outline]) != planes_webp(volume, [outline], (5, 5, 5))


@pytest.mark.parametrize("value", [7.0, 0.0, 1e20, -3e30])
def test_a_constant_scan_is_black_whatever_its_value(value: float) -> None:
    geometry = Geometry.build((8, 8, 1))
    scan = geometry.volume(np.full(geometry.shape, value, np.float32))
    mask = np.zeros(geometry.shape, bool)
    mask[2:4, 2:4] = True
    low, high = intensity_window(scan.array)
    assert low < high
    with np.errstate(all="raise"):
        assert not any(panel.grey.any() for panel in cut(scan, [mask]))
