"""Tests of `prepare`, from a folder to a data set: exact to the voxel, by patient, resumable, anonymous."""

import gzip
import json
import os
import random
import re
import shlex
import shutil
import signal
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import Result
from helpers import command, forked
from helpers.archive import image_case, renamed, scan_and_mask, study
from helpers.benchmark_files import hdf5
from helpers.dicom_files import edit
from helpers.privacy import MARKER, found, planted
from typer.testing import CliRunner

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.cli import app
from c3s3_seg.dataset import DataSet
from c3s3_seg.dataset.check.index_checks import check_files
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare import convert, pipeline
from c3s3_seg.dataset.prepare.assemble import PrepareSettings, find
from c3s3_seg.dataset.prepare.discover import Search
from c3s3_seg.dataset.prepare.inventory import Part
from c3s3_seg.dataset.prepare.pipeline import prepare
from c3s3_seg.dataset.prepare.result import PreparedDataSet
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.system.choices import Repair
from c3s3_seg.system.lock import hold
from c3s3_seg.system.reading import sha256

TASK = Task("toy", "CT", (Label("organ", 1), Label("lump", 2)), Recipe((3.0, 3.0, 3.0)), (16, 16, 16))


@pytest.fixture(scope="module")
def whole_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write seven series of five patients, with SEG, RTSTRUCT or no mask; folders are named by patient."""
    folder = tmp_path_factory.mktemp("whole") / "archive"
    for seed, (name, truth) in enumerate(
        [
            ("MILLER/ct1", "seg"), ("MILLER/ct2", "none"), ("SMITH/a", "rtstruct"), ("SMITH/b", "seg"),
            ("YOUNG/1", "seg"), ("ADAMS/1", "seg"), ("BAKER/1", "none"),
        ]
    ):  # fmt: skip
        study(folder / name, seed, truth, patient=name.split("/")[0])
    return folder


@pytest.fixture
def archive(whole_archive: Path, tmp_path: Path) -> Path:
    """Return a copy of the archive that a test may change."""
    return Path(shutil.copytree(whole_archive, tmp_path / "archive"))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["prepare", *map(str, words)])


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*Tr/*")}


def places(data: DataSet, source: Path) -> dict[str, Path]:
    """Return a mapping from each case to the series that it was made from, found by its voxels."""
    series = {p.parent for p in source.rglob("IM_0001.dcm")}
    arrays = {folder: load(folder).array for folder in series}
    return {
        case: next(f for f, a in arrays.items() if np.array_equal(a, load(data.scan(case)).array))
        for case in (*data.splits.cases, *data.splits.test)
    }


def test_every_voxel_and_every_patient(archive: Path, tmp_path: Path) -> None:
    result = prepare(archive, tmp_path / "data", PrepareSettings())
    data = DataSet.load(tmp_path / "data")
    assert (result.found, result.refused, data.modality) == (7, (), "MR")
    assert data.labels == {"liver": 1, "tumour": 2}
    assert len(data.splits.validation) in (1, 2)
    where = places(data, archive)
    patients: dict[str, set[str]] = {}
    for case, folder in where.items():
        seed = ["MILLER/ct1", "MILLER/ct2", "SMITH/a", "SMITH/b", "YOUNG/1", "ADAMS/1", "BAKER/1"].index(
            folder.relative_to(archive).as_posix()
        )
        scan = load(data.scan(case))
        assert scan.geometry.matches(load(folder).geometry, 1e-3)
        if seed not in (1, 6):
            mask = load_mask(data.mask(case), grid=scan.geometry)
            assert int((mask.array != scan_and_mask(seed)[1]).sum()) == 0
            assert data.records[case].values == (1, 2)
        else:
            assert not data.has_mask(case)
        patients.setdefault(folder.parent.name, set()).add(data.records[case].patient)
    assert all(len(names) == 1 for names in patients.values())
    assert len(set.union(*patients.values())) == len(patients)
    judges = {data.records[case].patient for case in data.splits.validation}
    assert not judges & {data.records[case].patient for case in data.splits.labelled + data.splits.unlabelled}
    for case, record in data.records.items():
        assert record.sha256["image"] == sha256(data.scan(case))


def test_train_takes_it(archive: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "data", PrepareSettings())
    from c3s3_seg.training.cases import read_validation
    from c3s3_seg.training.folds import read_splits
    from c3s3_seg.training.settings import DataConfig

    data, splits = read_splits(DataConfig(folder=str(tmp_path / "data")))
    assert splits.labelled
    assert read_validation(data, splits.validation, TASK)[0].truth.array.any()


@pytest.mark.slow
def test_the_same_again_does_nothing_again(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(archive, out, PrepareSettings())
    before, index = stamps(out), (out / "dataset.json").read_bytes()
    result = prepare(archive, out, PrepareSettings(search=Search(workers=2)))
    assert result.kept == len(result.patients)
    assert stamps(out) == before
    assert (out / "dataset.json").read_bytes() == index
    assert sorted(p.name for p in out.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


def test_what_changed_is_made_again_and_what_is_new_keeps_the_old_names(
    archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    prepare(archive, out, PrepareSettings(validation=1))
    first = DataSet.load(out)
    old = places(first, archive)
    changed = next(case for case in first.splits.unlabelled)
    (out / "imagesTr" / f"{changed}.nii.gz").write_bytes(b"damaged since")
    study(archive / "AARON" / "1", 20, "seg", patient="AARON")
    study(archive / "BAKER" / "2", 21, "seg", patient="BAKER")
    result = prepare(archive, out, PrepareSettings(validation=1))
    data = DataSet.load(out)
    assert result.again == (changed,)
    assert result.kept == len(old) - 1
    new = places(data, archive)
    assert all(new[case] == folder for case, folder in old.items())
    assert data.splits.validation == first.splits.validation
    by_folder = {
        folder.relative_to(archive).as_posix(): data.records[case].patient for case, folder in new.items()
    }
    assert by_folder["BAKER/1"] == by_folder["BAKER/2"]
    assert by_folder["AARON/1"] not in {r.patient for r in first.records.values()}


def test_a_source_that_is_gone_is_said(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(archive, out, PrepareSettings())
    case, _ = next((c, f) for c, f in places(DataSet.load(out), archive).items() if f.parent.name == "BAKER")
    shutil.rmtree(archive / "BAKER")
    result = prepare(archive, out, PrepareSettings())
    assert result.gone == (case,)
    assert case not in DataSet.load(out).records
    assert (out / "imagesTr" / f"{case}.nii.gz").exists()


def test_another_source_does_not_replace_the_cases_of_a_data_set(archive: Path, tmp_path: Path) -> None:
    """The index lost all of its cases to those of a folder that was meant to be added."""
    out, other = tmp_path / "data", tmp_path / "other"
    prepare(archive, out, PrepareSettings())
    before = (out / "dataset.json").read_bytes()
    study(other / "NEW/1", 9, "none", patient="NEW")
    for dry in (True, False):
        with pytest.raises(InputError, match="holds a data set of 7 cases, and none of its scans") as caught:
            prepare(other, out, PrepareSettings(), dry=dry)
        assert "below one folder" in str(caught.value)
    assert (out / "dataset.json").read_bytes() == before
    shutil.move(archive, other / "earlier")
    added = prepare(other, out, PrepareSettings())
    assert (added.kept, len(added.patients), added.gone) == (7, 8, ())


def test_a_name_that_two_sources_have_does_not_make_them_one(tmp_path: Path) -> None:
    first, second, out = tmp_path / "a", tmp_path / "b", tmp_path / "data"
    for seed, name in enumerate(("001", "002", "003")):
        image_case(first, seed, name, f"{name}_seg")
    for seed, name in enumerate(("001", "901"), 7):
        image_case(second, seed, name, f"{name}_seg")
    prepare(first, out, PrepareSettings())
    with pytest.raises(InputError, match="holds a data set of 3 cases"):
        prepare(second, out, PrepareSettings())
    for seed, name in enumerate(("001", "002", "003"), 20):  # all exported again, with other voxels
        image_case(first, seed, name, f"{name}_seg")
    assert prepare(first, out, PrepareSettings()).again == ("001", "002", "003")


def test_a_killed_run_does_not_make_another_source_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, out = tmp_path / "all/a", tmp_path / "all/b", tmp_path / "data"
    for seed, name in enumerate(("001", "002")):
        image_case(first, seed, name, f"{name}_seg")
    image_case(second, 7, "901", "901_seg")
    prepare(first, out, PrepareSettings())

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DataSet, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "all", out, PrepareSettings())
    assert (out / ".prepare").is_dir()
    with pytest.raises(InputError, match="holds a data set of 2 cases"):
        prepare(second, out, PrepareSettings())


def test_options_may_take_other_scans_of_the_same_source(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    miller, others = (
        PrepareSettings(Search(leave_out=left))
        for left in (("SMITH", "YOUNG", "ADAMS", "BAKER"), ("MILLER",))
    )
    assert len(prepare(archive, out, miller).patients) == 2
    found = prepare(archive, out, others)
    assert (len(found.patients), len(found.gone)) == (5, 2)
    study(tmp_path / "new/1", 9, "seg", patient="NEW")
    study(tmp_path / "new/MILLER", 10, "seg", patient="MILLER")
    with pytest.raises(InputError, match="holds a data set of 5 cases"):
        prepare(tmp_path / "new", out, others)


def test_an_index_stays_if_copies_leave_too_few_patients_for_the_validation(tmp_path: Path) -> None:
    """The run used to end with the earlier index moved away, so that the folder was no data set any more."""
    source, out = tmp_path / "source", tmp_path / "data"
    for n, name in enumerate("abc"):
        image_case(source, n, f"images/{name}", f"masks/{name}_seg")
    for kind in ("images/{}", "masks/{}_seg"):  # two patients are one, which is found after conversion
        shutil.copy(source / f"{kind.format('b')}.nii.gz", source / f"{kind.format('c')}.nii.gz")
    prepare(source, out, PrepareSettings(modality="CT", validation=1))
    index = (out / "dataset.json").read_bytes()
    with pytest.raises(InputError, match="validation"):
        prepare(source, out, PrepareSettings(modality="CT", validation=2))
    assert (out / "dataset.json").read_bytes() == index
    assert not (out / ".prepare").exists()


def test_image_files_keep_their_names_and_a_changed_one_is_made_again(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    for n, name in enumerate("abc"):
        image_case(source, n, f"images/{name}", f"masks/{name}_seg" if name != "c" else None)
    image_case(source, 9, "more/images/a")
    result = prepare(source, out, PrepareSettings(modality="CT", validation=1))
    assert set(result.patients) == {"images_a_1", "images_a_2", "b", "c"}
    data = DataSet.load(out)
    assert (data.modality, data.labels) == ("CT", {"label_1": 1, "label_2": 2})
    assert data.records["b"].source == {"image": "images/b.nii.gz", "label": "masks/b_seg.nii.gz"}
    scan, mask = scan_and_mask(1)
    from c3s3_seg.io import save

    save(scan.geometry.volume(mask * (mask < 2)), source / "masks" / "b_seg.nii.gz")
    again = prepare(source, out, PrepareSettings(modality="CT", validation=1))
    assert again.again == ("b",)
    assert DataSet.load(out).records["b"].values == (1,)
    (source / "masks" / "b_seg.nii.gz").unlink()
    prepare(source, out, PrepareSettings(modality="CT", validation=0))
    data = DataSet.load(out)
    assert not data.has_mask("b")
    assert "b" in data.splits.unlabelled


@pytest.mark.slow
def test_kill_at_any_moment_and_resume(archive: Path, tmp_path: Path) -> None:
    """The run is killed three times at random moments; no index and no name holds a half-written file."""
    whole, out = tmp_path / "whole", tmp_path / "data"
    prepare(archive, whole, PrepareSettings(name="x"))
    draw = random.Random(4)
    killed = 0
    for _ in range(3):
        process = forked.Process(["prepare", archive, "-o", out, "--name", "x"], imports=forked.PREPARE)
        started = time.monotonic()
        while not (out / ".prepare").exists() and process.poll() is None and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        for path in out.glob("*Tr/[!.]*"):
            load(path)
        if (out / "dataset.json").exists():
            data = DataSet.load(out)
            assert all(sha256(data.scan(c)) == r.sha256["image"] for c, r in data.records.items())
    assert killed
    answer = run(archive, "-o", out, "--name", "x", "--workers", 2)
    assert answer.exit_code == 0, answer.output
    assert hashes(out) == hashes(whole)


def test_two_runs_into_one_folder(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    out.mkdir()
    with hold(out), pytest.raises(InputError, match="another run writes into this folder"):
        prepare(archive, out, PrepareSettings())


def test_folders_that_cannot_be(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lie in one another"):
        prepare(archive, archive / "data", PrepareSettings())
    with pytest.raises(InputError, match="lie in one another"):
        prepare(archive, tmp_path, PrepareSettings())
    with pytest.raises(InputError, match="no such folder"):
        prepare(tmp_path / "none", tmp_path / "data", PrepareSettings())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset.json").write_text('{"labelled": ["a"]}')
    with pytest.raises(InputError, match="which `prepare` did not make"):
        prepare(archive, tmp_path / "mine", PrepareSettings())


def test_refusals_are_rows_and_the_others_go_on(archive: Path, tmp_path: Path) -> None:
    flat = sorted((archive / "YOUNG/1").glob("IM*"))
    for file in flat:
        edit(file, lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))))
    overlap = archive / "ADAMS/1/seg.dcm"
    edit(overlap, lambda d: setattr(d, "PixelData", b"\xff" * len(d.PixelData)))
    study(archive / "SMITH/c", 30, "seg", patient="SMITH")
    shutil.copy(archive / "SMITH/c/seg.dcm", archive / "SMITH/c/seg2.dcm")
    result = prepare(archive, tmp_path / "data", PrepareSettings())
    told = {r.place.partition(":")[0]: r.reason for r in result.refused}
    assert "all its voxels are 0" in told["YOUNG/1"]
    assert "two segments overlap" in told["ADAMS/1/seg.dcm"]
    assert "2 masks fit this scan" in told["SMITH/c"]
    assert len(told) == 3
    data = DataSet.load(tmp_path / "data")
    where = {folder.relative_to(archive).as_posix(): case for case, folder in places(data, archive).items()}
    assert where["ADAMS/1"] in data.splits.unlabelled
    assert "YOUNG/1" not in where


def test_the_same_scan_twice_is_one_case(tmp_path: Path) -> None:
    for n in range(3):
        image_case(tmp_path / "source", n, f"images/{n}", f"masks/{n}")
    shutil.copy(tmp_path / "source/images/0.nii.gz", tmp_path / "source/images/copy.nii.gz")
    result = prepare(tmp_path / "source", tmp_path / "data", PrepareSettings())
    assert [(r.place, r.reason) for r in result.refused] == [
        ("images/copy.nii.gz", "it is a copy of images/0.nii.gz")
    ]
    assert not (tmp_path / "data/imagesTr/copy.nii.gz").exists()
    assert len(result.patients) == 3


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_of_two_copies_the_one_that_is_held_out_stays(tmp_path: Path, held_out: str) -> None:
    """A model would have learnt from a scan that it is scored on, and the test set lost a case."""
    source = tmp_path / "source"
    end = "Ts" if held_out == "test" else "Tr"
    for n, name in enumerate("abcd"):
        at = end if name == "d" else "Tr"
        image_case(source, n, f"images{at}/{name}", f"labels{at}/{name}")
    for kind in ("images", "labels"):
        shutil.copy(source / f"{kind}Tr/a.nii.gz", source / f"{kind}{end}/z.nii.gz")
    splits = {"labelled": ["a", "b", "c"], held_out: ["d", "z"]}
    index = {**splits, "labels": {"liver": 1, "lump": 2}, "modality": "CT"}
    (source / "dataset.json").write_text(json.dumps(index))
    result = prepare(source, tmp_path / "data", PrepareSettings())
    assert [(r.place, r.reason) for r in result.refused] == [
        (
            "imagesTr/a.nii.gz",
            f"it is a copy of images{end}/z.nii.gz, whose mask is taken in place of its own",
        )
    ]
    found = DataSet.load(tmp_path / "data").splits
    assert (found.labelled, getattr(found, held_out)) == (("b", "c"), ("d", "z"))


def test_a_series_and_its_converted_file_are_one_scan_of_one_patient(tmp_path: Path) -> None:
    """DICOM states MILLER, the NIfTI file's name x1: other scans of MILLER must count as the same patient."""
    source = tmp_path / "source"
    study(source / "dicom/first", 1, "none", patient="MILLER")
    study(source / "dicom/second", 2, "none", patient="MILLER")
    scan = load(source / "dicom/first")
    (source / "nifti").mkdir()
    save(scan, source / "nifti/x1.nii.gz")
    mask = scan.geometry.volume((scan.array > np.median(scan.array)).astype(np.uint8))
    save(mask, source / "nifti/x1_seg.nii.gz")
    image_case(source, 3, "nifti/x3", "nifti/x3_seg")
    labels = Labels({"organ": 1, "lump": 2})
    result = prepare(source, tmp_path / "data", PrepareSettings(labels=labels, validation=0))
    assert [r.reason for r in result.refused] == ["it is a copy of nifti/x1.nii.gz"]
    people = {case: record.patient for case, record in DataSet.load(tmp_path / "data").records.items()}
    assert people.pop("x1") == people.pop(next(case for case in people if case.startswith("case-")))
    assert set(people) == {"x3"}
    assert len(set(result.patients.values())) == 2


