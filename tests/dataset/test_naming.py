"""Tests of names and pseudonyms: known cases and patients keep theirs, and no name is given twice."""

from pathlib import Path

import pytest

from c3s3_seg.dataset.index import CaseRecord, DataSet, Splits
from c3s3_seg.dataset.prepare.inventory import Part, Scan, ScanMaskPair
from c3s3_seg.dataset.prepare.naming import Earlier, name_cases, name_patients, read_earlier
from c3s3_seg.errors import InputError


def record(place: str, content: str, patient: str = "p-0001") -> CaseRecord:
    return CaseRecord(patient, {"image": "x"}, {"image": place}, {"image": content})


def dicom(patient: str = "") -> Scan:
    return Scan(Part("dicom", "MILLER/ct", (Path("MILLER/ct/1"),)), patient=patient)


def image(place: str) -> Scan:
    path = Path(place)
    return Scan(Part("image", place, (path,)), path.name.split(".")[0])


def names(scans: list[Scan], contents: str, earlier: Earlier) -> list[str]:
    return name_cases(
        [ScanMaskPair(scan) for scan in scans], [{"image": c} for c in contents.split()], earlier
    )


def test_numbers_for_dicom_and_stems_for_files() -> None:
    scans = [dicom(), image("a/x.nii.gz"), dicom(), image("b/X.nii.gz"), image("y.nii.gz")]
    assert names(scans, "", Earlier()) == ["case-0001", "a_x", "case-0002", "b_X", "y"]
    assert names([dicom(), image("case-0001.nii.gz")], "", Earlier())[0] == "case-0001"
    assert len(set(names([dicom(), image("case-0001.nii.gz")], "", Earlier()))) == 2


def test_known_by_place_or_by_content() -> None:
    known = {
        "case-0004": record("a DICOM series, 1 file", "d"),
        "x": record("a/x.nii", "e"),
        "z": record("z.nii", "f"),
    }
    earlier = Earlier(known)
    assert names([dicom(), dicom()], "new d", earlier) == ["case-0005", "case-0004"]
    assert names([image("a/x.nii")], "changed", earlier) == ["x"]
    assert names([image("moved/q.nii")], "f", earlier) == ["z"]
    assert names([image("b/x.nii")], "new", earlier) == ["b_x"]  # the scan of case x may come back


def test_pseudonyms() -> None:
    scans = [dicom("ID 1"), dicom("ID 2"), dicom(), dicom("ID 1"), dicom()]
    cases = [f"case-{n}" for n in range(5)]
    first = name_patients(scans, cases, Earlier())
    assert first == ["p-0001", "p-0002", "p-0003", "p-0001", "p-0004"]
    known = Earlier({"case-1": record("", "", "p-0002"), "case-4": record("", "", "p-0004")})
    grown = [dicom("ID 0"), *scans[1:]]
    assert name_patients(grown, cases, known) == ["p-0005", "p-0002", "p-0006", "p-0007", "p-0004"]


def test_stated_patients_hold_and_new_scans_follow_them() -> None:
    """A new scan of a patient, all of whose scans were stated as another's, was a patient of its own."""
    scans, cases = [dicom("A"), dicom("B"), dicom("A"), dicom("C")], ["a", "b", "new", "c"]
    records = {"a": record("", "", "p-0001"), "b": record("", "", "p-0002"), "c": record("", "", "p-0003")}
    joined = Earlier(records, patient_of={"a": "x", "b": "x"})
    assert name_patients(scans, cases, joined) == ["x", "x", "x", "p-0003"]
    apart = Earlier({**records, "new": record("", "", "p-0001")}, patient_of={"a": "p-0009"})
    assert name_patients(scans, cases, apart) == ["p-0009", "p-0002", "p-0001", "p-0003"]
    named = name_patients([*scans, dicom("D")], [*cases, "d"], apart)
    assert named[-1] == "p-0010"  # p-0009 is taken


def test_what_a_killed_run_has_left(tmp_path: Path) -> None:
    state = tmp_path / ".prepare"
    (state / "cases").mkdir(parents=True)
    kept = record("a", "b", "p-0003")
    data = DataSet(state, splits=Splits((), (), ("v",)), records={"v": kept, "w": kept})
    data.save(prepared={"validation": 2, "seed": 5})
    (state / "cases/half.json").write_text("{")
    earlier = read_earlier(tmp_path)
    assert set(earlier.records) == {"v", "w"}
    assert (earlier.drawn.validation, earlier.draw) == ({"p-0003"}, (2, 5))
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="which `prepare` did not make"):
        read_earlier(tmp_path)
