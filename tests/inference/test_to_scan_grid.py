import tracemalloc

import numpy as np
import pytest
from helpers.to_scan import to_scan

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference.arrays import BLOCK
from c3s3_seg.inference.mask_builder import MaskBuilder
from c3s3_seg.inference.streaming import Slab
from c3s3_seg.inference.tiling import softmax
from c3s3_seg.inference.to_scan_grid import ScanGridResampler

Shape = tuple[int, int, int]


def probabilities(classes: int, shape: Shape) -> np.ndarray:
    """Return smooth regions, one for each class, with background around them: (classes, x, y, z)."""
    from scipy import ndimage

    logits = np.random.default_rng(3).normal(size=(classes, *shape))
    logits = np.stack([ndimage.gaussian_filter(x, 2) for x in logits]) * 60
    middle = sum(np.linspace(-1, 1, n).reshape([-1 if a == i else 1 for a in range(3)]) ** 2
                 for i, n in enumerate(shape))  # fmt: skip
    logits[0] += 6 * middle - 4
    return softmax(logits[None].astype(np.float32))[0]


def cut(values: np.ndarray, axis: int, thickness: int) -> list[Slab]:
    stops = range(0, values.shape[1 + axis], thickness)
    parts = (np.take(values, range(n, min(n + thickness, values.shape[1 + axis])), 1 + axis) for n in stops)
    return [Slab(axis, n, part) for n, part in zip(stops, parts, strict=True)]


def whole(values: np.ndarray, goal: Shape) -> np.ndarray:
    """Return every class resampled at full size, the plain way; its argmax is the label."""
    return np.stack([to_scan(channel, Geometry.build(goal)) for channel in values])


def streamed(values: np.ndarray, goal: Shape, axis: int, thickness: int) -> np.ndarray:
    labels = np.zeros(goal, np.uint8)
    shape = values.shape[1:]
    for block in ScanGridResampler(shape, goal, len(values))(cut(values, axis, thickness)):
        labels[block.where] = np.stack([block.channel(n) for n in range(len(values))]).argmax(0)
    return labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1, 3, 100])
@pytest.mark.parametrize("goal", [(40, 37, 31), (23, 20, 19), (11, 45, 19), (24, 8, 50)])
def test_labels_are_those_of_the_plain_way(classes: int, axis: int, thickness: int, goal: Shape) -> None:
    values = probabilities(classes, (23, 20, 19))
    expected = whole(values, goal)
    found = streamed(values, goal, axis, thickness)
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-5  # elsewhere rounding decides
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(found[clear], expected.argmax(0)[clear])
    assert 0.02 < (found > 0).mean() < 0.98


def test_of_equally_likely_labels_the_first_is_taken() -> None:
    """Also in the masks of two networks that are compared."""
    values = np.array([[0.5, 0.2, 0.25], [0.5, 0.4, 0.25], [0.0, 0.4, 0.5]], np.float32)
    slab = Slab(0, 0, np.concatenate([values, values]).reshape(6, 3, 1, 1))
    task = Task("x", "MR", (Label("a", 3), Label("b", 5)), Recipe((1.0, 1.0, 1.0)), (16, 16, 16))
    builder = MaskBuilder(task, Geometry.build((3, 1, 1)), networks=2)
    builder.fill([slab], (3, 1, 1))
    for mask in (builder.mask, *builder._compared.masks):
        assert mask.ravel().tolist() == [0, 3, 5]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blocks_cover_the_scan_where_all_of_it_is_wanted(axis: int, monkeypatch) -> None:
    monkeypatch.setattr("c3s3_seg.inference.arrays.HostArrays.block", 500)
    values, goal = probabilities(3, (10, 9, 8)), (21, 17, 12)
    found, times = np.zeros((3, *goal), np.float32), np.zeros(goal, int)
    for block in ScanGridResampler((10, 9, 8), goal, 3, all_of_it=True)(cut(values, axis, 4)):
        times[block.where] += 1
        for number in range(3):
            found[number][block.where] = block.channel(number)
    assert (times == 1).all()
    np.testing.assert_allclose(found, whole(values, goal), atol=1e-6)


def test_where_no_foreground_can_win_nothing_is_interpolated() -> None:
    values = np.zeros((2, 30, 30, 30), np.float32)
    values[0] = 1
    assert list(ScanGridResampler((30, 30, 30), (60, 60, 60), 2)(cut(values, 0, 5))) == []
    values[:, 12:15, 20:22, 4:6] = [[[[0]]], [[[1]]]]
    blocks = list(ScanGridResampler((30, 30, 30), (60, 60, 60), 2)(cut(values, 0, 5)))
    assert blocks
    assert sum(block.channel(0).size for block in blocks) < 60**3 / 50


@pytest.mark.parametrize(
    ("shape", "goal"), [((1, 1, 1), (1, 1, 1)), ((1, 3, 1), (4, 3, 2)), ((5, 1, 2), (2, 1, 1))]
)
def test_single_voxels(shape: Shape, goal: Shape) -> None:
    values = probabilities(2, shape)
    np.testing.assert_array_equal(streamed(values, goal, 0, 1), whole(values, goal).argmax(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_that_are_missing_make_no_mask(axis: int) -> None:
    slabs = cut(probabilities(3, (23, 20, 19)), axis, 5)
    for left in ([], slabs[1:], slabs[:-1], slabs[:1] + slabs[2:], slabs + slabs[-1:]):
        with pytest.raises(InputError, match="these probabilities were already taken, in part or as a whole"):
            list(ScanGridResampler((23, 20, 19), (40, 37, 31), 3)(left))


def test_no_class_exists_at_full_size() -> None:
    values = probabilities(4, (32, 32, 32))
    goal = (256, 256, 256)
    tracemalloc.start()
    for block in ScanGridResampler((32, 32, 32), goal, 4)(cut(values, 0, 8)):
        block.channel(1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 4 * BLOCK < 4 * np.prod(goal)