def test_labels_that_are_named(archive: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "data", PrepareSettings(labels=Labels.parse("Tumour=7")))
    data = DataSet.load(tmp_path / "data")
    assert data.labels == {"Tumour": 7}
    case = data.splits.labelled[0]
    assert np.unique(load_mask(data.mask(case)).array).tolist() == [0, 7]
    assert "1 other segments of the DICOM SEG were left out" in data.records[case].notes
    other = prepare(archive, tmp_path / "data", PrepareSettings(labels=Labels.parse("liver=1")))
    assert len(other.again) == 5  # the cases with masks
    none = prepare(archive, tmp_path / "other", PrepareSettings(labels=Labels.parse("spleen=1")))
    assert len(none.refused) == 5
    assert "named 'spleen'; it holds 'liver', 'tumour'" in none.refused[0].reason


def test_a_value_that_no_label_has(tmp_path: Path) -> None:
    for n in range(2):
        image_case(tmp_path / "source", n, f"images/{n}", f"masks/{n}")
    result = prepare(tmp_path / "source", tmp_path / "data", PrepareSettings(labels=Labels.parse("liver=1")))
    assert len(result.refused) == 2
    assert "holds the value 2, which no label has" in result.refused[0].reason


def test_other_labels_are_asked_of_masks_that_are_there_already(tmp_path: Path) -> None:
    for n in range(2):
        image_case(tmp_path / "source", n, f"images/{n}", f"masks/{n}")
    prepare(tmp_path / "source", tmp_path / "data", PrepareSettings(labels=Labels.parse("liver=1,tumour=2")))
    renamed_only = PrepareSettings(labels=Labels.parse("Leber=1,Tumor=2"))
    assert prepare(tmp_path / "source", tmp_path / "data", renamed_only).kept == 2
    result = prepare(tmp_path / "source", tmp_path / "data", PrepareSettings(labels=Labels.parse("liver=1")))
    assert len(result.refused) == 2


