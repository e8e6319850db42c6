"""Tests of findings from the index and the file names alone: leaks, stray files, counts."""

import json
from pathlib import Path

import pytest

from c3s3_seg.dataset import CaseRecord, DataSet, Splits
from c3s3_seg.dataset.check.index_checks import (
    check_files,
    check_names,
    kinds,
    leaking_patients,
    refuse_leaks,
)
from c3s3_seg.errors import InputError
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.settings import DataConfig


def record(patient: str) -> CaseRecord:
    return CaseRecord(patient, {}, {}, {})


def checks(cases: dict[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    return [(f.check, f.cases) for f in check_names(cases, {})]


@pytest.mark.parametrize(
    "name",
    [
        "Case-1",
        "case-1_aug",
        "case-1_aug2",
        "case-1 (1)",
        "Copy of case-1",
        "case-1 - Copy",
        "case-1_flipped",
    ],
)
def test_a_copy_by_its_name(name: str) -> None:
    assert checks({"case-1": "labelled", name: "validation"}) == [
        ("name-copy", tuple(sorted(("case-1", name))))
    ]
    assert checks({"case-1": "labelled", name: "unlabelled"}) == []  # nothing leaks


@pytest.mark.parametrize("name", ["case-10", "case-2", "scan-1", "case-1b", "august-1", "copycat"])
def test_another_case_is_no_copy(name: str) -> None:
    assert checks({"case-1": "labelled", name: "validation"}) == []


def test_a_name_that_states_another_split() -> None:
    assert checks({"val_007": "labelled", "b": "validation"}) == [("name-split", ("val_007",))]
    assert checks({"train_007": "validation"}) == [("name-split", ("train_007",))]
    assert checks({"training-1": "labelled", "train2": "unlabelled", "validity": "labelled"}) == []


def test_visits_of_one_patient_on_both_sides() -> None:
    names = {f"p{n:02}_v{v}": "labelled" for n in range(6) for v in (1, 2)}
    assert checks(names) == []
    assert checks({**names, "p03_v2": "validation"}) == [("name-patient", ("p03_v1", "p03_v2"))]
    known = {name: record(name) for name in names}  # the records state different patients
    assert check_names({**names, "p03_v2": "validation"}, known) == []


@pytest.mark.parametrize("pattern", ["hippocampus_{:03}", "la_2018_{:03}", "case{}", "KQ7XZ{}"])
def test_a_number_is_no_visit(pattern: str) -> None:
    names = {pattern.format(n): "validation" if n % 5 == 0 else "labelled" for n in range(30)}
    assert checks(names) == []


def test_patients_of_the_records() -> None:
    splits = Splits(("a", "b"), ("c",), ("d",))
    apart = {"a": record("1"), "b": record("1"), "c": record("2"), "d": record("3")}
    assert leaking_patients(splits, apart) == []
    refuse_leaks(DataSet(Path("x"), splits=splits, records=apart), splits)
    both = {**apart, "d": record("2")}
    (leak,) = leaking_patients(splits, both)
    assert (leak.severity, leak.cases) == ("error", ("d", "c"))
    with pytest.raises(InputError, match=r"one patient.*d, c"):
        refuse_leaks(DataSet(Path("x"), splits=splits, records=both), splits)


def test_training_refuses_a_patient_on_both_sides(tmp_path: Path) -> None:
    same = {"a": record("1"), "b": record("1")}
    DataSet(tmp_path, labels={"x": 1}, splits=Splits(("a",), ("b",), ()), records=same).save()
    assert read_splits(DataConfig(folder=str(tmp_path)))[1].labelled == ("a",)
    with pytest.raises(InputError, match="one patient"):
        read_splits(DataConfig(folder=str(tmp_path), validation_from_unlabelled=1))


def test_kinds() -> None:
    assert kinds(Splits(("a",), ("b",), ("c",))) == {"a": "labelled", "b": "unlabelled", "c": "validation"}
    assert kinds(Splits(test=("d",))) == {"d": "test"}


def test_counts_and_files(tmp_path: Path) -> None:
    for folder, names in {"imagesTr": "ab", "labelsTr": "ax"}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.nii.gz").touch()
    (tmp_path / "imagesTr" / "notes.txt").touch()
    (tmp_path / "labelsTr" / "a.nii.gz").rename(tmp_path / "labelsTr" / "a.seg.nrrd")
    data = DataSet(tmp_path, splits=Splits(("a", "b"), (), ("c",)))
    found = {(f.severity, f.check, f.cases) for f in check_files(data)}
    assert found == {
        ("error", "no-file", ("b",)),  # its mask is missing
        ("error", "no-file", ("c",)),
        ("warning", "few-cases", ()),
        ("warning", "unlisted", ("x",)),
        ("info", "no-labels", ()),
    }
    none = DataSet(tmp_path, labels={"a": 1}, splits=Splits((), ("a",), ()))
    severities = [f.severity for f in check_files(none) if f.check == "few-cases"]
    assert severities == ["error", "info"]
    assert [f.found for f in check_files(none) if f.check == "masks-unused"] == [
        "1 unlabelled cases have a mask"
    ]


def leaking(folder: Path, **more: object) -> DataSet:
    """Write a data set with frames of one patient on both sides, which the index does not state."""
    index = {"labels": {"x": 1}, "labelled": ["patient001_frame01", "patient002_frame01"]}
    index |= {"validation": ["patient001_frame12"], **more}
    (folder / "dataset.json").write_text(json.dumps(index))
    return DataSet.load(folder)


def test_a_patient_on_both_sides_by_plain_names_is_refused_by_training(tmp_path: Path) -> None:
    data = leaking(tmp_path)
    (leak,) = [f for f in check_files(data) if f.check == "name-patient"]
    assert (leak.severity, leak.cases) == ("error", ("patient001_frame01", "patient001_frame12"))
    with pytest.raises(InputError, match=r"one patient \(patient001\).*patient_of"):
        read_splits(DataConfig(folder=str(tmp_path)))
    with pytest.raises(InputError, match="one patient"):
        read_splits(DataConfig(folder=str(tmp_path), fold="1/2"))


def test_the_index_may_say_that_they_are_two(tmp_path: Path) -> None:
    data = leaking(tmp_path, patient_of={"patient001_frame01": "1", "patient001_frame12": "2"})
    assert not [f for f in check_files(data) if "patient" in f.check]
    assert read_splits(DataConfig(folder=str(tmp_path)))[1].validation == ("patient001_frame12",)


def test_a_patient_of_a_case_that_is_not_there_is_said(tmp_path: Path) -> None:
    data = leaking(tmp_path, patient_of={"patient001_frame1": "1", "patient001_frame12": "2"})
    (found,) = [f for f in check_files(data) if f.found.startswith("patient_of")]
    assert (found.severity, found.check, found.cases) == ("warning", "unlisted", ("patient001_frame1",))


def test_the_index_may_say_that_they_are_one(tmp_path: Path) -> None:
    index = {"labelled": ["a"], "validation": ["b"], "patient_of": {"a": "1", "b": "1"}}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"one patient \(1\).*b, a"):
        read_splits(DataConfig(folder=str(tmp_path)))
    errors = [f.check for f in check_files(DataSet.load(tmp_path)) if f.severity == "error"]
    assert errors.count("patient-leak") == 1


def test_a_patient_of_the_test_is_not_learnt_from(tmp_path: Path) -> None:
    data = leaking(tmp_path, validation=[], test=["patient002_frame12"])
    with pytest.raises(InputError, match=r"in training and test: patient002_frame01, patient002_frame12"):
        refuse_leaks(data, data.splits)
    # `check` reports the leak that `train` refuses.
    (leak,) = [f for f in check_files(data) if f.check == "name-patient"]
    assert (leak.severity, leak.cases) == ("error", ("patient002_frame01", "patient002_frame12"))
    missing = [f.found for f in check_files(data) if f.cases == ("patient002_frame12",)]
    assert [what.partition(":")[0] for what in missing] == ["imagesTs", "labelsTs"]
    known = {"patient002_frame01": record("1"), "patient002_frame12": record("1")}
    assert leaking_patients(data.splits, known)[0].cases == ("patient002_frame12", "patient002_frame01")


def test_a_patient_in_validation_and_test_is_a_warning(tmp_path: Path) -> None:
    """Weights are chosen on validation, so the test would not be independent of the choice."""
    index = {"labelled": ["a"], "validation": ["b"], "test": ["c"], "patient_of": {"b": "1", "c": "1"}}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    data = DataSet.load(tmp_path)
    refuse_leaks(data, data.splits)
    (leak,) = [f for f in check_files(data) if f.check == "patient-leak"]
    assert (leak.severity, leak.cases) == ("warning", ("b", "c"))
    assert leak.found == "scans of one patient (1) are in validation and test"


def test_names_of_one_patient_in_validation_and_test_are_a_warning() -> None:
    names = {
        "p01_ed": "labelled",
        "p03_ed": "validation",
        "p03_es": "test",
        "x": "test",
        "x_copy": "validation",
    }
    found = [(f.severity, f.check, f.cases) for f in check_names(names, {})]
    assert found == [
        ("warning", "name-copy", ("x", "x_copy")),
        ("warning", "name-patient", ("p03_ed", "p03_es")),
    ]


def test_what_only_looks_like_visits_is_a_warning(tmp_path: Path) -> None:
    names = [f"p{n:02}_v{v}" for n in range(6) for v in (1, 2)]
    index = {"labelled": names[:-1], "validation": names[-1:]}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    assert read_splits(DataConfig(folder=str(tmp_path)))[1].validation == ("p05_v2",)
    (warning,) = [f for f in check_files(DataSet.load(tmp_path)) if f.check == "name-patient"]
    assert warning.severity == "warning"


def test_cases_put_aside_for_validation_tear_no_patient(tmp_path: Path) -> None:
    names = [f"p{n}_{phase}" for n in range(4) for phase in ("ed", "es")]
    index = {"labelled": names[:2], "unlabelled": names[2:]}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="p3_ed, p3_es"):
        read_splits(DataConfig(folder=str(tmp_path), validation_from_unlabelled=1))
    _, splits = read_splits(DataConfig(folder=str(tmp_path), validation_from_unlabelled=2))
    assert splits.validation == ("p3_ed", "p3_es")
