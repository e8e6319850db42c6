"""Tests of scans and masks that are found in an unordered folder, and of files refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from helpers.archive import image_case, renamed, scan_and_mask, study
from helpers.dicom_files import edit, values

from c3s3_seg.dataset.check.mask_statistics import few_values
from c3s3_seg.dataset.prepare.discover import LINKS, Search, by_name, discover
from c3s3_seg.dataset.prepare.inventory import Inventory
from c3s3_seg.errors import InputError
from c3s3_seg.io import save
from c3s3_seg.io.reading import SeriesRule


def masks(found: Inventory) -> dict[str, str]:
    """Return the place of each scan, without the series, mapped to that of its mask ("" without a mask)."""
    return {p.scan.part.place.partition(":")[0]: p.mask.part.place if p.mask else "" for p in found.pairs}


def reasons(found: Inventory) -> dict[str, str]:
    return {item.place.partition(":")[0]: item.reason for item in found.refused}


def test_dicom_with_masks_of_every_kind(tmp_path: Path) -> None:
    for seed, truth in enumerate(("seg", "rtstruct", "nii.gz", "none")):
        study(tmp_path / f"p{seed}" / "series", seed, truth)
    found = discover(tmp_path, Search())
    assert masks(found) == {
        "p0/series": "p0/series/seg.dcm",
        "p1/series": "p1/series/rt.dcm",
        "p2/series": "p2/series/mask.nii.gz",
        "p3/series": "",
    }
    assert found.refused == ()
    first = found.pairs[0].scan
    assert (first.patient, first.modality, first.stem) == ("PatientID ID-0", "MR", "")
    assert len(first.part.files) == 10


def test_image_files_by_name_by_folder_and_by_grid(tmp_path: Path) -> None:
    image_case(tmp_path, 0, "images/a", "masks/a")
    image_case(tmp_path, 1, "b/ct", "b/drawn")  # paired by the grid, not by the name
    image_case(tmp_path, 2, "c", "c_seg")
    image_case(tmp_path, 3, "d_0000")
    found = discover(tmp_path, Search(workers=2))
    assert masks(found) == {
        "images/a.nii.gz": "masks/a.nii.gz",
        "b/ct.nii.gz": "b/drawn.nii.gz",
        "c.nii.gz": "c_seg.nii.gz",
        "d_0000.nii.gz": "",
    }
    assert [p.mask.values for p in found.pairs if p.mask] == [(1, 2)] * 3
    assert found.refused == ()


def test_a_link_to_the_folder_of_a_subject_is_counted(tmp_path: Path) -> None:
    """Links to folders are not followed: the subjects behind them were missing without a word."""
    root = tmp_path / "source"
    for seed, name in enumerate(("p0", "p1")):
        image_case(root / name, seed, "ct", "seg")
    image_case(tmp_path / "store", 2, "ct", "seg")
    study(tmp_path / "dicom", 3)
    (root / "p2").symlink_to(tmp_path / "store")
    (root / "p3").mkdir()
    (root / "p3" / "dicom").symlink_to(tmp_path / "dicom")
    (root / "latest").symlink_to("p1")  # found anyway
    (root / "p1" / "up").symlink_to(root)
    (root / ".hidden").symlink_to(tmp_path / "store")
    found = discover(root, Search())
    assert len(found.pairs) == 2
    assert found.passed == {"links to folders elsewhere, which are not followed": 2}
    assert discover(root, Search(leave_out=("p2/*",))).passed == {LINKS: 1}
    assert discover(root, Search(leave_out=("p[23]*",))).passed == {}


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    scan, mask = scan_and_mask(0)
    save(scan.geometry.volume(mask), tmp_path / "few.nii.gz")
    save(scan, tmp_path / "p1_mask.nii.gz")
    save(scan.geometry.volume(mask * np.float32(0.4)), tmp_path / "p2_mask.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "few.nii.gz").read_bytes()[:-9])
    (tmp_path / "old.zip").write_bytes(b"PK\3\4")
    (tmp_path / "notes.txt").write_text("beside it")
    found = discover(tmp_path, Search())
    assert found.pairs == ()
    told = reasons(found)
    assert "holds 2 whole values, as a mask does" in told["few.nii.gz"]
    assert (
        "named like a mask, and holds values that no mask has: more than 64 different"
        in told["p1_mask.nii.gz"]
    )
    assert "0.4, one of" in told["p2_mask.nii.gz"]
    assert "as in a map of probabilities" in told["p2_mask.nii.gz"]
    assert "stream ends too early" in told["cut.nii.gz"] or "damaged" in told["cut.nii.gz"]
    assert "unpack it" in told["old.zip"]
    assert found.passed == {"neither images nor DICOM": 1}


def test_several_series_in_a_folder_localizers_and_a_rule(tmp_path: Path) -> None:
    study(tmp_path / "all", 0, "seg")
    study(tmp_path / "other", 1)
    study(tmp_path / "scout", 2)
    renamed(tmp_path / "scout", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER", SeriesDescription="scout")
    for folder in ("other", "scout"):
        for file in (tmp_path / folder).iterdir():
            file.rename(tmp_path / "all" / f"{folder}-{file.name}")
    found = discover(tmp_path, Search())
    assert sorted(p.mask is not None for p in found.pairs) == [False, True]
    assert found.passed == {"DICOM series that are no volumes (localizers, single images)": 1}
    none = discover(tmp_path, Search(rule=SeriesRule("modality=CT")))
    assert none.pairs == ()
    assert none.passed["DICOM series that are not wanted"] == 2
    assert none.passed["masks of DICOM series that are not wanted"] == 1
    assert none.refused == ()


def test_damage_is_of_its_own_series_alone(tmp_path: Path) -> None:
    for seed, name in enumerate(("cut", "gap", "good", "stray")):
        study(tmp_path / name, seed)
    files = {name: sorted((tmp_path / name).iterdir()) for name in ("cut", "gap", "stray")}
    files["cut"][3].write_bytes(files["cut"][3].read_bytes()[:300])
    files["gap"][4].unlink()
    for file in files["stray"][1:]:
        file.unlink()
    files["stray"][0].write_bytes(files["stray"][0].read_bytes()[:300])
    found = discover(tmp_path, Search())
    assert list(masks(found)) == ["good"]
    told = reasons(found)
    assert "'cut/IM_0004.dcm' is damaged" in told["cut"]
    assert "slices are missing (1)" in told["gap"]
    assert "it is damaged" in told["stray/IM_0001.dcm"]
    mended = discover(tmp_path, Search(repair=frozenset({"gaps"})))
    assert set(masks(mended)) == {"gap", "good"}


def test_a_damaged_seg_is_a_row(tmp_path: Path) -> None:
    study(tmp_path / "p", 0, "seg")

    def spoil(data) -> None:  # type: ignore[no-untyped-def]
        del data.ReferencedSeriesSequence[0].SeriesInstanceUID

    edit(tmp_path / "p" / "seg.dcm", spoil)
    found = discover(tmp_path, Search())
    assert masks(found) == {"p": ""}
    assert "header of this DICOM SEG cannot be read" in reasons(found)["p/seg.dcm"]


def test_a_series_without_an_id_is_of_the_patient_of_its_study(tmp_path: Path) -> None:
    for seed, name in enumerate(("a-1", "a-2", "a-3")):
        study(tmp_path / name, seed, patient="DOE JOHN")
    renamed(tmp_path / "a-1", StudyInstanceUID="1.2.3")
    renamed(tmp_path / "a-2", StudyInstanceUID="1.2.3", PatientID="", PatientName="somebody")
    renamed(tmp_path / "a-3", PatientID="Doe  john ")
    assert {p.scan.patient for p in discover(tmp_path, Search()).pairs} == {"PatientID DOE JOHN"}


def test_patients_by_id_by_name_by_study_and_by_path(tmp_path: Path) -> None:
    for seed, name in enumerate(("a-1", "a-2", "b-1")):
        study(tmp_path / name, seed, patient="SAME" if name != "b-1" else "OTHER")
    scans = [p.scan for p in discover(tmp_path, Search()).pairs]
    assert [s.patient for s in scans] == ["PatientID SAME", "PatientID SAME", "PatientID OTHER"]
    renamed(tmp_path / "b-1", PatientID="", PatientName="")
    scans = [p.scan for p in discover(tmp_path, Search()).pairs]
    assert scans[2].patient.startswith("StudyInstanceUID ")
    named, refused = by_name(scans, r"^(\w)-")
    assert [s.patient for s in named] == ["name a", "name a", "name b"]
    assert refused == []
    assert [s.patient for s in by_name(scans, r"([^ ]+)$")[0]] == ["name a-1", "name a-2", "name b-1"]
    assert len(by_name(scans, "portal")[1]) == 3  # in the description of each series
    named, refused = by_name(scans, "a-.")
    assert [s.patient for s in named] == ["name a-1", "name a-2"]
    assert "of whom it is is not known" in refused[0].reason
    with pytest.raises(InputError, match="--patient is empty"):
        by_name(scans, "")
    with pytest.raises(InputError, match="no regular expression"):
        by_name(scans, "(")


def test_files_that_are_left_out(tmp_path: Path) -> None:
    image_case(tmp_path, 0, "a", "a_seg")
    image_case(tmp_path, 0, "old/a")
    found = discover(tmp_path, Search(leave_out=("old/*",)))
    assert masks(found) == {"a.nii.gz": "a_seg.nii.gz"}


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([0, 1, 2, 255], np.uint8), (1, 2, 255)),
        (np.array([0.0, 3.0], np.float32), (3,)),
        (np.array([0, 0], np.int16), ()),
        (np.array([0.0, 0.5]), None),
        (np.array([-1e-5, 1.9999847, 3.00003]), (2, 3)),
        (np.array([0.0, 1.002]), None),
        (np.array([-1, 1]), None),
        (np.array([0, 70_000]), None),
        (np.arange(65), None),
        (np.arange(64), tuple(range(1, 64))),
    ],
)
def test_values_of_a_mask(array: np.ndarray, wanted: tuple[int, ...] | None) -> None:
    assert few_values(array.reshape(-1, 1, 1)) == wanted


def test_a_mask_of_104_bodies_is_a_mask_and_a_scan_is_none() -> None:
    array = np.zeros((24, 24, 12), np.uint8)
    for n in range(104):
        i, j, k = n % 6, n // 6 % 6, n // 36
        array[i * 4 : i * 4 + 3, j * 4 : j * 4 + 3, k * 4 : k * 4 + 3] = n + 1
    assert few_values(array) == tuple(range(1, 105))
    assert few_values(array.astype(np.float32)) == tuple(range(1, 105))
    assert few_values(np.random.default_rng(0).integers(0, 105, array.shape)) is None


def test_two_copies_of_one_series_are_one_scan(tmp_path: Path) -> None:
    study(tmp_path / "a", 0)
    study(tmp_path / "b", 0)
    found = discover(tmp_path, Search())
    assert len(found.pairs) == 1
    assert len(found.pairs[0].scan.part.files) == 20


def test_an_echo_is_a_scan_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        study(tmp_path / str(seed), seed)
    for number, file in enumerate(sorted(tmp_path.rglob("*.dcm"))):
        same = values(
            SeriesInstanceUID="1.2.3",
            EchoTime=str(10 + number // 10),
            PatientID="A",
            FrameOfReferenceUID="1.4",
        )
        edit(file, same)
    found = discover(tmp_path, Search())
    assert len(found.pairs) == 2
    assert {p.scan.part.phase for p in found.pairs} != {""}
    arrays = [p.scan.part.scan(tmp_path, frozenset()).array for p in found.pairs]
    assert not np.array_equal(*arrays)


def test_a_pattern_that_matches_nothing_is_no_patient(tmp_path: Path) -> None:
    study(tmp_path / "a", 0)
    scans = [p.scan for p in discover(tmp_path, Search()).pairs]
    for pattern in ("x*", "a|(b)"):
        kept, refused = by_name(scans, pattern)
        assert kept == []
        assert "of whom it is is not known" in refused[0].reason


def test_derivatives_of_bids_belong_to_the_scan_that_they_are_named_after(tmp_path: Path) -> None:
    """All scans lie on one grid; there are two sessions, with two sequences in the second."""
    scan, mask = scan_and_mask(0)
    names = ("sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-01_ses-2_T2w", "sub-02_T1w")
    for name in names:
        place = tmp_path / "/".join(part for part in name.split("_")[:-1]) / "anat"
        place.mkdir(parents=True, exist_ok=True)
        save(scan, place / f"{name}.nii.gz")
    (tmp_path / "derivatives" / "labels").mkdir(parents=True)
    for name in ("sub-01_ses-1_T1w_label-liver_dseg", "sub-01_ses-2_T2w_dseg", "sub-02_dseg"):
        save(scan.geometry.volume(mask), tmp_path / "derivatives" / "labels" / f"{name}.nii.gz")
    found = discover(tmp_path, Search())
    assert found.refused == ()
    pairs = {Path(scan).name[:16]: Path(mask).name for scan, mask in masks(found).items() if mask}
    assert pairs == {
        "sub-01_ses-1_T1w": "sub-01_ses-1_T1w_label-liver_dseg.nii.gz",
        "sub-01_ses-2_T2w": "sub-01_ses-2_T2w_dseg.nii.gz",
        "sub-02_T1w.nii.g": "sub-02_dseg.nii.gz",
    }
