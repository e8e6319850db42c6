import copy
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import rotation

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.axis_order import permutation_between
from c3s3_seg.geometry.resample import resample_mask
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.metrics.scoring import score


def test_index_and_position_are_inverse(oblique: Volume) -> None:
    points = np.array([[0, 0, 0], [19, 15, 11], [2.5, 3.25, 4.0]])
    there = oblique.geometry.to_mm(points)
    np.testing.assert_allclose(oblique.geometry.to_index(there), points, atol=1e-9)
    np.testing.assert_allclose(there[0], [-31.5, 12.25, 80.0])


def test_properties(oblique: Volume) -> None:
    geometry = oblique.geometry
    np.testing.assert_allclose(geometry.spacing_mm, [0.7, 0.9, 2.5])
    np.testing.assert_allclose(geometry.voxel_ml, 0.7 * 0.9 * 2.5 / 1000)
    np.testing.assert_allclose(geometry.direction.T @ geometry.direction, np.eye(3), atol=1e-12)
    assert geometry.is_orthogonal


def test_shear_is_seen() -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.1
    assert not Geometry((4, 4, 4), affine).is_orthogonal


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((0, 4, 4), np.eye(4), "three positive whole sizes"),
        ((4.7, 5, 6), np.eye(4), r"found a grid of \(4.7, 5, 6\) voxels"),
        ((np.nan, 5, 6), np.eye(4), r"found the shape \(nan, 5, 6\), wanted 3 finite numbers"),
        (4, np.eye(4), "found the shape 4, wanted 3 finite numbers"),
        ("abc", np.eye(4), "found the shape abc"),
        ((4, 4, 4), "x", "found the affine x, wanted 4 x 4 finite numbers"),
        ((4, 4, 4), [[1, 0], [0, 1, 0]], "wanted 4 x 4 finite numbers"),
        ((4, 4, 4), np.full((4, 4), np.nan), "finite"),
        ((4, 4, 4), np.eye(4) * (1 + 2j), "wanted 4 x 4 finite numbers"),
        ((4, 4, 4), np.ma.masked_equal(np.eye(4), 1), "wanted 4 x 4 finite numbers"),
        (np.array(["2020-01-01"] * 3, "datetime64[D]"), np.eye(4), "wanted 3 finite numbers"),
        ((4, 4, 4), np.diag([1.0, 1.0, 0.0, 1.0]), "singular"),
        ((4, 4, 4), np.ones((4, 4)), "last row"),
    ],
)
def test_nonsense_is_refused(shape: Any, affine: Any, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Geometry(shape, affine)


@pytest.mark.parametrize("points", [None, 5, (1, 2), "abc", [[1, 2], [3]], {"x": 1}])
def test_points_of_another_shape_are_refused(oblique: Volume, points: Any) -> None:
    for convert in (oblique.geometry.to_mm, oblique.geometry.to_index):
        with pytest.raises(GeometryError, match=r"found the points .*, wanted numbers of shape"):
            convert(points)


def test_a_grid_is_compared_with_a_grid_alone(oblique: Volume) -> None:
    for compare in (oblique.geometry.matches, oblique.geometry.apart_mm):
        with pytest.raises(InputError, match=r"found Volume, wanted a Geometry\. That of a Volume is"):
            compare(oblique)  # type: ignore[arg-type]


def test_an_array_of_another_shape_is_refused(oblique: Volume) -> None:
    with pytest.raises(GeometryError, match=r"\(1, 16, 12\)"):
        oblique.geometry.volume(np.zeros((1, 16, 12)))  # this shape would broadcast


def test_matches_says_no(oblique: Volume) -> None:
    geometry = oblique.geometry
    assert geometry.matches(Geometry(geometry.shape, geometry.affine + np.eye(4, k=3) * 1e-3))
    shifted, flipped = geometry.affine.copy(), geometry.affine.copy()
    shifted[0, 3] += 0.05
    flipped[:3, 0] *= -1
    assert not geometry.matches(Geometry(geometry.shape, shifted))
    assert not geometry.matches(Geometry(geometry.shape, flipped))
    assert not geometry.matches(Geometry((20, 16, 11), geometry.affine))


def test_a_tenth_of_a_small_voxel_is_another_place() -> None:
    """0.01 mm, the limit for clinical scans, is 5 voxels of 2 micrometres."""
    grid = Geometry.build((40, 40, 40), (0.002, 0.002, 0.002))
    for moved_mm, same in ((1e-4, True), (3e-4, False), (0.01, False)):
        other = Geometry.build(grid.shape, grid.spacing_mm, (moved_mm, 0, 0))
        assert grid.matches(other) == other.matches(grid) == same
    coarse = Geometry.build((4, 4, 4), (2, 2, 2))
    assert coarse.matches(Geometry.build((4, 4, 4), (2, 2, 2), (0.0099, 0, 0)))
    assert not coarse.matches(Geometry.build((4, 4, 4), (2, 2, 2), (0.0101, 0, 0)))


def test_two_grids_that_read_the_same_are_told_apart() -> None:
    one = Geometry.build((512, 512, 88), (0.78125, 0.78125, 3))
    other = Geometry.build((512, 512, 88), (0.7812, 0.7812, 3))
    assert str(one) == str(other)
    assert one.distance_note(other) == "; corners lie up to 0.0361 mm apart, 0.01 mm allowed"
    assert one.distance_note(Geometry.build((512, 512, 87))) == ""
    with pytest.raises(GeometryError, match=r"corners lie up to 0\.0361 mm apart, 0\.01 mm allowed"):
        score(one.volume(np.ones(one.shape, np.uint8)), other.volume(np.ones(one.shape, np.uint8)))


def test_the_thickness_of_a_single_slice_is_compared() -> None:
    """An axis of one voxel has no second corner: 5 mm are 5 times the volume of 1 mm."""
    thin, thick = Geometry.build((8, 8, 1), (1, 1, 1)), Geometry.build((8, 8, 1), (1, 1, 5))
    assert not thin.matches(thick)
    assert not permutation_between(thin, thick)
    assert thick.matches(Geometry.build((8, 8, 1), (1, 1, 5.005)))
    assert thick.matches(Geometry.build((8, 8, 1), (1, 1, 5), direction=np.diag([1, 1, -1])))
    mask = thin.volume(np.ones((8, 8, 1), np.uint8))
    with pytest.raises(GeometryError, match="1 x 1 x 1 mm"):
        score(mask, thick.volume(mask.array))
    there = resample_mask(mask, thick)
    assert there.geometry is thick
    assert there.array.all()


def test_a_geometry_cannot_be_changed(oblique: Volume) -> None:
    with pytest.raises(ValueError, match="read-only"):
        oblique.geometry.affine[0, 3] = 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda grid: pickle.loads(pickle.dumps(grid))])
