"""Tests of scores: hand-computed distances, every edge case, and equality with the papers' reference."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import rotation
from helpers.masks import blobs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.metrics.results import PaperScore, Score
from c3s3_seg.metrics.scoring import (
    diagonal_mm,
    diagonal_vox,
    labels_in,
    paper_score,
    paper_scores,
    score,
    scores,
)
from c3s3_seg.metrics.surface_distance import Surfaces, surface_distances

SHAPE = (9, 8, 7)
DISTANCES = ("hd95_mm", "hd95_max_mm", "hd_mm", "asd_mm", "assd_mm", "masd_mm")


def mask(*boxes: tuple[slice, ...], shape: tuple[int, int, int] = SHAPE, value: int = 1) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    for box in boxes:
        array[box] = value
    return array


def volume(array: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Geometry.build(array.shape, spacing_mm).volume(array)


def distances(found: Score) -> list[float]:
    return [getattr(found, name) for name in DISTANCES]


POINT_A = mask(np.s_[2:3, 2:3, 2:3])
POINT_B = mask(np.s_[5:6, 2:3, 2:3])
EMPTY = mask()
FULL = np.ones(SHAPE, dtype=np.uint8)


# --- values by hand


def test_two_points_are_as_far_apart_as_the_spacing_says() -> None:
    found = score(volume(POINT_A, (0.5, 1, 2)), volume(POINT_B, (0.5, 1, 2)))
    assert distances(found) == [1.5] * 6
    assert (found.dice, found.jaccard) == (0.0, 0.0)
    assert found.nsd == ((1.0, 0.0), (2.0, 1.0))
    assert found.volume_ml == found.truth_ml == pytest.approx(0.001)


def test_a_rod_against_its_first_voxel_tells_the_definitions_apart() -> None:
    rod = mask(np.s_[0:5, 3:4, 3:4])  # five surface voxels at 0, 1, 2, 3, 4 from its first
    first = mask(np.s_[0:1, 3:4, 3:4])
    found = score(volume(rod), volume(first), tolerances_mm=(0.0, 1.0))
    assert found.dice == pytest.approx(2 / 6)
    assert found.jaccard == pytest.approx(1 / 5)
    assert found.hd95_mm == pytest.approx(3.75)  # 0 0 1 2 3 4: rank 0.95 * 5 = 4.75
    assert found.hd95_max_mm == pytest.approx(3.8)  # 0 1 2 3 4: rank 3.8
    assert found.hd_mm == 4
    assert found.asd_mm == pytest.approx(2)
    assert found.assd_mm == pytest.approx(10 / 6)
    assert found.masd_mm == pytest.approx(1)
    assert found.nsd == ((0.0, pytest.approx(2 / 6)), (1.0, pytest.approx(3 / 6)))
    assert found.volume_error_ml == pytest.approx(0.004)
    assert score(volume(first), volume(rod)).asd_mm == 0


def test_a_cube_of_three_has_26_surface_voxels_and_its_centre_is_one_away() -> None:
    cube, centre = mask(np.s_[2:5, 2:5, 2:5]), mask(np.s_[3:4, 3:4, 3:4])
    surfaces = surface_distances(cube == 1, centre == 1, (1, 1, 1))
    assert surfaces.d_pt.size == 26
    assert surfaces.d_tp.tolist() == [1.0]
    assert surfaces.asd() == pytest.approx((6 + 12 * math.sqrt(2) + 8 * math.sqrt(3)) / 26)


def test_the_border_of_the_image_is_surface() -> None:
    surfaces = surface_distances(FULL == 1, FULL == 1, (1, 1, 1))
    assert surfaces.d_pt.size == 9 * 8 * 7 - 7 * 6 * 5
    assert surfaces.hd() == 0
    corner = mask(np.s_[0:3, 0:3, 0:3])
    assert surface_distances(corner == 1, corner == 1, (1, 1, 1)).d_pt.size == 26


def test_full_volume_against_one_voxel() -> None:
    found = score(volume(FULL), volume(mask(np.s_[0:1, 0:1, 0:1])))
    assert found.hd_mm == pytest.approx(diagonal_mm(volume(FULL).geometry))
    assert found.dice == pytest.approx(2 / (1 + FULL.size))


def test_voxels_that_touch_at_a_corner_are_all_surface() -> None:
    diagonal = np.zeros(SHAPE, dtype=np.uint8)
    diagonal[range(5), range(5), range(5)] = 1
    found = score(volume(diagonal), volume(mask(np.s_[0:1, 0:1, 0:1])))
    assert found.hd_mm == pytest.approx(4 * math.sqrt(3))
    assert found.volume_ml == pytest.approx(0.005)


def test_a_tolerance_that_went_through_float32_still_counts() -> None:
    spacing = (float(np.float32(0.6)), 1.0, 1.0)  # 0.60000002
    found = score(volume(POINT_A, spacing), volume(POINT_B, spacing), tolerances_mm=(1.8, 1.7999))
    assert found.nsd == ((1.7999, 0.0), (1.8, 1.0))


# --- empty masks


def test_both_empty() -> None:
    found = score(volume(EMPTY), volume(EMPTY))
    assert (found.dice, found.jaccard, found.volume_error_ml) == (1.0, 1.0, 0.0)
    assert all(math.isnan(value) for value in distances(found))
    assert all(math.isnan(share) for _, share in found.nsd)


@pytest.mark.parametrize(("p", "t"), [(EMPTY, POINT_A), (POINT_A, EMPTY)])
def test_one_empty_is_never_a_distance_of_zero(p: np.ndarray, t: np.ndarray) -> None:
    found = score(volume(p), volume(t))
    assert (found.dice, found.jaccard) == (0.0, 0.0)
    assert distances(found) == [math.inf] * 6
    assert found.nsd == ((1.0, 0.0), (2.0, 0.0))


def test_surfaces_of_empty_masks() -> None:
    empty, point = EMPTY == 1, POINT_A == 1
    assert surface_distances(point, empty, (1, 1, 1)).d_pt.tolist() == [math.inf]
    assert surface_distances(point, empty, (1, 1, 1)).d_tp.size == 0
    assert math.isnan(Surfaces(np.empty(0), np.empty(0)).hd())


# --- the paper protocol


def test_paper_counts_an_empty_prediction_as_four_zeros_and_says_so() -> None:
    optimistic = PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=True)
    assert paper_score(volume(EMPTY), volume(POINT_A)) == optimistic
    # Nothing could be missed here: the same four zeros, but they are not optimistic.
    assert paper_score(volume(EMPTY), volume(EMPTY)) == replace(optimistic, optimistic=False)


def test_paper_does_not_reward_a_prediction_where_there_is_no_truth() -> None:
    assert paper_score(volume(POINT_A), volume(EMPTY)) == PaperScore(0.0, 0.0, math.inf, math.inf, False)


def test_paper_counts_in_voxels_whatever_the_spacing() -> None:
    found = paper_score(volume(POINT_A, (0.5, 1, 2)), volume(POINT_B, (0.5, 1, 2)))
    assert found == PaperScore(0.0, 0.0, 3.0, 3.0, optimistic=False)
    assert list(found.flat()) == ["dice", "jaccard", "hd95_vox", "asd_vox", "optimistic"]
    assert found.flat()["optimistic"] == 0


# --- refusals


def test_shapes_that_broadcast_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"9 x 8 x 7 voxels.*1 x 8 x 7|1 x 8 x 7.*9 x 8 x 7"):
        score(volume(FULL[:1]), volume(FULL))
    with pytest.raises(InputError, match=r"\(1, 8, 7\) and \(9, 8, 7\)"):
        surface_distances(FULL[:1] == 1, FULL == 1, (1, 1, 1))


@pytest.mark.parametrize("measure", [score, paper_score])
def test_grids_that_differ_are_refused_with_both(measure: object) -> None:
    with pytest.raises(GeometryError, match=r"of 1 x 1 x 1 mm.*of 1 x 1 x 1.5 mm.*Resample"):
        measure(volume(POINT_A), volume(POINT_A, (1, 1, 1.5)))  # type: ignore[operator]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.5, 1 + 1e-6])
@pytest.mark.parametrize("side", ["prediction", "truth"])
def test_floats_that_are_no_labels_are_refused(bad: float, side: str) -> None:
    broken = POINT_A.astype(np.float64)
    broken[0, 0, 0] = bad
    pair = (volume(broken), volume(POINT_A))
    with pytest.raises(InputError, match="whole numbers"):
        score(*(pair if side == "prediction" else pair[::-1]))


def test_complex_masks_are_refused() -> None:
    with pytest.raises(InputError, match="complex"):
        score(volume(POINT_A.astype(np.complex64)), volume(POINT_A))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_every_other_type_measures_alike(dtype: type) -> None:
    assert score(volume(POINT_A.astype(dtype)), volume(POINT_B)) == score(volume(POINT_A), volume(POINT_B))


@pytest.mark.parametrize(
    ("p", "t"),
    [
        (POINT_A * 255, POINT_A),
        (POINT_A, POINT_A * 255),
        (POINT_A * 255, POINT_A * 255),
        (POINT_A * 255, EMPTY),
    ],
)
def test_a_mask_of_0_and_255_is_not_one_of_0_and_1(p: np.ndarray, t: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"asked for label 1, found the labels .*255"):
        score(volume(p), volume(t))


def test_tolerances_that_look_alike_have_a_column_each() -> None:
    found = score(volume(POINT_A), volume(POINT_B), tolerances_mm=(1.0, 1.0000025, 2.5)).flat()
    names = [name for name in found if name.startswith("nsd")]
    assert names == ["nsd_1mm", "nsd_1.0000025mm", "nsd_2.5mm"]


def test_0_and_255_is_measured_when_asked_for() -> None:
    assert score(volume(POINT_A * 255), volume(POINT_A * 255), 255).dice == 1


def test_labels_in_common_make_a_missing_label_a_miss() -> None:
    two = mask(np.s_[0:2]) + mask(np.s_[4:6], value=2)
    found = score(volume(mask(np.s_[0:2])), volume(two), 2)
    assert (found.dice, found.hd_mm) == (0.0, math.inf)
    assert score(volume(two), volume(two), 3).dice == 1


def test_an_organ_that_is_called_another_is_a_miss_of_both() -> None:
    one, two = volume(mask(np.s_[0:2])), volume(mask(np.s_[0:2], value=2))
    found = scores(one, two, (1, 2))
    assert [(s.dice, s.jaccard, s.hd95_mm, s.asd_mm) for s in found.values()] == [
        (0, 0, math.inf, math.inf)
    ] * 2
    assert [s.volume_error_ml for s in found.values()] == [0.112, -0.112]
    paper = paper_scores(one, two, (1, 2))
    assert paper[1] == PaperScore(0, 0, math.inf, math.inf, optimistic=False)
    assert paper[2] == PaperScore(0, 0, 0, 0, optimistic=True)
    assert score(one, two).dice == 0


def test_255_among_the_labels_is_a_label_like_any_other() -> None:
    one, white = volume(POINT_A), volume(POINT_A * 255)
    assert [s.dice for s in scores(one, white, (1, 255)).values()] == [0, 0]
    with pytest.raises(InputError, match=r"asked for label 1, 2, found the labels .*255"):
        scores(one, white, (1, 2))


@pytest.mark.parametrize(
    ("labels", "found"), [(3, "labels 3"), ("12", "labels '12'"), ([True], "the label True")]
)
def test_labels_of_another_kind_are_refused(labels: Any, found: str) -> None:
    with pytest.raises(InputError, match=rf"found {found}; wanted"):
        scores(volume(POINT_A), volume(POINT_A), labels)


def test_label_0_is_refused() -> None:
    with pytest.raises(InputError, match="background"):
        score(volume(POINT_A), volume(POINT_A), 0)


@pytest.mark.parametrize("tolerances", [(-1.0,), (math.nan,), (math.inf, 1.0)])
def test_tolerances_that_make_no_sense_are_refused(tolerances: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="tolerances"):
        score(volume(POINT_A), volume(POINT_A), tolerances_mm=tolerances)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, math.nan), np.zeros((3, 3))])
def test_spacings_that_make_no_sense_are_refused(spacing: object) -> None:
    with pytest.raises(InputError, match="spacing"):
        surface_distances(POINT_A == 1, POINT_B == 1, spacing)  # type: ignore[arg-type]


def test_surfaces_want_bool_in_three_dimensions() -> None:
    with pytest.raises(InputError, match="wanted bool"):
        surface_distances(POINT_A, POINT_B == 1, (1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3D"):
        surface_distances(POINT_A[0] == 1, POINT_B[0] == 1, (1, 1, 1))


# --- columns, labels, diagonals, sheared grids


def test_columns_of_a_score() -> None:
    found = score(volume(POINT_A), volume(POINT_B), tolerances_mm=(2.0, 0.5))
    names = list(found.flat())
    assert names[:3] == ["dice", "jaccard", "hd95_mm"]
    assert names[8:] == ["nsd_0.5mm", "nsd_2mm", "volume_ml", "truth_ml", "volume_error_ml"]


def test_labels_in_and_diagonal() -> None:
    assert labels_in(volume(mask(np.s_[0:2], value=3) + mask(np.s_[4:5], value=1))) == (1, 3)
    assert labels_in(volume(EMPTY)) == ()
    with pytest.raises(InputError, match="fractions"):
        labels_in(volume(EMPTY + 0.25))
    assert diagonal_mm(Geometry.build((4, 5, 1), (1, 1, 9))) == 5
    assert diagonal_vox(Geometry.build((4, 5, 1), (7, 8, 9))) == 5


def test_the_diagonal_of_a_sheared_grid_is_the_longest_of_four() -> None:
    affine = np.eye(4)
    affine[1, 2] = -1.0  # each step along k also moves one mm to the front
    geometry = Geometry((3, 5, 4), affine)
    corners = [geometry.to_mm(corner) for corner in product((0, 2), (0, 4), (0, 3))]
    longest = max(float(np.linalg.norm(a - b)) for a in corners for b in corners)
    assert diagonal_mm(geometry) == pytest.approx(longest)
    assert longest == pytest.approx(math.sqrt(4 + 49 + 9))  # from the first to the last voxel: 14 ** 0.5


def test_a_sheared_grid_is_measured_along_its_true_axes() -> None:
    affine = np.eye(4)
    affine[1, 2] = 1.0  # each step along k also moves one mm along y
    geometry = Geometry(SHAPE, affine)
    up = mask(np.s_[2:3, 3:4, 5:6])  # (0, 1, 3) voxels from the other point
    found = score(geometry.volume(up), geometry.volume(POINT_A))
    assert found.hd_mm == pytest.approx(math.hypot(4, 3))  # along y 1 + 3, along z 3


# --- equality with medpy


def assert_equals_medpy(p: np.ndarray, t: np.ndarray, geometry: Geometry) -> None:
    # This import takes a second, and every process that runs tests imports this file.
    from medpy.metric import binary as medpy

    found, spacing = score(geometry.volume(p), geometry.volume(t)), geometry.spacing_mm
    paper = paper_score(geometry.volume(p), geometry.volume(t))
    expected = {
        "hd95_mm": medpy.hd95(p, t, spacing),
        "hd_mm": medpy.hd(p, t, spacing),
        "asd_mm": medpy.asd(p, t, spacing),
        "assd_mm": medpy.assd(p, t, spacing),
        "dice": medpy.dc(p, t),
        "jaccard": medpy.jc(p, t),
    }
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-6, rel=0)
    wanted = (medpy.dc(p, t), medpy.jc(p, t), medpy.hd95(p, t), medpy.asd(p, t))
    assert tuple(paper.flat().values())[:4] == pytest.approx(wanted, abs=1e-6, rel=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.625, 0.625, 2.5), (0.3, 1.7, 0.9)])
def test_blobs_equal_medpy(seed: int, spacing: tuple[float, float, float]) -> None:
    p, t = blobs(seed)
    assert p.any()
    assert t.any()
    geometry = Geometry.build(p.shape, spacing, direction=rotation(10, 20, 30))
    assert_equals_medpy(p, t, geometry)


@pytest.mark.parametrize("voxels", [1, 1600])
def test_masks_of_several_slabs_equal_medpy(voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of one plane, and of several, the last of which has fewer."""
    monkeypatch.setattr("c3s3_seg.metrics.surface_distance.SLAB", voxels)
    for seed in (0, 1):
        p, t = blobs(seed)
        assert_equals_medpy(p, t, Geometry.build(p.shape, (0.3, 1.7, 0.9)))


