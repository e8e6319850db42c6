import tracemalloc
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from conftest import rotation
from helpers.to_scan import to_scan

from c3s3_seg.bundle.preprocessing import Intensity, Recipe, intensity_defect, refuse_flat
from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry, Source, Volume, fits_float32, narrow


def ramp(geometry: Geometry) -> np.ndarray:
    """Return x + 2 y + 3 z of every voxel, in mm: linear, so that interpolation is exact inside."""
    return (geometry.to_mm(np.moveaxis(np.indices(geometry.shape), 0, -1)) @ [1.0, 2.0, 3.0]).astype(
        np.float32
    )


INNER = (slice(2, -2),) * 3


def orientations() -> list[np.ndarray]:
    """Return the 48 ways in which three axes can lie along the patient's axes."""
    return [
        np.eye(3)[:, list(order)] * np.array(signs)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]


@pytest.mark.parametrize("direction", orientations())
def test_every_orientation_ends_on_the_same_axes(direction: np.ndarray) -> None:
    geometry = Geometry.build((24, 20, 16), (0.8, 1.0, 1.3), (3, -4, 5), direction)
    grid = Recipe((1.0, 1.0, 1.0)).grid(geometry)
    np.testing.assert_allclose(grid.direction, np.eye(3), atol=1e-12)
    coarse = Recipe((1.4, 1.4, 1.4)).grid(geometry)  # the scan is finer: a linear field is exact
    np.testing.assert_allclose(to_scan(ramp(coarse), geometry)[INNER], ramp(geometry)[INNER], atol=1e-4)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.5, 0.6, 0.7), (1.1, 0.4, 3.0)])
def test_positions_survive_the_way_there_and_back(spacing: tuple[float, float, float]) -> None:
    geometry = Geometry.build((30, 26, 22), (0.8, 1.0, 1.3), (3, -4, 5), rotation(100, 20, -35))
    recipe = Recipe(spacing, Intensity("window", 0.0, 1.0))
    grid = recipe.grid(geometry)
    # Intensities do not matter here: the resampling is tested with soft targets of one number per voxel.
    there = ramp(grid)
    back = to_scan(there, geometry)
    # A linear field is exact in float32. Only where the scan is coarser, each end of an averaged box takes
    # one value of a voxel in place of a slope: off by up to (model's spacing)^2 / 8, over the scan's spacing.
    slope = np.abs(grid.direction.T @ [1.0, 2.0, 3.0])
    scan_mm = geometry.spacing_mm[list(geometry.patient_axes[0])]
    ends = slope * np.square(grid.spacing_mm) / (4 * scan_mm)
    np.testing.assert_allclose(
        back[INNER], ramp(geometry)[INNER], atol=1e-4 + ends[scan_mm > grid.spacing_mm].sum(), rtol=0
    )
    np.testing.assert_allclose(to_scan(there, grid), there, atol=1e-4)


def test_linear_fields_come_back_exactly() -> None:
    geometry = Geometry.build((40, 36, 32), (0.625, 0.625, 0.625), (3, -4, 5), rotation(0, 90, 5))
    recipe = Recipe((1.25, 1.25, 1.25))
    back = to_scan(ramp(recipe.grid(geometry)), geometry)
    np.testing.assert_allclose(back[INNER], ramp(geometry)[INNER], atol=2e-4)


def test_soft_targets_keep_the_volume() -> None:
    geometry = Geometry.build((40, 36, 32), (0.625, 0.625, 0.625))
    mask = np.zeros(geometry.shape, dtype=np.uint8)
    mask[5:20, 7:22, 9:18] = 3
    target = Recipe((1.25, 1.25, 1.25)).occupancy(geometry.volume(mask), (3,))
    assert target.shape == (1, 20, 18, 16)
    np.testing.assert_allclose(target.sum() * 8, mask.astype(bool).sum())


