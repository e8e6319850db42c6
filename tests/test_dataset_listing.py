"""What the index and the names of files tell: leaks, strays, counts."""

from pathlib import Path

import pytest

from c3s3_seg.dataset import DataSet, Record, Splits
from c3s3_seg.dataset.listing import check_listing, check_names, kinds, leaking_patients, refuse_leaks
from c3s3_seg.errors import InputError


def record(patient: str) -> Record:
    return Record(patient, {}, {}, {})


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
    known = {name: record(name) for name in names}  # the records say that they are different people
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
    from c3s3_seg.training.config import DataConfig
    from c3s3_seg.training.data import read_splits

    same = {"a": record("1"), "b": record("1")}
    DataSet(tmp_path, labels={"x": 1}, splits=Splits(("a",), ("b",), ()), records=same).save()
    assert read_splits(DataConfig(folder=str(tmp_path)))[1].labelled == ("a",)
    with pytest.raises(InputError, match="one patient"):
        read_splits(DataConfig(folder=str(tmp_path), validation_from_unlabelled=1))


def test_kinds() -> None:
    assert kinds(Splits(("a",), ("b",), ("c",))) == {"a": "labelled", "b": "unlabelled", "c": "validation"}


def test_counts_and_files(tmp_path: Path) -> None:
    for folder, names in {"imagesTr": "ab", "labelsTr": "ax"}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.nii.gz").touch()
    (tmp_path / "imagesTr" / "notes.txt").touch()
    (tmp_path / "labelsTr" / "a.nii.gz").rename(tmp_path / "labelsTr" / "a.seg.nrrd")
    data = DataSet(tmp_path, splits=Splits(("a", "b"), (), ("c",)))
    found = {(f.severity, f.check, f.cases) for f in check_listing(data)}
    assert found == {
        ("error", "no-file", ("b",)),  # its mask
        ("error", "no-file", ("c",)),
        ("warning", "few-cases", ()),
        ("warning", "unlisted", ("x",)),
        ("info", "no-labels", ()),
    }
    none = DataSet(tmp_path, labels={"a": 1}, splits=Splits((), ("a",), ()))
    severities = [f.severity for f in check_listing(none) if f.check == "few-cases"]
    assert severities == ["error", "info"]
    assert [f.found for f in check_listing(none) if f.check == "masks-unused"] == [
        "1 unlabelled cases have a mask"
    ]