def test_noise_equals_medpy() -> None:
    rng = np.random.default_rng(0)
    p, t = (rng.random((20, 20, 20)) < 0.5 for _ in range(2))
    assert_equals_medpy(p, t, Geometry.build(p.shape, (0.7, 1.1, 3.0)))


def test_the_check_against_medpy_can_say_no() -> None:
    p, t = blobs(0)
    sheared = np.eye(4)
    sheared[1, 2] = 0.2  # medpy knows no shear: its distances must differ here
    with pytest.raises(AssertionError):
        assert_equals_medpy(p, t, Geometry(p.shape, sheared))


@pytest.mark.slow
@pytest.mark.data
def test_a_real_atrium_equals_medpy(shared_data: Path) -> None:
    from scipy.ndimage import binary_erosion

    from c3s3_seg.io import load_mask

    mask = load_mask(sorted((shared_data / "la" / "labelsTr").glob("*.nii.gz"))[0])
    truth, geometry = mask.array > 0, mask.geometry
    moved = np.roll(binary_erosion(truth, iterations=2), (3, 1, 2), (0, 1, 2))
    assert_equals_medpy(moved, truth, geometry)


def test_nsd_by_area_stands_beside_nsd_by_voxels() -> None:
    import surface_distance

    p, t = blobs(1)
    spacing = (0.7, 1.1, 2.5)
    found = score(volume(p, spacing), volume(t, spacing), tolerances_mm=(1.0, 2.5), area_nsd=True)
    distances = surface_distance.compute_surface_distances(t, p, spacing)
    wanted = [surface_distance.compute_surface_dice_at_tolerance(distances, mm) for mm in (1.0, 2.5)]
    assert [share for _, share in found.nsd_area] == pytest.approx(wanted, abs=1e-9)
    assert list(found.flat())[-2:] == ["nsd_area_1mm", "nsd_area_2.5mm"]
    assert "nsd_area_1mm" not in score(volume(p), volume(t)).flat()