def test_network_input_is_normal(oblique: Volume) -> None:
    array = Recipe((1.0, 1.0, 1.0)).to_model(oblique).array
    assert array.dtype == np.float32
    np.testing.assert_allclose([array.mean(), array.std()], [0, 1], atol=1e-4)


def test_a_flat_scan_becomes_zeros(oblique: Volume) -> None:
    flat = oblique.geometry.volume(np.full(oblique.geometry.shape, 77))
    assert not Recipe((1.0, 1.0, 1.0)).to_model(flat).array.any()


@pytest.mark.parametrize(("mean", "spread", "kept"), [(20_000, 15, True), (1e6, 4, True), (1e6, 0.5, False)])
def test_a_small_spread_is_no_flat_scan(mean: float, spread: float, kept: bool) -> None:
    """Half of the voxels lie above the mean and half below; float32 holds all of these values exactly."""
    sign = np.where(np.indices((4, 4, 4)).sum(axis=0) % 2, 1, -1).astype(np.float32)
    found = Intensity()(np.float32(mean) + np.float32(spread) * sign)
    np.testing.assert_allclose(found, sign * kept, atol=1e-6)


def test_window() -> None:
    values = np.array([-500, -125, 75, 275, 900], dtype=np.float32).reshape(5, 1, 1)
    np.testing.assert_allclose(Intensity("window", -125, 275)(values).ravel(), [0, 0, 0.5, 1, 1])


def test_one_voxel() -> None:
    geometry = Geometry.build((1, 1, 1), (30.0, 30.0, 30.0))
    recipe = Recipe((1.0, 1.0, 1.0))
    assert recipe.to_model(geometry.volume(np.ones((1, 1, 1)))).array.shape == (30, 30, 30)
    assert to_scan(np.ones((30, 30, 30)), geometry).shape == (1, 1, 1)


@pytest.mark.parametrize(
    "spacing",
    [(1e-4,) * 3, (1e-300,) * 3, (5e-324, 1.0, 1.0), (5e-4, 100.0, 100.0), (0.02,) * 3, (1.0, 1.0, 1e-4)],
)
def test_a_grid_that_no_memory_holds_is_refused_before_it_is_made(
    oblique: Volume, spacing: tuple[float, float, float]
) -> None:
    tracemalloc.start()
    for make in (Recipe(spacing).to_model, lambda scan: Recipe(spacing).occupancy(scan, (1,))):
        with pytest.raises(GeometryError, match=r"at the model's spacing of .* mm this scan has .* voxels"):
            make(oblique)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_a_grid_that_is_refused_names_its_file(oblique: Volume) -> None:
    scan = replace(oblique, source=Source(Path("a/case.nii.gz")))
    for make in (Recipe((1e-4,) * 3).to_model, lambda mask: Recipe((1e-4,) * 3).occupancy(mask, (1,))):
        with pytest.raises(GeometryError, match=r"^a/case.nii.gz: at the model's spacing .* in its header"):
            make(scan)


def test_a_large_grid_is_let_through() -> None:
    """The grids are a whole body of 2 m at 1 mm, and a long thin scan."""
    body = Geometry.build((512, 512, 400), (0.97, 0.97, 5.0))
    assert Recipe((1.0, 1.0, 1.0)).grid(body).shape == (497, 497, 2000)
    spine = Geometry.build((32, 32, 800), (1.0, 1.0, 2.5))
    assert Recipe((0.5, 0.5, 0.25)).grid(spine).shape == (64, 64, 8000)


