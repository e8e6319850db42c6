import numpy as np
import pytest
import torch

from c3s3_seg.bundle.preprocessing import Intensity, Recipe, exact_in_float32
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference.device.arrays import TorchArrays
from c3s3_seg.inference.device.prepare import BYTES, SHARE, scale, to_model_grid

DEVICE = TorchArrays(torch.device("cpu"))
RECIPES = [
    Recipe((1.0, 1.0, 1.0)),
    Recipe((2.0, 0.5, 1.1)),
    Recipe((0.7, 0.9, 2.5)),
    Recipe((1.3, 0.6, 3.0), Intensity("window", 100, 3000)),
]


def prepared(recipe: Recipe, scan: Volume, limit: int | None = None) -> np.ndarray:
    exact = exact_in_float32(scan)
    grid = recipe.grid(scan.geometry)
    array = to_model_grid(exact, scan.geometry, grid, DEVICE, limit)
    return np.asarray(scale(recipe.intensity, array, exact.offset).numpy())


def turned(scan: Volume, order: tuple[int, int, int], reversed_axes: tuple[int, ...]) -> Volume:
    """Return the same voxels stored with other axes."""
    array = np.flip(scan.array.transpose(order), reversed_axes)
    steps = np.zeros((4, 4))
    steps[3, 3] = 1
    for axis, source in enumerate(order):
        steps[source, axis] = -1 if axis in reversed_axes else 1
        steps[source, 3] = array.shape[axis] - 1 if axis in reversed_axes else 0
    i, j, k = array.shape
    return Geometry((i, j, k), scan.geometry.affine @ steps).volume(array)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("order", "reversed_axes"), [((0, 1, 2), ()), ((2, 0, 1), (0, 2)), ((1, 0, 2), (1,))]
)
def test_the_network_is_given_the_same_numbers(
    recipe: Recipe, order: tuple[int, int, int], reversed_axes: tuple[int, ...], oblique: Volume
) -> None:
    scan = turned(oblique, order, reversed_axes)
    np.testing.assert_array_equal(prepared(recipe, scan), recipe.to_model(scan).array)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("voxels", [1, 500, 2000])
def test_parts_change_no_number(recipe: Recipe, voxels: int, oblique: Volume) -> None:
    """The limit allows that many voxels of the scan on the device at a time."""
    whole = prepared(recipe, oblique)
    np.testing.assert_array_equal(prepared(recipe, oblique, SHARE * BYTES * voxels), whole)


def test_an_offset_is_taken_off_first(oblique: Volume) -> None:
    for recipe in (RECIPES[0], Recipe((1.0, 1.0, 1.0), Intensity("window", 1e8 + 100, 1e8 + 3000))):
        moved = oblique.geometry.volume(oblique.array.astype(np.float64) + 1e8)
        np.testing.assert_array_equal(prepared(recipe, moved), recipe.to_model(moved).array)


def test_a_flat_volume_becomes_zeros(oblique: Volume) -> None:
    flat = oblique.geometry.volume(np.full(oblique.array.shape, 1234.5, np.float32))
    assert not prepared(RECIPES[1], flat).any()


def test_the_scan_stays_as_it_was(oblique: Volume) -> None:
    """On the CPU a tensor may share the memory of the scan."""
    scan = oblique.geometry.volume(oblique.array.astype(np.float32))
    before = scan.array.copy()
    for recipe in RECIPES:
        prepared(recipe, scan)
    np.testing.assert_array_equal(scan.array, before)