# --- several labels in one pass


def many_labels(dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and truth of labels 1 to 4 side by side; the prediction is shifted and misses 4."""
    truth, prediction = (np.zeros((24, 20, 16), dtype=dtype) for _ in range(2))
    for n, (start, stop) in enumerate([(1, 7), (7, 12), (12, 18), (20, 24)], start=1):
        truth[start:stop, 3:15, 2:12] = n
        prediction[start + 1 : stop + 1, 4:15, 3:14] = n if n < 4 else 0
    return prediction, truth


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_labels_in_one_pass_are_as_each_alone(order: str, dtype: type) -> None:
    p, t = (volume(np.asarray(m, order=order), (0.7, 1.1, 2.5)) for m in many_labels(dtype))  # type: ignore[call-overload]
    together = scores(p, t, (1, 2, 3, 4, 9), area_nsd=True)
    for label in (1, 2, 3, 4, 9):
        one = [volume(m.array == label, (0.7, 1.1, 2.5)) for m in (p, t)]
        alone = score(*one, area_nsd=True)
        assert together[label].flat() == pytest.approx(alone.flat(), nan_ok=True, abs=1e-12)
        paper = paper_scores(p, t, (1, 2, 3, 4, 9))[label]
        assert paper == paper_score(volume(p.array == label), volume(t.array == label))
    assert together[4].hd_mm == math.inf
    assert together[9].dice == 1


@pytest.mark.parametrize("label", [1, 2, 3])
def test_each_of_many_labels_equals_medpy(label: int) -> None:
    from medpy.metric import binary as medpy

    p, t = many_labels()
    spacing = (0.7, 1.1, 2.5)
    found = scores(volume(p, spacing), volume(t, spacing), (1, 2, 3))[label]
    wanted = [measure(p == label, t == label, spacing) for measure in (medpy.hd95, medpy.asd, medpy.assd)]
    assert [found.hd95_mm, found.asd_mm, found.assd_mm] == pytest.approx(wanted, abs=1e-6, rel=0)


def test_the_background_is_refused_among_labels_too() -> None:
    with pytest.raises(InputError, match="background"):
        scores(volume(POINT_A), volume(POINT_A), (1, 0))


# --- properties

SMALL = arrays(np.bool_, (4, 5, 3))


@settings(max_examples=60, deadline=None)
@given(p=SMALL, t=SMALL)
def test_symmetric_metrics_stay_the_same_when_swapped(p: np.ndarray, t: np.ndarray) -> None:
    a, b = (volume(m, (0.5, 1.0, 2.0)) for m in (p, t))
    one, other = score(a, b), score(b, a)
    for name in ("dice", "jaccard", "hd95_mm", "hd95_max_mm", "hd_mm", "assd_mm", "masd_mm"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), nan_ok=True)
    assert dict(one.nsd) == pytest.approx(dict(other.nsd), nan_ok=True)
    assert one.volume_error_ml == pytest.approx(-other.volume_error_ml)


@settings(max_examples=40, deadline=None)
@given(p=SMALL, t=SMALL, turn=st.permutations(range(3)), margin=st.integers(0, 3))
def test_axes_and_empty_margins_change_nothing(
    p: np.ndarray, t: np.ndarray, turn: list[int], margin: int
) -> None:
    spacing = (0.5, 1.0, 2.0)
    moved = [np.pad(m, margin).transpose(turn)[::-1] for m in (p, t)]
    turned = tuple(spacing[axis] for axis in turn)
    one = score(volume(p, spacing), volume(t, spacing))
    other = score(*(volume(m, turned) for m in moved))  # type: ignore[arg-type]
    assert other.flat() == pytest.approx(one.flat(), nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(p=SMALL, t=SMALL)
def test_bounds_between_the_metrics(p: np.ndarray, t: np.ndarray) -> None:
    found = score(volume(p), volume(t))
    assert found.jaccard == pytest.approx(found.dice / (2 - found.dice))
    if math.isfinite(found.hd_mm):
        assert found.hd95_mm <= found.hd_mm
        assert max(found.assd_mm, found.masd_mm, found.asd_mm) <= found.hd_mm + 1e-9


@settings(max_examples=40, deadline=None)
@given(t=SMALL.filter(lambda m: bool(m.any())))
def test_a_mask_agrees_with_itself(t: np.ndarray) -> None:
    found = score(volume(t), volume(t.copy()))
    assert (found.dice, found.jaccard, found.nsd) == (1.0, 1.0, ((1.0, 1.0), (2.0, 1.0)))
    assert distances(found) == [0.0] * 6


@pytest.mark.parametrize("label", ["left_atrium", None, 1.5, 1.0, -1, 0, [1]])
def test_a_label_that_no_voxel_can_have_is_refused(label: object) -> None:
    wanted: Any = label
    for measure in (score, paper_score):
        with pytest.raises(InputError, match=r"found (the )?label .*; wanted a label value such as 1"):
            measure(volume(POINT_A), volume(POINT_B), wanted)


@pytest.mark.parametrize("label", [np.int64(1), np.uint8(1)])
def test_a_label_may_be_an_integer_of_numpy(label: Any) -> None:
    assert score(volume(POINT_A), volume(POINT_A), label).dice == 1


@pytest.mark.parametrize("tolerances", [1.0, "1", (1.0, "2")])
def test_tolerances_that_are_no_numbers_are_refused(tolerances: Any) -> None:
    with pytest.raises(InputError, match=r"found the tolerances .* wanted finite ones"):
        score(volume(POINT_A), volume(POINT_B), tolerances_mm=tolerances)


def test_tolerances_and_labels_may_be_iterators() -> None:
    first, second = volume(POINT_A), volume(POINT_B)
    found = score(first, second, tolerances_mm=(mm for mm in (1.0, 2.0)), area_nsd=True)
    assert found == score(first, second, tolerances_mm=(1.0, 2.0), area_nsd=True)
    assert [mm for mm, _ in found.nsd] == [mm for mm, _ in found.nsd_area] == [1.0, 2.0]
    with pytest.raises(InputError, match=r"found the tolerances \(-1\) mm"):
        score(first, second, tolerances_mm=iter([-1.0]))
    assert list(scores(first, second, iter([1, 2]))) == [1, 2]
    assert list(paper_scores(first, second, iter([1, 2]))) == [1, 2]


def test_only_true_and_false_decide_on_the_area() -> None:
    wrong: Any = "no"
    with pytest.raises(InputError, match="found area_nsd='no', wanted True or False"):
        score(volume(POINT_A), volume(POINT_B), area_nsd=wrong)
    assert score(volume(POINT_A), volume(POINT_A), area_nsd=np.True_).nsd_area
