"""Cross-validation by patient."""

import json
from pathlib import Path

import pytest

from c3s3_seg.dataset import CaseRecord, DataSet, Splits
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.training.config import load_config
from c3s3_seg.training.folds import divide, read_splits, take_fold
from c3s3_seg.training.settings import DataConfig


def record(patient: str) -> CaseRecord:
    return CaseRecord(patient, {}, {}, {})


def data_set(**patients: str) -> DataSet:
    return DataSet(Path("nowhere"), records={case: record(patient) for case, patient in patients.items()})


SPLITS = Splits(tuple("abcdefgh"), ("u", "v", "w"), ("x", "y"))


def test_every_labelled_case_validates_once_and_is_never_on_both_sides() -> None:
    data = DataSet(Path("nowhere"))
    folds = [take_fold(data, SPLITS, f"{n}/3", seed=1) for n in (1, 2, 3)]
    assert sorted(case for fold in folds for case in fold.validation) == list("abcdefgh")
    assert sorted(len(fold.validation) for fold in folds) == [2, 3, 3]
    for fold in folds:
        assert set(fold.labelled) | set(fold.validation) == set("abcdefgh")
        assert not set(fold.labelled) & set(fold.validation)
        assert fold.unlabelled == ("u", "v", "w")
        assert not {"x", "y"} & set(fold.cases)  # no fold sees the index's own validation cases
    assert take_fold(data, SPLITS, "1/3", seed=1) == folds[0]
    assert any(take_fold(data, SPLITS, f"{n}/3", seed=2) != folds[n - 1] for n in (1, 2, 3))


def test_scans_of_one_patient_stay_together() -> None:
    data = data_set(a="1", b="1", c="1", d="2", e="2", u="1", v="3")
    folds = [take_fold(data, SPLITS, f"{n}/4", seed=3) for n in (1, 2, 3, 4)]
    (first,) = [fold for fold in folds if "a" in fold.validation]
    assert {"b", "c"} < set(first.validation)
    assert first.unlabelled == ("v", "w")  # u has the same patient
    (second,) = [fold for fold in folds if "d" in fold.validation]
    assert "e" in second.validation
    assert second.unlabelled == ("u", "v", "w")


def test_uncorrected_predictions_are_trained_on_and_validate_nothing(tmp_path: Path) -> None:
    """They are the answers of an earlier model: agreement with them is no score."""
    cases = [f"c{n:02}" for n in range(12)]
    index = {
        "labelled": cases,
        "patient_of": {**{case: case for case in cases}, "c11": "c00"},
        "prepared": {"uncorrected": cases[4:]},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    for n in (1, 2, 3, 4):
        _, fold = read_splits(DataConfig(str(tmp_path), fold=f"{n}/4"))
        (held_out,) = fold.validation
        assert held_out in cases[:4]
        lost = {held_out, "c11"} if held_out == "c00" else {held_out}
        assert set(fold.labelled) == set(cases) - lost
    with pytest.raises(InputError, match="5 folds of 4 patients"):
        read_splits(DataConfig(str(tmp_path), fold="1/5"))


def test_frames_of_one_patient_stay_together_by_their_names() -> None:
    cases = tuple(f"patient{n:03}_frame{f:02}" for n in range(6) for f in (1, 12))
    splits = Splits(cases[:8], cases[8:])
    torn = Splits(("patient009_ed", *cases[:7]), (cases[7], *cases[8:]))
    for given in (splits, torn):
        for n in (1, 2, 3):
            fold = take_fold(DataSet(Path("nowhere")), given, f"{n}/3", seed=5)
            judged = {case.split("_")[0] for case in fold.validation}
            assert judged
            assert not judged & {case.split("_")[0] for case in fold.labelled + fold.unlabelled}


def test_a_patient_whom_the_index_has_on_both_sides_is_refused() -> None:
    """No fold sees the index's own validation cases, so no fold may see their patients either."""
    splits = Splits(("p1_ed", "p2_ed", "p3_ed"), (), ("p1_es",))
    with pytest.raises(InputError, match="p1_ed, p1_es"):
        take_fold(DataSet(Path("nowhere")), splits, "1/3", seed=0)


def test_sizes_are_even_where_patients_allow() -> None:
    data = data_set(**dict.fromkeys("abc", "1"))
    assert sorted(len(part) for part in divide(data, tuple("abcdefghi"), 3, seed=0)) == [3, 3, 3]


def test_fewer_patients_than_folds_and_what_is_no_fold(toy_config: Path) -> None:
    data = data_set(a="1", b="1", c="2")
    with pytest.raises(InputError, match="3 folds of 2 patients"):
        divide(data, tuple("abc"), 3, seed=0)
    for text in ("0/2", "3/2", "a/b", "1/2/3"):
        with pytest.raises(ConfigError, match=r"found data\.fold .* wanted I/N"):
            load_config(toy_config, [f"data.fold={text}"])
    with pytest.raises(ConfigError, match="wanted 2 folds or more"):
        load_config(toy_config, ["data.fold=1/1"])


def test_labels_are_counted_after_the_fold(toy_config: Path) -> None:
    _, splits = read_splits(load_config(toy_config, ["data.fold=2/2"]).data)
    assert len(splits.labelled) == len(splits.validation) == 1
    with pytest.raises(InputError, match=r"data\.labelled = 2, but the data have 1 labelled case"):
        read_splits(load_config(toy_config, ["data.fold=2/2", "data.labelled=2"]).data)


def test_a_fold_looks_for_a_patient_on_both_sides(tmp_path: Path) -> None:
    index = {"labelled": ["a", "b", "c"], "unlabelled": ["u"], "validation": ["v"]}
    for patients, refused in (({"a": "1", "v": "1"}, True), ({"a": "1", "u": "1"}, False)):
        (tmp_path / "dataset.json").write_text(json.dumps({**index, "patient_of": patients}))
        for fold in (None, "1/3"):
            config = DataConfig(str(tmp_path), fold=fold)
            if refused:
                with pytest.raises(
                    InputError, match=r"scans of one patient \(1\) are in training and validation"
                ):
                    read_splits(config)
            else:
                assert len(read_splits(config)[1].labelled) == (3 if fold is None else 2)