@pytest.mark.parametrize(
    ("kind", "offset"),
    [
        *(("f8", 1e8), ("f8", -1e12), ("i8", 1 << 50), ("u4", 4_000_000_000)),
        *((">f8", 1e8), (">i4", 1 << 30), (">i8", 1 << 50), (">u4", 4_000_000_000), (">u8", 1 << 63)),
    ],
)
@pytest.mark.parametrize("spacing", [(0.7, 0.9, 2.5), (1.0, 1.0, 1.0)])
def test_an_offset_of_all_grey_values_changes_nothing(
    oblique: Volume, kind: str, offset: float, spacing: tuple[float, float, float]
) -> None:
    recipe = Recipe(spacing)
    wanted = recipe.to_model(oblique).array
    moved = oblique.geometry.volume((oblique.array.astype(kind) + np.array(offset).astype(kind)).astype(kind))
    np.testing.assert_allclose(recipe.to_model(moved).array, wanted, atol=3e-5)


def test_an_offset_in_float32_costs_what_the_file_has_lost_and_no_more(oblique: Volume) -> None:
    rounded = oblique.array.astype(np.float32) + np.float32(1e8)  # float32 has steps of 8 here
    recipe = Recipe((1.0, 1.0, 1.0))
    wanted = recipe.to_model(oblique.geometry.volume(rounded.astype(np.float64) - 1e8)).array
    np.testing.assert_allclose(recipe.to_model(oblique.geometry.volume(rounded)).array, wanted, atol=1e-5)


def test_a_window_is_where_it_was_whatever_the_offset(oblique: Volume) -> None:
    plain = Recipe((1.0, 1.0, 1.0), Intensity("window", 100, 3000)).to_model(oblique).array
    moved = oblique.geometry.volume(oblique.array + 1e9)
    recipe = Recipe((1.0, 1.0, 1.0), Intensity("window", 1e9 + 100, 1e9 + 3000))
    np.testing.assert_allclose(recipe.to_model(moved).array, plain, atol=1e-4)


def test_usual_grey_values_are_left_as_they_are(oblique: Volume) -> None:
    for kind in ("i2", "u2", "f4", "f8", "i4"):
        array = oblique.array.astype(kind)
        assert fits_float32(array)
        assert narrow(array).dtype == np.float32
    assert fits_float32(np.full((2, 2, 2), 1e8))
    assert not fits_float32(oblique.array + 1e8)
    for low in (2**60, 2**63):  # in float64, low + 3 is low
        assert not fits_float32(np.array([low, low + 3], np.uint64))
    assert narrow(oblique.array + 1e8).dtype == np.float64
    assert not fits_float32(oblique.array * 1e300)


@pytest.mark.parametrize("factor", [1e300, -1e300, 1e35, 1e-40])
def test_grey_values_that_float32_does_not_hold_are_refused(oblique: Volume, factor: float) -> None:
    scan = oblique.geometry.volume(oblique.array * factor)
    with pytest.raises(InputError, match=r"run from .* a range that float32 does not hold"):
        Recipe((1.0, 1.0, 1.0)).to_model(scan)
    assert intensity_defect(oblique.array * 1e25) == intensity_defect(oblique.array * 1e-25) == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_grey_values_that_are_no_numbers_are_refused(oblique: Volume, value: float) -> None:
    array = oblique.array.astype(np.float32)
    array[1, 1, 1] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        Recipe((1.0, 1.0, 1.0)).to_model(oblique.geometry.volume(array))


@pytest.mark.parametrize(
    "values", [np.full((20, 16, 12), 1e8), np.indices((20, 16, 12)).sum(axis=0) % 2 * 1.0]
)
def test_a_scan_without_spread_on_the_grid_of_the_model_is_refused(
    oblique: Volume, values: np.ndarray
) -> None:
    scan = Geometry.build(values.shape).volume(values)
    recipe = Recipe((2.0, 2.0, 2.0))
    with pytest.raises(InputError, match="no spread left"):
        refuse_flat(scan, recipe.to_model(scan))
    refuse_flat(oblique, recipe.to_model(oblique))
    dark = Recipe((1.0, 1.0, 1.0), Intensity("window", 20_000, 30_000))
    with pytest.raises(InputError, match="run from 0 to 9000"):
        refuse_flat(oblique, dark.to_model(oblique))