def test_a_mask_drawn_on_a_converted_series_goes_back_to_its_slices(tmp_path: Path) -> None:
    """Converters store rows from the bottom up and the first axis to the left."""
    mask = study(tmp_path / "source" / "p" / "ct", 0)
    mask[3:5, 2:4, 1] = 2
    grid = load(tmp_path / "source" / "p" / "ct").geometry
    affine = grid.affine @ np.diag([-1, -1, 1, 1])
    affine[:3, 3] = grid.to_mm([grid.shape[0] - 1, grid.shape[1] - 1, 0])
    other = Geometry(grid.shape, affine)
    save(
        other.volume(np.ascontiguousarray(mask[::-1, ::-1])), tmp_path / "source" / "p" / "drawn_mask.nii.gz"
    )
    result = prepare(tmp_path / "source", tmp_path / "data", PrepareSettings())
    assert (result.refused, result.masks) == ((), 1)
    data = DataSet.load(tmp_path / "data")
    back = load_mask(data.mask("case-0001"), grid=load(data.scan("case-0001")).geometry)
    assert np.array_equal(back.array, mask)
    assert any("axes of the mask were turned" in note for note in data.records["case-0001"].notes)


def test_masks_as_nibabel_and_3d_slicer_write_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for n in range(2):
        mask = image_case(source, n, f"images/p{n}", f"masks/p{n}")
        grid = load(source / f"images/p{n}.nii.gz").geometry
        (source / f"masks/p{n}.nii.gz").unlink()
        if n:
            save(grid.volume(mask * np.float64(1.0000153)), source / "masks" / "p1.nii.gz")
        else:
            save(grid.volume(mask), source / "masks" / "p0.seg.nrrd")
    result = prepare(source, tmp_path / "data", PrepareSettings(labels=Labels.parse("liver=1,tumour=2")))
    assert (result.refused, result.masks) == ((), 2)
    data = DataSet.load(tmp_path / "data")
    for n in range(2):
        assert np.array_equal(load_mask(data.mask(f"p{n}")).array, scan_and_mask(n)[1])
    assert any("labels were rounded" in note for note in data.records["p1"].notes)


