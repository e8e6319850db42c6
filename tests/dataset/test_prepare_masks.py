"""Tests of masks of scans that `prepare` repairs, and of what it writes about the masks of DICOM scans."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.archive import SEGMENTS, image_case, scan_and_mask, study

from c3s3_seg.dataset import DataSet
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare import convert
from c3s3_seg.dataset.prepare.assemble import PrepareSettings
from c3s3_seg.dataset.prepare.discover import Search
from c3s3_seg.dataset.prepare.pipeline import prepare
from c3s3_seg.dataset.prepare.result import PreparedDataSet
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.system.choices import Repair


def made(source: Path, out: Path, *repair: Repair, labels: str = "") -> PreparedDataSet:
    wanted = Labels.parse(labels) if labels else None
    search = Search(repair=frozenset(repair))
    return prepare(source, out, PrepareSettings(search=search, labels=wanted, validation=0))


def with_a_gap(folder: Path, seed: int, kind: str) -> None:
    """Write a series without one of its slices, and the mask of the slices that are there."""
    study(folder, seed)
    sorted(folder.iterdir())[5].unlink()
    scan = load(folder, repair="gaps")
    mask = scan.geometry.volume(scan_and_mask(seed)[1], scan.source)
    write = write_seg if kind == "seg" else write_rtstruct
    write(mask, folder.with_name(f"{folder.name}-{kind}.dcm"), SEGMENTS)


def test_a_drawing_of_a_scan_with_interpolated_slices_is_refused(tmp_path: Path) -> None:
    """The interpolated slice was background in the mask of a SEG, without a note."""
    source, out = tmp_path / "source", tmp_path / "data"
    for seed, kind in enumerate(("seg", "rtstruct")):
        with_a_gap(source / f"p{seed}", seed, kind)
    study(source / "p2", 2, "seg")
    result = made(source, out, "gaps")
    assert [item.place for item in result.refused] == ["p0-seg.dcm", "p1-rtstruct.dcm"]
    for item in result.refused:
        assert "drawn on the acquired slices, and others between them were interpolated" in item.reason
        assert item.reason.endswith("The scan is taken without a mask")
    data = DataSet.load(out)
    assert (len(data.splits.labelled), len(data.splits.unlabelled)) == (1, 2)
    (labelled,) = data.splits.labelled
    assert np.array_equal(load_mask(data.mask(labelled)).array, scan_and_mask(2)[1])
    assert all("(gaps)" in data.records[case].notes[0] for case in data.splits.unlabelled)


def test_a_mask_with_holes_of_an_earlier_version_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    with_a_gap(source / "p0", 0, "seg")
    study(source / "p1", 1, "seg")
    with monkeypatch.context() as before:
        before.setattr(convert, "_has_holes", lambda *_: False)
        made(source, out, "gaps")
    holes = {
        case: (load_mask(DataSet.load(out).mask(case)).array.any(axis=(0, 1))).tolist()
        for case in DataSet.load(out).splits.labelled
    }
    (case,) = [name for name, used in holes.items() if used[4] and not used[5] and used[6]]
    result = made(source, out, "gaps")
    assert (result.kept, len(result.refused)) == (1, 1)
    assert DataSet.load(out).splits.unlabelled == (case,)
    assert not list((out / "labelsTr").glob(f"{case}.*"))


def beside_series(source: Path) -> None:
    """Write series of three patients in folders of their names, with masks in image files beside them."""
    for seed, patient in enumerate(("MILLER_JOHN", "SMITH_ANN", "DOE_JANE")):
        folder = source / patient
        study(folder / "dicom", seed)
        scan, mask = load(folder / "dicom"), scan_and_mask(seed)[1]
        if seed < 2:
            for number, name in enumerate(("liver", "tumour")[seed:], 1 + seed):
                save(scan.geometry.volume((mask == number).astype(np.uint8)), folder / f"{name}_seg.nii.gz")
        else:
            save(scan.geometry.volume(mask), folder / "both_seg.nii.gz")


@pytest.mark.parametrize("labels", ["", "liver=1,tumour=2"])
def test_folders_of_patients_are_not_in_the_index_of_dicom_scans(tmp_path: Path, labels: str) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    beside_series(source)
    if not labels:  # one mask for each scan
        (source / "MILLER_JOHN" / "liver_seg.nii.gz").unlink()
    made(source, out, labels=labels)
    text = (out / "dataset.json").read_text()
    assert not [word for word in ("MILLER", "SMITH", "DOE") if word in text]
    places = {record.source.get("label") for record in DataSet.load(out).records.values()}
    assert "an image file" in places
    assert places <= {"an image file", "2 image files", None}
    assert ("2 image files" in places) == bool(labels)


def test_an_index_with_folders_of_patients_is_known_and_written_without_them(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "data"
    beside_series(source)
    (source / "MILLER_JOHN" / "liver_seg.nii.gz").unlink()
    made(source, out)
    whole = (out / "dataset.json").read_text()
    index = json.loads(whole)
    for case in index["cases"].values():
        case["source"]["label"] = "MILLER_JOHN/tumour_seg.nii.gz"
    (out / "dataset.json").write_text(json.dumps(index))
    result = made(source, out)
    assert (result.kept, result.again, result.gone) == (3, (), ())
    assert (out / "dataset.json").read_text() == whole


def test_the_place_of_an_image_file_stays_in_the_index(tmp_path: Path) -> None:
    """An image file gives its case its name, so that a person finds the file again by the index."""
    for seed in range(2):
        image_case(tmp_path / "source", seed, f"p{seed}/ct", f"p{seed}/seg")
    made(tmp_path / "source", tmp_path / "data")
    records = DataSet.load(tmp_path / "data").records
    assert {record.source["label"] for record in records.values()} == {"p0/seg.nii.gz", "p1/seg.nii.gz"}


def sheared(array: np.ndarray, path: Path, seed: int) -> None:
    """Write an image file as some programs do: with axes that are 0.57 degrees off a right angle."""
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    affine[0, 1], affine[:3, 3] = 0.01, (5 + 30 * seed, 6, 7)
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


@pytest.mark.parametrize("labels", ["", "liver=1,tumour=2"], ids=["one file", "structures"])
def test_a_mask_is_repaired_as_its_scan_is(tmp_path: Path, labels: str) -> None:
    """The mask was read without the repair of its scan, and refused for the fault that both have."""
    source, out = tmp_path / "source", tmp_path / "data"
    masks = []
    for seed in range(2):
        scan, mask = scan_and_mask(seed)
        masks.append(mask)
        sheared(scan.array.astype(np.int16), source / f"p{seed}" / "ct.nii.gz", seed)
        files = {"liver": mask == 1, "tumour": mask == 2} if labels else {"mask": mask}
        for name, array in files.items():
            sheared(array.astype(np.uint8), source / f"p{seed}" / "seg" / f"{name}.nii.gz", seed)
    result = made(source, out, "orthonormal", labels=labels)
    assert (result.refused, result.masks) == ((), 2)
    data = DataSet.load(out)
    for case in data.splits.labelled:
        scan = load(data.scan(case))
        back = load_mask(data.mask(case), grid=scan.geometry)
        assert any(np.array_equal(back.array, mask) for mask in masks)
        assert sum("(orthonormal)" in note for note in data.records[case].notes) == (3 if labels else 2)


def test_a_mask_on_another_grid_than_the_repaired_scan_is_refused(tmp_path: Path) -> None:
    scan, mask = scan_and_mask(0)
    sheared(scan.array.astype(np.int16), tmp_path / "source" / "ct.nii.gz", 0)
    other = Geometry.build(mask.shape, (1, 1, 2), (-5, 6, 7))
    save(other.volume(mask), tmp_path / "source" / "ct_seg.nii.gz")
    result = made(tmp_path / "source", tmp_path / "data", "orthonormal")
    assert result.masks == 0
    assert len(result.refused) == 1
