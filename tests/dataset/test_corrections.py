"""Tests of predictions and their corrections by a person as a data set: predict, correct, prepare."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command import run
from helpers.studies import COARSE, series

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.phantom import simulate

pytestmark = pytest.mark.slow
SEEDS = (31_101, 31_102, 31_103, 31_104)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four scans and all files that `predict` writes for them."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "scans").mkdir()
    for seed in SEEDS:
        save(simulate(seed, COARSE).scan, folder / "scans" / f"p{seed}.nii.gz")
    more = ("--probabilities", "--uncertainty")
    ended = run("predict", folder / "scans", "-o", folder / "out", "--model", "phantom", *more)
    assert ended.returncode == 0, ended.stderr
    return folder


def edited(path: Path) -> Volume:
    """Return the mask without its lower half, as a person may have drawn it."""
    mask = load_mask(path)
    array = mask.array.copy()
    array[:, :, : array.shape[2] // 2] = 0
    return mask.geometry.volume(array)


@pytest.fixture
def archive(predicted: Path, tmp_path: Path) -> Path:
    """Copy the folder; one mask is corrected beside its prediction, as 3D Slicer names it, one in place."""
    folder = tmp_path / "archive"
    shutil.copytree(predicted, folder)
    out = folder / "out"
    save(edited(out / f"p{SEEDS[0]}.nii.gz"), out / f"p{SEEDS[0]}.seg.nrrd")
    save(edited(out / f"p{SEEDS[1]}.nii.gz"), out / f"p{SEEDS[1]}.nii.gz")
    return folder


def test_a_correction_goes_before_its_prediction(archive: Path, tmp_path: Path) -> None:
    ended = run("prepare", archive, "-o", tmp_path / "data", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    corrected, left = [f"p{seed}" for seed in SEEDS[:2]], [f"p{seed}" for seed in SEEDS[2:]]
    assert (told["found"], told["with_masks"]) == (4, 4)
    assert (told["corrected"], told["uncorrected"]) == (corrected, left)
    assert told["passed_over"]["files that predict wrote beside its masks"] == 8  # two maps of each case
    index = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert index["prepared"]["corrected"] == corrected
    for case in corrected:
        mask = load_mask(next((tmp_path / "data").glob(f"labels*/{case}.nii.gz")))
        wanted = edited(archive / "out" / f"{case}.nii.gz") if case == corrected[0] else None
        wanted = wanted or load_mask(archive / "out" / f"{case}.nii.gz")
        assert np.array_equal(mask.array, wanted.array)
        assert "its mask is the correction of a prediction" in " ".join(index["cases"][case]["notes"])
    for case in left:
        assert "its mask is a prediction that was not corrected" in " ".join(index["cases"][case]["notes"])
    assert set(index["validation"]) <= set(corrected)  # a prediction is no reference
    assert len(index["validation"]) == 1


def test_the_terminal_says_which(archive: Path, tmp_path: Path) -> None:
    ended = run("prepare", archive, "-o", tmp_path / "data", "--dry-run")
    text = " ".join(ended.stdout.split())
    assert f"Corrections of predictions: 2 masks (p{SEEDS[0]}, p{SEEDS[1]})." in text
    assert f"Predictions that were not corrected: 2 masks (p{SEEDS[2]}, p{SEEDS[3]})" in text


def test_uncorrected_predictions_can_be_left_out(archive: Path, tmp_path: Path) -> None:
    ended = run("prepare", archive, "-o", tmp_path / "data", "--predictions", "unlabelled", "--json")
    told = json.loads(ended.stdout)
    assert (told["with_masks"], told["unlabelled"]["cases"]) == (2, 2)
    assert told["uncorrected"] == []
    assert told["passed_over"]["predictions that were not corrected"] == 3  # one has its correction beside it


def test_a_correction_as_dicom_seg(tmp_path: Path) -> None:
    """Prediction and correction are DICOM SEG objects of a series; another program wrote the correction."""
    scans, out = tmp_path / "all" / "scans", tmp_path / "all" / "out"
    seeds = (31_105, 31_106)
    for seed in seeds:
        series(simulate(seed, COARSE).scan, scans / f"phantom-{seed}", str(seed), 1)
    words = ("--model", "phantom", "--format", "dicom-seg")
    assert run("predict", scans, "-o", out, *words).returncode == 0
    from c3s3_seg.io.dicom_objects.codes import Segment
    from c3s3_seg.io.dicom_objects.seg_write import write_seg

    scan = load(scans / f"phantom-{seeds[0]}")
    mask = load_mask(out / f"phantom-{seeds[0]}.seg.dcm", grid=scan.geometry)
    array = mask.array.copy()
    array[:, :, : array.shape[2] // 2] = 0
    write_seg(scan.geometry.volume(array, scan.source), out / "corrected.dcm", (Segment("left_atrium", 1),))
    ended = run("prepare", tmp_path / "all", "-o", tmp_path / "data", "--json")
    assert ended.returncode == 0, ended.stdout
    told = json.loads(ended.stdout)
    assert (len(told["corrected"]), len(told["uncorrected"])) == (1, 1)
    (case,) = told["corrected"]
    made = load_mask(next((tmp_path / "data").glob(f"labels*/{case}.nii.gz")))
    assert np.count_nonzero(made.array) == np.count_nonzero(array)


def test_a_json_of_others_says_nothing(tmp_path: Path) -> None:
    """A file counts only if it exists below the same folder and a JSON of this package names it."""
    from c3s3_seg.dataset.prepare.predictions import find_predictions

    (tmp_path / "a.nii").write_bytes(b"x")
    (tmp_path / "deep").mkdir()
    files = {"../a.nii": "0", "a.nii": "0"}
    (tmp_path / "deep" / "theirs.json").write_text(json.dumps({"files_sha256": files}))
    (tmp_path / "deep" / "ours.json").write_text(json.dumps({"c3s3_seg": "1", "files_sha256": files}))
    (tmp_path / "broken.json").write_text("{")
    found = find_predictions([path for path in tmp_path.rglob("*") if path.is_file()])
    assert found.masks == {}
    assert found.others == frozenset()