def test_image_and_label_have_the_same_forms(tmp_path: Path) -> None:
    """The mask of a scan without sform and qform has none: only both files together may be changed."""
    source = tmp_path / "source"
    image_case(source, 0, "images/p0", "masks/p0")
    for path in source.rglob("*.nii.gz"):
        image = nib.load(path)
        image.set_qform(None, 0)
        image.set_sform(None, 0)
        nib.save(image, path)
    result = prepare(source, tmp_path / "data", PrepareSettings(labels=Labels.parse("liver=1,tumour=2")))
    assert (result.refused, result.masks) == ((), 1)
    data = DataSet.load(tmp_path / "data")
    image, label = nib.load(data.scan("p0")), nib.load(data.mask("p0"))
    assert np.array_equal(image.affine, label.affine)


def test_hdf5_labels_that_are_nearly_whole(tmp_path: Path) -> None:
    for n in range(3):
        path = tmp_path / "la" / f"CASE{n}" / "mri_norm2.h5"
        hdf5(path, n)
        with h5py.File(path, "a") as file:
            label = file["label"][()].astype(np.float32) * 1.0000153
            del file["label"]
            file["label"] = label
    result = prepare(
        tmp_path / "la", tmp_path / "data", PrepareSettings(labels=Labels.parse("left_atrium=1"))
    )
    assert (result.refused, result.masks) == ((), 3)
    assert set(np.unique(load_mask(DataSet.load(tmp_path / "data").mask("CASE0")).array)) == {0, 1}


def test_grey_values_that_no_network_can_take_are_refused_and_an_offset_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "source" / "images"
    source.mkdir(parents=True)
    for name, factor, offset in (("plain", 1, 0), ("moved", 1, 1e8), ("huge", 1e300, 0)):
        volume, _ = scan_and_mask(len(name))
        array = volume.array.astype(np.float64) * factor + offset
        save(volume.geometry.volume(array), source / f"{name}.nii.gz")
    result = prepare(tmp_path / "source", tmp_path / "data", PrepareSettings())
    assert [r.place for r in result.refused] == ["images/huge.nii.gz"]
    assert "a range that float32 does not hold" in result.refused[0].reason
    moved = load(DataSet.load(tmp_path / "data").scan("moved")).array
    assert np.array_equal(moved - 1e8, scan_and_mask(5)[0].array)


def test_a_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(2):
        image_case(tmp_path / "source", n, f"images/p{n}", f"masks/p{n}")
    scan = tmp_path / "source" / "images" / "p0.nii.gz"
    real, seen = Part.scan, []

    def swapped(part: Part, root: Path, repair: frozenset[Repair]) -> Volume:
        volume = real(part, root, repair)
        if part.files[0] == scan and not seen:
            seen.append(scan.write_bytes(scan.read_bytes()[:-4] + bytes(4)))
        return volume

    monkeypatch.setattr(Part, "scan", swapped)
    result = prepare(tmp_path / "source", tmp_path / "data", PrepareSettings())
    assert ["changed while it was read" in r.reason for r in result.refused] == [True]
    records = DataSet.load(tmp_path / "data").records
    assert records["p1"].source_sha256["image"] == sha256(scan.with_name("p1.nii.gz"))


def test_two_modalities_are_refused(archive: Path, tmp_path: Path) -> None:
    renamed(archive / "BAKER", Modality="PT")
    with pytest.raises(InputError, match=r"found 6 of MR, 1 of PT.*--modality"):
        prepare(archive, tmp_path / "data", PrepareSettings())


def test_hdf5_with_a_test_list(tmp_path: Path) -> None:
    source = tmp_path / "la"
    for n in range(6):
        hdf5(source / f"CASE{n}" / "mri_norm2.h5", n)
    (source / "test.list").write_text("CASE4\nCASE5\n")
    prepare(source, tmp_path / "data", PrepareSettings(labels=Labels.parse("left_atrium=1")))
    data = DataSet.load(tmp_path / "data")
    assert data.splits.test == ("CASE4", "CASE5")
    assert (len(data.splits.labelled), len(data.splits.validation)) == (3, 1)
    assert data.mask("CASE4") == tmp_path / "data/labelsTs/CASE4.nii.gz"
    scan = load(data.scan("CASE4"))
    assert np.array_equal(scan.array, scan_and_mask(4)[0].array.astype(np.float32) / 7)
    assert scan.geometry.spacing_mm.tolist() == [0.625] * 3
    assert any("holds no geometry" in note for note in data.records["CASE4"].notes)
    assert "CASE4" not in {p.name.partition(".")[0] for p in (tmp_path / "data/imagesTr").iterdir()}


def test_a_case_that_leaves_the_test_leaves_its_folder(tmp_path: Path) -> None:
    """A case that enters moves too: else a test on the whole folder would include a training case."""
    source, out = tmp_path / "la", tmp_path / "data"
    for n in range(5):
        hdf5(source / f"CASE{n}" / "mri_norm2.h5", n)
    wanted = PrepareSettings(labels=Labels.parse("left_atrium=1"))
    (source / "test.list").write_text("CASE3\nCASE4\n")
    prepare(source, out, wanted)
    (out / "labelsTs" / "CASE3.nii.gz").write_bytes(b"somebody has edited it")
    (source / "test.list").write_text("CASE0\n")
    prepare(source, out, wanted)
    places = {folder: {p.name[:5] for p in (out / folder).iterdir()} for folder in ("imagesTr", "labelsTr")}
    assert set(map(frozenset, places.values())) == {frozenset(f"CASE{n}" for n in range(1, 5))}
    assert [p.name[:5] for p in (out / "imagesTs").iterdir()] == ["CASE0"]
    assert {p.name[:5] for p in (out / "labelsTs").iterdir()} == {"CASE0", "CASE3"}


