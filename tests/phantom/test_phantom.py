"""Tests of the simulated heart: the same bytes per seed, a plausible truth, and not a threshold task."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from c3s3_seg import io
from c3s3_seg.errors import InputError
from c3s3_seg.phantom import Phantom, Simulator, parse_cohort, rotation, save, simulate, write_cohort
from c3s3_seg.phantom.anatomy import build_anatomy
from c3s3_seg.phantom.solids import Canvas, smooth_field, smooth_union

SEEDS = (0, 1, 2, 6, 50, 115)  # of 200: 50 comes nearest to the border, 115 has a speck of a second piece


@lru_cache
def phantom(seed: int) -> Phantom:
    return simulate(seed)


@lru_cache
def tiny(seed: int) -> Phantom:
    """Return a small phantom for tests of files, in which the content does not matter."""
    return simulate(seed, Simulator(shape=(24, 24, 12), spacing_mm=(5.0, 5.0, 8.0)))


def best_threshold_dice(scan: np.ndarray, truth: np.ndarray) -> float:
    """Return the best Dice that "brighter than t" reaches, over 200 values of t."""
    inside, outside = np.sort(scan[truth > 0]), np.sort(scan[truth == 0])
    thresholds = np.quantile(scan, np.linspace(0.2, 0.999, 200))
    hits = inside.size - np.searchsorted(inside, thresholds)
    wrong = outside.size - np.searchsorted(outside, thresholds)
    return float((2 * hits / (inside.size + hits + wrong)).max())


def test_one_seed_one_phantom() -> None:
    first, again = phantom(3), simulate(3)
    assert first.scan.array.tobytes() == again.scan.array.tobytes()
    assert first.truth.array.tobytes() == again.truth.array.tobytes()
    assert first.scan.geometry.affine.tobytes() == again.scan.geometry.affine.tobytes()


def test_the_callers_random_state_is_neither_used_nor_moved() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    assert simulate(3).scan.array.tobytes() == phantom(3).scan.array.tobytes()
    assert np.array_equal(before, np.random.get_state()[1])


def test_another_seed_is_another_heart() -> None:
    one, other = phantom(0), phantom(1)
    assert not one.scan.geometry.matches(other.scan.geometry)
    overlap = (one.truth.array & other.truth.array).sum()
    assert 2 * overlap / (one.truth.array.sum() + other.truth.array.sum()) < 0.9
    assert not np.array_equal(one.scan.array, other.scan.array)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_truth_is_one_atrium_of_plausible_size(seed: int) -> None:
    truth = phantom(seed).truth
    assert truth.array.dtype == np.uint8
    assert set(np.unique(truth.array)) == {0, 1}
    assert 40 < truth.array.sum() * truth.geometry.voxel_ml < 180
    # The truth is one piece, except for parts of a bump that the grid cuts off: less than 1 in 200 voxels.
    parts = np.bincount(ndimage.label(truth.array, np.ones((3, 3, 3)))[0].ravel())[1:]
    assert parts.max() / parts.sum() > 0.995
    assert truth.array[1:-1, 1:-1, 1:-1].sum() == truth.array.sum()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_geometry_is_shared_oblique_and_uneven(seed: int) -> None:
    scan, truth = phantom(seed).scan, phantom(seed).truth
    assert scan.geometry.matches(truth.geometry, tol_mm=0)
    assert scan.geometry.is_orthogonal
    degrees = np.degrees(np.arccos((np.trace(scan.geometry.direction) - 1) / 2))
    assert 3 < degrees < 12
    assert np.linalg.det(scan.geometry.direction) == pytest.approx(1)
    assert np.unique(scan.geometry.spacing_mm.round(3)).size == 3
    assert np.abs(scan.geometry.origin_mm).max() > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_contrast_is_that_of_a_late_enhancement_scan(seed: int) -> None:
    scan, truth = phantom(seed).scan, phantom(seed).truth
    assert scan.array.dtype == np.uint16
    core = ndimage.binary_erosion(truth.array, iterations=3)
    shell = ndimage.binary_dilation(truth.array, iterations=2) & (truth.array == 0)
    blood, wall = np.median(scan.array[core]), np.median(scan.array[shell])
    dark = np.quantile(scan.array, 0.2)
    assert 4 * dark < blood  # lung
    assert 1.2 * wall < blood  # most of the border can be seen
    assert 200 < blood < 2500


@pytest.mark.parametrize("seed", SEEDS)
def test_a_threshold_cannot_do_it(seed: int) -> None:
    assert best_threshold_dice(phantom(seed).scan.array, phantom(seed).truth.array) < 0.6


def test_the_threshold_score_does_say_yes_to_an_easy_image() -> None:
    truth = phantom(0).truth.array
    assert best_threshold_dice(truth * 100.0, truth) == 1.0


def test_neighbouring_blood_is_as_bright_as_the_atrium() -> None:
    simulator = Simulator()
    shape = (40, 36, 30)
    steps_mm = np.stack(np.meshgrid(*(np.linspace(-60, 60, n) for n in shape), indexing="ij"))
    anatomy = build_anatomy(
        Canvas(steps_mm.astype(np.float32)), np.random.default_rng(0), simulator.variation
    )
    fields = {layer.tissue: layer.field for layer in anatomy.layers}
    assert {"aorta", "left_ventricle", "right_atrium", "pulmonary_artery", "lung", "canal"} <= set(fields)
    # No blood pool reaches into the atrium, and except at the open valve there is tissue between them.
    for name in ("aorta", "right_atrium", "right_ventricle", "pulmonary_artery"):
        assert np.minimum(fields[name], anatomy.cavity).max() < 0, name
    assert np.minimum(fields["left_ventricle"], anatomy.cavity).max() <= 0


def test_truth_is_sampled_at_voxel_centres() -> None:
    """Where the truth begins, the scan is half way between wall and blood; it is not half a voxel off."""
    scan, truth = phantom(0).scan.array.astype(float), phantom(0).truth.array
    inside, outside = (
        truth & ~ndimage.binary_erosion(truth),
        ndimage.binary_dilation(truth) & ~truth.astype(bool),
    )
    core = np.median(scan[ndimage.binary_erosion(truth, iterations=3)])
    rim, shell = np.median(scan[inside > 0]) / core, np.median(scan[outside]) / core
    assert shell < 0.85 < rim


def test_tube_and_ellipsoid_measure_distances() -> None:
    axis = np.linspace(-30, 30, 31, dtype=np.float32)  # steps of 2 mm
    canvas = Canvas(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")))
    ball = canvas.ellipsoid((0, 0, 0), (10, 10, 10))
    assert ball[20, 15, 15] == pytest.approx(0, abs=1e-4)
    assert ball[22, 15, 15] == pytest.approx(-4, abs=1e-3)
    tube = canvas.tube(np.array([[0.0, 0, -10, 4], [0, 0, 10, 8]]))
    assert tube[15, 15, 15] == pytest.approx(6)  # middle: half way between the two radii
    assert tube[15, 15, 22] == pytest.approx(4)  # 4 mm past the end of radius 8
    assert tube[18, 15, 15] == pytest.approx(0)


def test_smooth_union_only_adds_near_the_seam() -> None:
    a, b = np.array([0, 0, 5], np.float32), np.array([0, -9, -9], np.float32)
    assert smooth_union(a, b, 4.0) == pytest.approx([1, 0, 5])


def test_smooth_field_is_standardised() -> None:
    field = smooth_field(np.random.default_rng(0), (20, 18, 16), 4)
    assert field.mean() == pytest.approx(0, abs=1e-5)
    assert field.std() == pytest.approx(1, abs=1e-5)
    assert np.abs(np.diff(field, axis=0)).max() < 1.0


def test_rotation_turns_by_the_length_of_the_vector() -> None:
    assert rotation(np.array([0, 0, np.pi / 2])) @ [1, 0, 0] == pytest.approx([0, 1, 0])
    assert rotation(np.zeros(3)) == pytest.approx(np.eye(3))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="wanted an integer from 0 on"):
        simulate(-1)


@pytest.mark.parametrize("file_format", ["nii.gz", "dicom"])
def test_a_saved_phantom_comes_back(tmp_path: Path, file_format: str) -> None:
    scan_path, truth_path = save(tiny(0), tmp_path, seed=0, file_format=file_format)
    assert scan_path == tmp_path / ("phantom-0" if file_format == "dicom" else "phantom-0.nii.gz")
    assert truth_path == tmp_path / "truth" / "phantom-0.nii.gz"
    scan, truth = io.load(scan_path), io.load(truth_path)
    assert scan.geometry.matches(tiny(0).scan.geometry)
    assert truth.geometry.matches(tiny(0).scan.geometry)
    assert np.array_equal(scan.array, tiny(0).scan.array)
    assert np.array_equal(truth.array, tiny(0).truth.array)


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: None])
def test_nothing_is_overwritten(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    scan, truth = save(tiny(0), tmp_path, seed=0, file_format="nii.gz")
    spoil(scan)  # the truth alone also prevents writing
    before = truth.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        save(tiny(1), tmp_path, seed=0, file_format="nii.gz")
    assert truth.read_bytes() == before


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wanted 'dicom' or 'nii\.gz'"):
        save(tiny(0), tmp_path, seed=0, file_format="png")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cohort_has_the_layout_of_a_training_set(tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    path = write_cohort(folder, labelled=1, unlabelled=1, validation=1, seed=1)
    index = json.loads(path.read_text())
    assert index["modality"] == "MR"
    assert index["labels"] == {"background": 0, "left_atrium": 1}
    assert [index[split] for split in ("labelled", "unlabelled", "validation")] == [
        ["phantom-1"],
        ["phantom-2"],
        ["phantom-3"],
    ]
    assert len(list((folder / "imagesTr").iterdir())) == 3
    assert {p.name for p in (folder / "labelsTr").iterdir()} == {"phantom-1.nii.gz", "phantom-3.nii.gz"}
    assert np.array_equal(io.load(folder / "labelsTr" / "phantom-3.nii.gz").array, phantom(3).truth.array)
    with pytest.raises(InputError, match="is there already"):
        write_cohort(folder, labelled=1, unlabelled=0, validation=0, seed=9)


def test_a_cohort_without_a_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 0 cases, wanted one or more"):
        write_cohort(tmp_path / "cohort", labelled=0, unlabelled=0, validation=0, seed=9)
    assert not (tmp_path / "cohort").exists()


@pytest.mark.parametrize("text", ["\u00b2,1,1", "9" * 5000 + ",1,1", "-1,1,1", "1,2", "1,2,x", ""])
def test_a_cohort_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="wanted LABELLED,UNLABELLED,VALIDATION"):
        parse_cohort(text)


def test_a_cohort_of_a_negative_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted numbers of cases from 0 on"):
        write_cohort(tmp_path / "cohort", labelled=-1, unlabelled=0, validation=0, seed=0)
    assert not (tmp_path / "cohort").exists()


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["dicom-seg", "rtstruct"])
def test_a_truth_among_the_slices_is_the_truth(tmp_path: Path, truth: str) -> None:
    from c3s3_seg.io.dicom_objects.segmentation import load_drawing, look_at_drawing

    small = simulate(5, Simulator(shape=(56, 52, 28), spacing_mm=(2.5, 2.5, 3.6)))
    scan, path = save(small, tmp_path, seed=5, file_format="dicom", truth=truth)  # type: ignore[arg-type]
    assert path is not None
    assert path.parent == scan
    drawing = look_at_drawing(path)
    assert drawing is not None
    back = load_drawing(drawing, io.load(scan).geometry, {"left_atrium": 1})
    assert int((back.array != small.truth.array).sum()) == 0


def test_each_phantom_is_a_patient_and_a_study_of_its_own(tmp_path: Path) -> None:
    import pydicom

    known = set()
    for seed in (1, 2):
        scan, truth = save(tiny(seed), tmp_path, seed=seed, file_format="dicom", truth="none")
        assert truth is None
        data = pydicom.dcmread(next(scan.iterdir()))
        known |= {data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID}
    assert len(known) == 8
    assert {p.name for p in tmp_path.iterdir()} == {"phantom-1", "phantom-2"}


def test_truths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refers to the slices of a DICOM series"):
        save(tiny(0), tmp_path, seed=0, file_format="nii.gz", truth="rtstruct")
    with pytest.raises(InputError, match="found the truth 'stl'"):
        save(tiny(0), tmp_path, seed=0, file_format="dicom", truth="stl")  # type: ignore[arg-type]


def test_as_a_ct_it_is_the_same_heart_in_hounsfield_units() -> None:
    ct, mr = simulate(3, modality="CT"), phantom(3)
    assert ct.scan.source.modality == "CT"
    assert ct.scan.array.dtype == np.int16
    np.testing.assert_array_equal(ct.truth.array, mr.truth.array)
    assert ct.scan.geometry.matches(mr.scan.geometry)
    blood = ct.scan.array[ndimage.binary_erosion(ct.truth.array, iterations=2)]
    assert 145 < np.median(blood) < 195
    assert np.quantile(ct.scan.array, 0.001) < -600  # lung
    assert np.quantile(ct.scan.array, 0.9999) > 300  # bone
    again = simulate(3, modality="CT")
    assert again.scan.array.tobytes() == ct.scan.array.tobytes()
    assert best_threshold_dice(ct.scan.array, ct.truth.array) < 0.8


def test_a_ct_is_no_series(tmp_path: Path) -> None:
    small = Simulator(shape=(24, 24, 12), spacing_mm=(5.0, 5.0, 8.0))
    with pytest.raises(InputError, match="simulated series are MR"):
        save(simulate(3, small, "CT"), tmp_path, seed=3, file_format="dicom")
    assert not list(tmp_path.iterdir())
