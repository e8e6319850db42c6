"""Planes through a voxel: the mark is on the voxel, whatever the orientation of the grid."""

import tracemalloc
from itertools import permutations, product

import numpy as np
import pytest

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.report.outlines import COLOURS, LabelOutline, outlines
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
    # Slices are counted from 1 in the order of the file, whatever the direction of its axes.
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


def test_a_hundred_labels_need_no_hundred_volumes() -> None:
    geometry = Geometry.build((100, 100, 100))
    array = np.zeros(geometry.shape, np.uint8)
    array[20:80, 20:80, 20:80] = np.arange(1, 61, dtype=np.uint8)
    mask, labels = geometry.volume(array), {f"label_{n}": n for n in range(1, 101)}
    planes_webp(mask, outlines(mask, {"x": 1}))  # imports
    tracemalloc.start()
    planes_webp(mask, outlines(mask, labels, mask), (50, 50, 50))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * array.size  # mostly the window's sample in float64


def test_a_value_that_is_no_label_is_not_drawn_and_widens_no_field() -> None:
    geometry = Geometry.build((200, 20, 20))
    array = np.zeros(geometry.shape, np.uint8)
    array[90:95, 5:9, 5:9] = 1
    alone = geometry.volume(array.copy())
    array[0:3, 5:9, 5:9] = 7
    both = geometry.volume(array)
    scan = geometry.volume(np.indices(geometry.shape)[0].astype(np.float32))
    assert planes_webp(scan, outlines(both, {"x": 1})) == planes_webp(scan, outlines(alone, {"x": 1}))


def test_planes_lie_in_the_truth_where_nothing_was_predicted() -> None:
    geometry = Geometry.build((40, 40, 40))
    array = np.zeros(geometry.shape, np.uint8)
    array[3:6, 3:6, 3:6] = 1
    truth, empty = geometry.volume(array), geometry.volume(array * 0)
    scan = geometry.volume(np.indices(geometry.shape).sum(axis=0).astype(np.float32))
    found = planes_webp(scan, outlines(empty, {"x": 1}, truth))
    assert found == planes_webp(scan, outlines(empty, {"x": 1}, truth), (3, 3, 3), ring=False)