def test_patients_from_names_and_a_torn_split(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for n, name in enumerate(("p1_a", "p1_b", "p2_a", "p3_a")):
        image_case(source, n, f"imagesTr/{name}", f"labelsTr/{name}")
    index = {"labelled": ["p1_a", "p2_a"], "validation": ["p1_b", "p3_a"], "labels": {"x": 1, "y": 2}}
    (source / "dataset.json").write_text(json.dumps(index))
    wanted = PrepareSettings(patient=r"p\d")
    with pytest.raises(InputError, match="1 patient on both sides"):
        prepare(source, tmp_path / "data", wanted)
    prepare(source, tmp_path / "data", PrepareSettings(patient=r"p\d", validation=1))
    data = DataSet.load(tmp_path / "data")
    assert data.records["p1_a"].patient == data.records["p1_b"].patient
    assert ("p1_a" in data.splits.labelled) == ("p1_b" in data.splits.labelled)


# The command line


def test_dry_run_writes_nothing_and_foresees_all(archive: Path, tmp_path: Path) -> None:
    before = hashes(archive)
    dry = run(archive, "-o", tmp_path / "data", "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    assert not (tmp_path / "data").exists()
    done = run(archive, "-o", tmp_path / "data", "--json")
    assert json.loads(dry.stdout) == json.loads(done.stdout)
    assert hashes(archive) == before


def test_a_file_beside_the_series_of_a_patient_is_of_that_patient(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for n, (folder, patient) in enumerate((("A17", "4711"), ("B18", "4712"), ("C19", "4713"))):
        study(source / folder / "dicom", 3 * n, "none", patient=patient)
        image_case(source, 3 * n + 1, f"{folder}/lge_{n}")
        image_case(source, 3 * n + 2, f"converted/{folder}")
    found = find(source, PrepareSettings())
    people: dict[str, set[str]] = {}
    for pair in found.pairs:
        parts = pair.scan.part.place.partition(":")[0].replace("converted/", "").partition("/")
        people.setdefault(parts[0].removesuffix(".nii.gz"), set()).add(pair.scan.patient)
    assert people == {
        "A17": {"PatientID 4711"}, "B18": {"PatientID 4712"}, "C19": {"PatientID 4713"},
    }  # fmt: skip


def test_the_modality_is_one_that_predict_can_look_for(tmp_path: Path) -> None:
    image_case(tmp_path / "source", 0, "images/a", "masks/a")
    study(tmp_path / "source/dicom", 1)
    stored = load(tmp_path / "source/dicom").source.modality
    assert stored == "MR"
    words = (tmp_path / "source", "-o", tmp_path / "data", "--dry-run", "--json", "--modality")
    for given in ("mri", "MR"):
        found = json.loads(run(*words, given).stdout)
        assert (found["modality"], found["found"]) == ("MR", 2)
    with pytest.raises(InputError, match="--modality is 'MR,series=1'; wanted a DICOM modality"):
        raise run(*words, "MR,series=1").exception  # type: ignore[misc]


def test_exit_codes_and_the_table(archive: Path, tmp_path: Path) -> None:
    (archive / "odd.nii.gz").write_bytes(b"no image")
    answer = run(archive, "-o", tmp_path / "data")
    assert answer.exit_code == 1
    assert "odd.nii.gz" in answer.stdout
    assert "validation" in answer.stdout
    (tmp_path / "empty").mkdir()
    answer = run(tmp_path / "empty", "-o", tmp_path / "none")
    assert answer.exit_code == 2
    assert "nothing here" in answer.stdout
    for wrong, message in (
        ("lge=x", "there is no key 'lge'"),
        ("3", "wanted a rule such as modality=MR"),
        ("", "is ''; wanted the number"),  # an unset variable must not select all series
    ):
        with pytest.raises(InputError, match=message):
            raise run(archive, "-o", tmp_path / "d", "--series", wrong).exception  # type: ignore[misc]


def test_nothing_that_is_written_or_said_of_a_series_names_a_patient(tmp_path: Path) -> None:
    """Markers are in every tag and in folder and file names, which only a table on the terminal may show."""
    source, out = tmp_path / "source", tmp_path / "data"
    for seed, truth in enumerate(("seg", "rtstruct", "none", "none")):
        folder = source / f"{MARKER}^NAME {seed}"
        study(folder, seed, truth)
        for file in folder.iterdir():
            edit(file, planted)
            edit(file, lambda d, s=seed: setattr(d, "PatientID", f"{MARKER}{s}"))
            file.rename(folder / f"{MARKER}-{file.name}")
    doubled = sorted((source / f"{MARKER}^NAME 2").iterdir())[3]
    shutil.copy(doubled, doubled.with_name(f"{MARKER}-again.dcm"))
    answer = run(source, "-o", out, "--series", f"description~{MARKER}", "--name", "mine")
    assert answer.exit_code == 0, answer.output
    assert found(answer.output.encode()) == []
    data = DataSet.load(out)
    assert any("dropped, the same slice twice: file " in n for r in data.records.values() for n in r.notes)
    uids = {pydicom.dcmread(p).SeriesInstanceUID for p in source.rglob("*") if p.is_file()}
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            assert found(content, str(path.relative_to(out)).encode()) == [], path
            assert not [uid for uid in uids if uid.encode() in content]
    assert set(data.records) == {f"case-000{n}" for n in range(1, 5)}


def test_a_refusal_may_name_the_users_own_folder_and_only_on_the_terminal(tmp_path: Path) -> None:
    for seed in range(3):
        study(tmp_path / "source" / f"{MARKER}{seed}", seed)
    sorted((tmp_path / "source" / f"{MARKER}0").iterdir())[4].unlink()
    answer = run(tmp_path / "source", "-o", tmp_path / "data")
    assert answer.exit_code == 1
    assert MARKER in answer.stdout
    assert MARKER not in (tmp_path / "data" / "dataset.json").read_text()


@pytest.mark.data
def test_real_dicom(shared_data: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(modality="MR", search=Search(leave_out=("philips*",)))
    result: PreparedDataSet = prepare(shared_data / "dicom", tmp_path / "data", settings)
    data = DataSet.load(tmp_path / "data")
    assert len(data.splits.unlabelled) == 3
    assert len(set(result.patients.values())) == 2  # the brain study is of one patient
    whole = load(shared_data / "dicom" / "oblique-t1")
    arrays = [load(data.scan(case)) for case in data.splits.unlabelled]
    assert any(
        a.geometry.matches(whole.geometry, 1e-3) and np.array_equal(a.array, whole.array) for a in arrays
    )


@pytest.mark.slow
def test_the_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the section run one after the other in an empty folder."""
    docs = (Path(__file__).parents[2] / "docs" / "retraining.md").read_text()
    section = docs.split("## From a folder to a data set")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    for line in chain(*(block.splitlines() for block in blocks)):
        program, *words = shlex.split(line)
        answer = command.run(*words)
        assert (program, answer.returncode) == ("c3s3-seg", 0), answer.stderr
    assert DataSet.load(tmp_path / "data").splits.labelled


def frames(source: Path, patients: int = 6) -> None:
    """Write two frames of each patient; the frames of the first four patients have masks."""
    for n in range(2 * patients):
        name = f"patient{n // 2 + 1:03}"
        scan = f"{name}/{name}_frame{1 + 11 * (n % 2):02}"
        image_case(source, n, scan, f"{scan}_gt" if n < 8 else None)


def sides(data: DataSet) -> tuple[set[str], set[str]]:
    def people(cases: tuple[str, ...]) -> set[str]:
        return {case.split("_")[0] for case in cases}

    return people(data.splits.validation), people(data.splits.labelled + data.splits.unlabelled)


def test_frames_of_a_patient_are_on_one_side_and_it_is_said(tmp_path: Path) -> None:
    frames(tmp_path / "source")
    for seed in range(4):
        answer = run(tmp_path / "source", "-o", tmp_path / f"data{seed}", "--validation", 2, "--seed", seed)
        assert answer.exit_code == 0, answer.output
        assert "of 6 patients" in answer.stdout
        assert "Patients: 12 scans of 6 patients, by the folder of each subject." in answer.stdout
        assert "--patient REGEX says otherwise" in answer.stdout
        data = DataSet.load(tmp_path / f"data{seed}")
        judged, trained_on = sides(data)
        assert len(judged) == 2
        assert not judged & trained_on
        assert len({record.patient for record in data.records.values()}) == 6
    told = json.loads(run(tmp_path / "source", "-o", tmp_path / "data0", "--json", "--dry-run").stdout)
    assert told["patients_by"] == {"the folder of each subject": {"scans": 12, "patients": 6}}
    index = json.loads((tmp_path / "data0" / "dataset.json").read_text())
    assert index["prepared"]["patients_by"] == {"the folder of each subject": 12}


def test_the_user_knows_better_than_the_names(tmp_path: Path) -> None:
    """Also in an existing output, scans that were taken for one patient's are separated."""
    frames(tmp_path / "source")
    out = tmp_path / "data"
    prepare(tmp_path / "source", out, PrepareSettings())
    result = prepare(tmp_path / "source", out, PrepareSettings(patient=r"[^/]+$"))
    assert len(set(result.patients.values())) == 12
    assert result.patients_by == {"--patient": (12, 12)}
    assert result.kept == 12
    assert len({r.patient for r in DataSet.load(out).records.values()}) == 12
    assert len(set(prepare(tmp_path / "source", out, PrepareSettings()).patients.values())) == 6


@pytest.mark.data
def test_the_frames_of_real_hearts(shared_data: Path, tmp_path: Path) -> None:
    answer = run(shared_data / "cine", "-o", tmp_path / "data", "--dry-run")
    assert "30 scans of 15 patients, by the folder of each subject" in answer.stdout
    answer = run(shared_data / "hippocampus", "-o", tmp_path / "data", "--dry-run")
    assert "195 scans of 195 patients, by file names, each of which is taken for a patient" in answer.stdout


def victim(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write files that no run may touch, where `../../victim/x` leads from `data/imagesTr`; return hashes."""
    for name in ("x.nii.gz", "secret.nii.gz"):
        image_case(folder / "victim", 40, name.removesuffix(".nii.gz"))
    return folder / "victim", hashes(folder / "victim")


OURS = {"labels": {"organ": 1, "lump": 2}, "unlabelled": [], "validation": []}
EVIL: dict[str, dict[str, object]] = {
    "ours": {**OURS, "labelled": ["../../victim/x"]},
    "ours, unlabelled": {**OURS, "labelled": ["a"], "unlabelled": ["../../victim/x"]},
    "ours, test": {**OURS, "labelled": ["a"], "test": ["../../victim/x"]},
    "ours, absolute": {**OURS, "labelled": ["/tmp/victim/x"]},
    "ours, records": {**OURS, "labelled": ["a"], "cases": {"../../victim/x": {}}},
    "decathlon": {"training": [{"image": "../victim/secret.nii.gz", "label": "labelsTr/a.nii.gz"}]},
    "decathlon, label": {"training": [{"image": "imagesTr/a.nii.gz", "label": "../victim/secret.nii.gz"}]},
    "decathlon, link": {"training": ["imagesTr/link.nii.gz"]},
    "nnunet, link": {"channel_names": {"0": "CT"}, "labels": {"organ": 1, "lump": 2}},
    "nnunet, list": {
        "channel_names": {"0": "CT"},
        "dataset": {"../../victim/x": {"images": ["imagesTr/a.nii.gz"]}},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", EVIL)
def test_no_list_of_any_layout_leads_out(tmp_path: Path, layout: str) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    image_case(source, 0, "imagesTr/a", "labelsTr/a")
    folder, before = victim(tmp_path)
    if "link" in layout:
        (source / "imagesTr" / "link.nii.gz").symlink_to(folder / "secret.nii.gz")
    (source / "dataset.json").write_text(json.dumps(EVIL[layout]))
    done = command.run("prepare", source, "-o", out)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert hashes(folder) == before
    assert not list(tmp_path.rglob("*.nii.gz.*"))
    assert not (out / "dataset.json").exists()


def test_an_index_of_an_earlier_run_leads_nowhere_either(tmp_path: Path) -> None:
    """The names of the records in the output's index become names of files, so they are checked."""
    source, out = tmp_path / "source", tmp_path / "data"
    image_case(source, 0, "images/a", "masks/a")
    folder, before = victim(tmp_path)
    prepare(source, out, PrepareSettings())
    index = json.loads((out / "dataset.json").read_text())
    index["cases"]["../../victim/x"] = index["cases"].pop("a")
    index["labelled"] = []
    (out / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="plain file name"):
        prepare(source, out, PrepareSettings())
    assert hashes(folder) == before
    for spoiled in ("{", "[]", "7", '{"prepared": 7}', "[" * 100_000):
        (out / "dataset.json").write_text(spoiled)
        with pytest.raises(InputError):
            prepare(source, out, PrepareSettings())


def test_records_of_a_killed_run_that_are_odd(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    for n, name in enumerate("abc"):
        image_case(source, n, f"images/{name}", f"masks/{name}")
    (out / ".prepare/cases").mkdir(parents=True)
    record = {"patient": "xx12", "sha256": {"other": "1"}, "source": {}, "source_sha256": {}}
    for name in ("a", "case-\u00b2", "p-\u0663"):
        (out / ".prepare/cases" / f"{name}.json").write_text(json.dumps({**record, "patient": name}))
    os.mkfifo(out / ".prepare/cases" / "pipe.json")
    result = prepare(source, out, PrepareSettings())
    assert set(result.patients) == {"a", "b", "c"}
    assert all(re.fullmatch(r"p-\d{4}", patient) for patient in result.patients.values())


def test_hidden_files_of_others_stay(tmp_path: Path) -> None:
    """Another program's hidden files (`._x` on a Mac) stay; the one that a killed run left is removed."""
    image_case(tmp_path / "source", 0, "images/a", "masks/a")
    out = tmp_path / "data"
    prepare(tmp_path / "source", out, PrepareSettings())
    for name in (".mine.nii.gz", "._a.nii.gz", ".0123456789ab.nii.gz"):
        (out / "imagesTr" / name).write_bytes(b"x")
    prepare(tmp_path / "source", out, PrepareSettings())
    assert {p.name for p in (out / "imagesTr").iterdir()} == {"a.nii.gz", ".mine.nii.gz", "._a.nii.gz"}


def test_a_run_that_makes_nothing_leaves_the_earlier_data_set_as_it_was(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    for n in range(2):
        image_case(source, n, f"images/{n}", f"labels/{n}")
    assert run(source, "-o", out).exit_code == 0
    before = hashes(out)
    for path in (source / "images").iterdir():
        scan = load(path)
        path.unlink()
        save(scan.geometry.volume(np.full(scan.array.shape, 0.5, np.float32)), path)
    assert run(source, "-o", out).exit_code == 2
    assert hashes(out) == before
    (out / "imagesTr" / "0.nii.gz").unlink()  # a file of the index is missing
    assert run(source, "-o", out).exit_code == 2
    assert not (out / "dataset.json").exists()
    assert (out / ".prepare" / "dataset.json").is_file()


def test_a_case_called_as_the_index_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    for n, name in enumerate(("a", "dataset")):
        image_case(source, n, f"images/{name}", f"masks/{name}")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for _ in range(2):  # kill the first run, and one that found its index
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, "_finish", killed)
            with pytest.raises(KeyboardInterrupt):
                prepare(source, out, PrepareSettings())
        result = prepare(source, out, PrepareSettings())
        assert (result.kept, set(result.patients)) == (2, {"a", "dataset"})


def test_links_in_the_output_are_not_written_through(tmp_path: Path) -> None:
    image_case(tmp_path / "source", 0, "images/a", "masks/a")
    folder, before = victim(tmp_path)
    for name in ("imagesTr", "labelsTr", ".prepare"):
        out = tmp_path / f"data-{name}"
        out.mkdir()
        (out / name).symlink_to(folder)
        with pytest.raises(InputError, match="is a link"):
            prepare(tmp_path / "source", out, PrepareSettings())
    assert hashes(folder) == before
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    # The output folder that the user names may itself be a link.
    prepare(tmp_path / "source", tmp_path / "linked", PrepareSettings())
    assert (tmp_path / "real" / "imagesTr" / "a.nii.gz").is_file()


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    image_case(tmp_path / "source", 0, "images/a", "masks/a")
    image_case(tmp_path / "data", 5, "imagesTr/a", "labelsTr/b")
    before = hashes(tmp_path / "data")
    with pytest.raises(InputError, match=r"found 1 file that `prepare` did not write, such as a\.nii\.gz"):
        prepare(tmp_path / "source", tmp_path / "data", PrepareSettings())
    kept = hashes(tmp_path / "data")
    assert {name: kept[name] for name in before} == before
    assert not (tmp_path / "data" / ".prepare").exists()


def test_a_place_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    image_case(tmp_path / "source", 0, "images/a")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(InputError, match="the folder cannot be made"):
            prepare(
                tmp_path / "source", out, PrepareSettings(), lambda *_: pytest.fail("it was read"), dry=True
            )


def test_names_of_files_that_no_case_can_have_are_rows(tmp_path: Path) -> None:
    source = tmp_path / "source"
    image_case(source, 0, "images/good", "masks/good")
    for n, name in enumerate((b"a\x1b]0;x\x07b", b"not\xffunicode", b"two\nlines", b"_0000"), 1):
        image_case(source, n, "images/x")
        (source / "images/x.nii.gz").rename(source / "images" / os.fsdecode(name + b".nii.gz"))
    answer = run(source, "-o", tmp_path / "data")
    assert answer.exit_code == 1
    assert "\x1b" not in answer.output
    assert "\x07" not in answer.output
    data = DataSet.load(tmp_path / "data")
    assert set(data.splits.cases) == {"good", "_0000"}
    folder = source / os.fsdecode(b"fold\xffer")
    image_case(source, 7, "y")
    folder.mkdir()
    (source / "y.nii.gz").rename(folder / "z.nii.gz")
    shutil.copy(source / "images/good.nii.gz", folder / "good.nii.gz")
    prepare(source, tmp_path / "other", PrepareSettings())
    assert DataSet.load(tmp_path / "other").records["z"].source == {"image": "fold\\udcffer/z.nii.gz"}


def background_only(folder: Path) -> None:
    from c3s3_seg.io import save

    for n in range(4):
        image_case(folder, n, f"images/{'abcd'[n]}", f"masks/{'abcd'[n]}")
    scan, mask = scan_and_mask(1)
    save(scan.geometry.volume(0 * mask), folder / "masks" / "b.nii.gz")


def test_a_background_only_mask_is_learnt_from_where_it_is_asked_for(tmp_path: Path) -> None:
    from c3s3_seg.dataset.check.check import check_data_set
    from c3s3_seg.training.cases import read_case

    background_only(tmp_path / "source")
    words = (tmp_path / "source", "-o", tmp_path / "data", "--labels", "organ=1,lump=2", "--validation", 0)
    answer = run(*words)
    assert answer.exit_code == 0
    assert "Mask of background alone: 1 case (b), which train refuses" in answer.stdout
    data = DataSet.load(tmp_path / "data")
    found = [f for f in check_data_set(tmp_path / "data").findings if f.check == "mask-empty"]
    assert [f.severity for f in found] == ["error"]
    with pytest.raises(InputError, match=r"the mask is empty.*empty_masks"):
        read_case(data, "b", TASK, labelled=True)

    answer = run(*words, "--empty-masks")
    assert "background alone" not in answer.stdout
    data = DataSet.load(tmp_path / "data")
    assert data.empty_masks
    assert "b" in data.splits.labelled
    assert not [f for f in check_data_set(tmp_path / "data").findings if f.check == "mask-empty"]
    case = read_case(data, "b", TASK, labelled=True)
    assert len(case.foreground) == 0
    assert case.stack[1].min() == 1  # every voxel is background
    with pytest.raises(InputError, match="holds the value"):
        read_case(replace(data, labels={"organ": 1}), "a", TASK, labelled=True)


def test_what_was_set_by_hand_in_the_index_stays(tmp_path: Path) -> None:
    background_only(tmp_path / "source")
    out = tmp_path / "data"
    words = (tmp_path / "source", "-o", out, "--labels", "organ=1,lump=2", "--validation", 0)
    assert run(*words).exit_code == 0
    index = json.loads((out / "dataset.json").read_text())
    assert (index["name"], index["modality"]) == ("data", "")
    by_hand = {"name": "Hearts", "modality": "MR", "empty_masks": True}
    (out / "dataset.json").write_text(json.dumps(index | by_hand))

    assert "background alone" not in run(*words, "--dry-run").stdout
    assert "background alone" not in run(*words).stdout
    data = DataSet.load(out)
    assert (data.name, data.modality, data.empty_masks) == ("Hearts", "MR", True)

    answer = run(*words, "--no-empty-masks", "--name", "Livers")
    assert "Mask of background alone: 1 case (b)" in answer.stdout
    data = DataSet.load(out)
    assert (data.name, data.empty_masks) == ("Livers", False)


def four_patients(source: Path) -> None:
    """Write a scan with a mask for each of four patients, and one without for the first."""
    for n, name in enumerate(("a_1", "b_1", "c_1", "d_1")):
        image_case(source, n, f"images/{name}", f"masks/{name}_seg")
    image_case(source, 4, "images/a_2")


def test_patients_that_a_person_corrected_stay_corrected(tmp_path: Path) -> None:
    """Another run dropped the key without a word, and drew one patient for validation and for training."""
    source, out = tmp_path / "source", tmp_path / "data"
    four_patients(source)
    wanted = PrepareSettings(validation=1, patient="[a-d]_")
    prepare(source, out, wanted)
    first = DataSet.load(out)
    (judged,) = first.splits.validation
    other = next(case for case in first.splits.labelled if case != "a_1")
    index = json.loads((out / "dataset.json").read_text())
    stated = {judged: "one person", other: "one person"}
    (out / "dataset.json").write_text(json.dumps({**index, "patient_of": stated}))
    for _ in range(2):
        prepare(source, out, wanted)
        data = DataSet.load(out)
        assert set(data.splits.validation) == {judged, other}
        assert data.patient_of == stated
        assert {data.records[case].patient for case in stated} == {"one person"}


def test_scans_that_are_held_out_now_leave_their_folder(tmp_path: Path) -> None:
    """They stayed there, and `check` advised to list them: to train on a validation patient."""
    source, out = tmp_path / "source", tmp_path / "data"
    four_patients(source)
    wanted = PrepareSettings(validation=0, patient="[a-d]_")
    prepare(source, out, wanted)
    assert (out / "imagesTr" / "a_2.nii.gz").is_file()
    others = (replace(wanted, validation=1, seed=seed) for seed in range(100))
    drawn = next(s for s in others if prepare(source, out, s, dry=True).data.splits.validation == ("a_1",))
    edited = tmp_path / "edited"
    shutil.copytree(out, edited)
    (edited / "imagesTr" / "a_2.nii.gz").write_bytes(b"somebody has changed it")
    for folder, expected in ((out, False), (edited, True)):
        assert prepare(source, folder, drawn).moved == ("a_1",)
        assert prepare(source, folder, drawn).moved == ()
        assert DataSet.load(folder).splits.validation == ("a_1",)
        assert (folder / "imagesTr" / "a_2.nii.gz").exists() == expected
    assert not [finding for finding in check_files(DataSet.load(out)) if finding.check == "unlisted"]


def three_cases(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Prepare three cases; return the source, the data set, and the place of the mask of `b`."""
    source, out = tmp_path / "source", tmp_path / "data"
    for n, name in enumerate("abc"):
        image_case(source, n, f"images/{name}", f"masks/{name}_seg")
    prepare(source, out, PrepareSettings(validation=1))
    return source, out, out / "labelsTr" / "b.nii.gz"


def correct(path: Path, value: int = 2) -> str:
    """Correct a mask by hand with a program that keeps the header's note, and return its hash."""
    mask = load_mask(path)
    array = mask.array.copy()
    array[:2] = value
    save(mask.geometry.volume(array), path, note="c3s3-seg")
    return sha256(path)


def change_mask_of_b(source: Path) -> None:
    """Change the mask of a case in the source, so that the next run converts the case again."""
    scan, mask = scan_and_mask(1)
    save(scan.geometry.volume(mask * (mask < 2)), source / "masks" / "b_seg.nii.gz")


def test_a_mask_corrected_by_hand_is_refused_in_every_run(tmp_path: Path) -> None:
    """The second run dropped its record, and the third one took the note in its header as proof."""
    source, out, label = three_cases(tmp_path)
    written, edited = sha256(label), correct(label)
    for _ in range(3):
        result = prepare(source, out, PrepareSettings(validation=1))
        (refused,) = result.refused
        assert "there is a mask that was changed since it was written. Move it away" in refused.reason
        assert sha256(label) == edited
        assert set(DataSet.load(out).splits.cases) == {"a", "c"}
    label.unlink()
    result = prepare(source, out, PrepareSettings(validation=1))
    assert (result.refused, set(result.data.splits.cases)) == ((), {"a", "b", "c"})
    assert sha256(label) == written
    assert "unlisted" not in json.loads((out / "dataset.json").read_text())["prepared"]


def test_a_mask_corrected_by_hand_outlives_its_source(tmp_path: Path) -> None:
    source, out, label = three_cases(tmp_path)
    edited = correct(label)
    source.rename(tmp_path / "all")
    for name in ("images", "masks"):
        shutil.copytree(tmp_path / "all" / name, source / name, ignore=shutil.ignore_patterns("b*"))
    for gone in (("b",), ()):  # said once
        assert prepare(source, out, PrepareSettings(validation=1)).gone == gone
    shutil.rmtree(source)
    (tmp_path / "all").rename(source)
    (refused,) = prepare(source, out, PrepareSettings(validation=1)).refused
    assert "was changed since it was written" in refused.reason
    assert sha256(label) == edited


def test_a_mask_drawn_for_a_scan_without_one_is_not_removed(tmp_path: Path) -> None:
    """Its header named this program as the maker, as that of a mask that `predict` wrote."""
    source, out, _ = three_cases(tmp_path)
    image_case(source, 5, "images/d")
    prepare(source, out, PrepareSettings(validation=1))
    drawn = out / "labelsTr" / "d.nii.gz"
    shutil.copy(out / "labelsTr" / "a.nii.gz", drawn)
    image_case(source, 6, "images/d")  # another scan: the case is converted again
    (refused,) = prepare(source, out, PrepareSettings(validation=1)).refused
    assert "there is a mask that no earlier run has a record of" in refused.reason
    assert drawn.is_file()
    image_case(source, 0, "images/d")  # a copy of `a`
    (out / "imagesTr" / "d.nii.gz").unlink()
    prepare(source, out, PrepareSettings(validation=1))
    assert drawn.is_file()


@pytest.mark.parametrize("first", [True, False])
def test_a_kill_between_a_mask_and_its_record_costs_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """The next run said that somebody had changed the mask, and left the case out."""
    source, out, _ = three_cases(tmp_path)
    if first:
        shutil.rmtree(out)
    change_mask_of_b(source)
    write = convert.write_whole

    def snapshot(path: Path, content: bytes) -> None:  # the state of the folder if the run is killed here
        if path.name == "b.json" and path.parent.name == "cases":
            shutil.copytree(out, tmp_path / "killed")
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(convert, "write_whole", snapshot)
        prepare(source, out, PrepareSettings(validation=1))
    killed = tmp_path / "killed"
    shutil.copytree(killed, tmp_path / "edited")
    edited = correct(tmp_path / "edited" / "labelsTr" / "b.nii.gz", 1)
    result = prepare(source, killed, PrepareSettings(validation=1))
    assert (result.refused, set(result.data.splits.cases)) == ((), {"a", "b", "c"})
    assert DataSet.load(killed).records == DataSet.load(out).records
    # A mask that was edited after the kill is still the user's.
    (refused,) = prepare(source, tmp_path / "edited", PrepareSettings(validation=1)).refused
    assert "there is a mask that" in refused.reason
    assert sha256(tmp_path / "edited" / "labelsTr" / "b.nii.gz") == edited