def test_nor_can_a_copy_of_it(oblique: Volume, copied: Any) -> None:
    grid = Geometry(oblique.geometry.shape, oblique.geometry.affine, "1.2.3")
    again = copied(grid)
    assert again.apart_mm(grid) == 0
    assert again.frame_uid == "1.2.3"
    with pytest.raises(ValueError, match="read-only"):
        again.affine[0, 3] = 1


def test_a_grid_keeps_whole_sizes_and_leaves_the_given_affine_alone() -> None:
    affine: Any = np.eye(4)
    grid = Geometry(np.array([4.0, 5, 6]), affine)  # type: ignore[arg-type]
    assert grid.shape == (4, 5, 6)
    assert [type(size) for size in grid.shape] == [int] * 3
    affine[0, 3] = 1
    assert grid.affine[0, 3] == 0


def test_axes_of_an_oblique_grid_are_a_pairing() -> None:
    geometry = Geometry.build((5, 5, 5), direction=rotation(44, 44, 44))
    assert sorted(geometry.patient_axes[0]) == [0, 1, 2]
    turned = Geometry.build((5, 5, 5), direction=np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]], dtype=float))
    assert turned.patient_axes == ((2, 0, 1), (False, True, False))


@pytest.mark.parametrize(
    ("axes", "letters"),
    [(np.eye(3), "LPS"), (-np.eye(3), "RAI"), (np.eye(3)[:, [1, 2, 0]], "PSL")],
)
def test_the_sides_of_the_axes(axes: np.ndarray, letters: str) -> None:
    assert Geometry.build((4, 5, 6), (1, 2, 3), (0, 0, 0), axes).letters == letters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 5),), r"found the shape \(4, 5\), wanted 3 finite numbers"),
        (((4.7, 5, 6),), r"found a grid of \(4.7, 5, 6\) voxels"),
        (((4, 5, 0),), "wanted three positive whole sizes"),
        (((4, 5, 6), (1, 1)), r"found the spacing \(1, 1\), wanted 3 finite numbers"),
        (((4, 5, 6), (-1, 1, 1)), "wanted positive numbers"),
        (((4, 5, 6), (np.nan, 1, 1)), "wanted 3 finite numbers"),
        (((4, 5, 6), 1, (0, 0)), "found the origin"),
        (((4, 5, 6), 1, (0, 0, 0), np.eye(2)), "wanted 3 x 3 finite numbers"),
        (((4, 5, 6), 1, (0, 0, 0), 2 * np.eye(3)), r"of length \[2, 2, 2\], wanted 1"),
        (((4, 5, 6), 1, (0, 0, 0), np.full((3, 3), np.nan)), "wanted 3 x 3 finite numbers"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Geometry.build(*arguments)


def test_a_direction_may_be_rounded_to_three_digits() -> None:
    geometry = Geometry.build((4, 5, 6), 2.0, direction=rotation(12, -20, 30).round(3))
    np.testing.assert_allclose(geometry.spacing_mm, 2.0, atol=2 * np.sqrt(3) * 5e-4)


def test_a_volume_of_something_else_is_refused() -> None:
    wrong: Any = [[[1]]]
    with pytest.raises(InputError, match="found list and Geometry, wanted a numpy array and its Geometry"):
        Volume(wrong, Geometry.build((1, 1, 1)))


def test_a_masked_array_is_no_volume() -> None:
    """Quantiles heeded its mask and resampling did not."""
    array = np.ma.masked_less(np.arange(8.0).reshape(2, 2, 2), 3)
    grid = Geometry.build((2, 2, 2))
    with pytest.raises(InputError, match=r"found a masked array, wanted.*array\.filled\(value\)"):
        Volume(array, grid)
    assert Volume(array.filled(0), grid).array.sum() == 25
