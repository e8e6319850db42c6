"""Tests of the index of a data set: reading, writing and refusals."""

import json
import os
from pathlib import Path

import pytest

from c3s3_seg.dataset import INDEX, CaseRecord, DataSet, Splits
from c3s3_seg.dataset.prepare.naming import read_earlier
from c3s3_seg.errors import ConfigError, InputError


def write(folder: Path, content: object) -> Path:
    (folder / INDEX).write_text(json.dumps(content))
    return folder


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    record = CaseRecord("p-1", {"image": "ab"}, {"image": "x/1"}, {"image": "cd"}, ("cropped",))
    splits = Splits(("a",), ("b", "c"), ("d",))
    data = DataSet(tmp_path, "livers", "CT", {"liver": 1, "tumour": 3}, splits, {"a": record})
    data.save(source="nobody's")
    assert DataSet.load(tmp_path) == data
    assert json.loads((tmp_path / INDEX).read_text())["source"] == "nobody's"


def test_labels_of_the_decathlon_and_of_others(tmp_path: Path) -> None:
    decathlon = {"labels": {"0": "background", "1": "anterior", "2": "posterior"}}
    assert DataSet.load(write(tmp_path, decathlon)).labels == {"anterior": 1, "posterior": 2}
    assert DataSet.load(write(tmp_path, {"labels": {"background": 0, "liver": 1}})).labels == {"liver": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labelled": ["a"], "validation": ["a"]}, "the case 'a' twice"),
        ({"labelled": "a"}, "labelled = 'a'"),
        ({"labels": {"liver": "one"}}, "liver = 'one'"),
        ({"cases": {"a": {"patient": "p"}}}, r"'a\.sha256' is missing"),
        (["a"], "no table of keys"),
        ({"labelled": ["../../victim/x"]}, "labelled.0 = '../../victim/x': wanted a plain file name"),
        (
            {"cases": {"../x": {"patient": "p", "sha256": {}, "source": {}, "source_sha256": {}}}},
            "plain file name",
        ),
        ({"labelled": 7}, "labelled = 7"),
        ({"unlabelled": [7]}, r"unlabelled\.0 = 7"),
        ({"test": {"a": 1}}, "test = "),
        ({"name": 7}, "name = 7"),
        ({"name": None}, "name = None"),
        ({"modality": 7}, "modality = 7"),
        ({"labels": [1]}, "labels = "),
        ({"labels": {"a": 1, "b": 1}}, "two labels have the value 1"),
        ({"labels": {"0": "background", "65536": "a"}}, "labels.65536 = 65536: wanted less than or equal to"),
        ({"labels": {"Liver": 1, "liver": 2}}, "two labels have the name 'liver'"),
        ({"labels": {"a": [1, 2]}}, "regions of several values"),
        ({"cases": 7}, "cases = 7"),
        ({"patient_of": ["a"]}, "patient_of = "),
        ({"patient_of": {"a": 7}}, r"patient_of\.a = 7"),
        ({"empty_masks": "maybe"}, "empty_masks = 'maybe'"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        DataSet.load(write(tmp_path, content))


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="c3s3-seg prepare makes one"):
        DataSet.load(tmp_path)


def test_files_are_found_with_any_suffix_and_once(tmp_path: Path) -> None:
    data = DataSet(tmp_path)
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / kind).mkdir()
    (tmp_path / "imagesTr" / "a.b.nrrd").touch()
    assert data.scan("a.b").name == "a.b.nrrd"
    assert not data.has_mask("a.b")
    with pytest.raises(InputError, match="found 0 image files named 'a'"):
        data.scan("a")
    (tmp_path / "imagesTr" / "a.b.nii.gz").touch()
    with pytest.raises(InputError, match="found 2 image files"):
        data.scan("a.b")


def test_a_segmentation_of_3d_slicer_is_the_mask_of_its_case(tmp_path: Path) -> None:
    data = DataSet(tmp_path)
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "a.seg.nrrd").touch()
    assert data.mask("a").name == "a.seg.nrrd"
    (tmp_path / "labelsTr" / "a.nii.gz").touch()
    with pytest.raises(InputError, match="found 2 image files"):
        data.mask("a")


def test_validation_cases_are_put_aside_once() -> None:
    splits = Splits(("a",), ("b", "c", "d"))
    aside = splits.hold_out(2)
    assert (aside.unlabelled, aside.validation) == (("b",), ("c", "d"))
    assert aside.hold_out(1) == aside
    assert splits.hold_out(0) == splits
    for count in (len(splits.unlabelled) + 1, -1):
        with pytest.raises(ConfigError, match=f"validation_from_unlabelled = {count}, but"):
            splits.hold_out(count)


def test_masks_can_be_spared() -> None:
    fewer = Splits(("a", "b", "c"), ("d",), ("e",)).label_only(1)
    assert fewer == Splits(("a",), ("d", "b", "c"), ("e",))


def test_test_cases_lie_apart_and_are_not_trained_on(tmp_path: Path) -> None:
    data = DataSet(tmp_path, splits=Splits(("a",), test=("t",)))
    data.save()
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs" / "t.nii.gz").touch()
    data = DataSet.load(tmp_path)
    assert data.splits.cases == ("a",)
    assert data.scan("t").parent.name == "imagesTs"
    assert not data.has_mask("t")
    with pytest.raises(InputError, match="'a' twice"):
        DataSet.load(write(tmp_path, {"labelled": ["a"], "test": ["a"]}))


def test_what_the_index_says_by_hand_is_kept(tmp_path: Path) -> None:
    data = DataSet(tmp_path, labels={"x": 1}, patient_of={"a": "1"}, empty_masks=True)
    data.save()
    assert DataSet.load(tmp_path) == data


def test_an_index_that_is_nested_too_deep_or_is_no_text(tmp_path: Path) -> None:
    for content, message in (
        (b'{"labelled": ' + b"[" * 100_000, "nested too deep"),
        (b"\xff\xfe{", "cannot be read"),
    ):
        (tmp_path / INDEX).write_bytes(content)
        with pytest.raises(InputError, match=message):
            DataSet.load(tmp_path)


def test_a_name_that_leaves_no_room_for_a_suffix(tmp_path: Path) -> None:
    data = DataSet.load(write(tmp_path, {"labelled": ["x" * 255]}))
    with pytest.raises(InputError, match="found 0 image files"):
        data.scan("x" * 255)


def test_an_index_that_is_none_is_one_line(tmp_path: Path) -> None:
    for content in (b"[" * 100_000, b'{"a":' * 100_000, b"{", b"\xff\xfe", b""):
        (tmp_path / INDEX).write_bytes(content)
        with pytest.raises(InputError, match=r"dataset\.json: cannot be read.*Give a data set"):
            DataSet.load(tmp_path)
        with pytest.raises(InputError, match=r"dataset\.json: cannot be read"):
            read_earlier(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(InputError, match="which `prepare` did not make"):
        read_earlier(tmp_path)
    (tmp_path / INDEX).unlink()
    os.mkfifo(tmp_path / INDEX)
    with pytest.raises(InputError, match="wanted a regular file"):
        DataSet.load(tmp_path)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("ct", "CT"),
        ({"0": "MRI"}, "MR"),
        (" PET ", "PT"),
        ("OT", "OT"),
        ("something of ours", "something of ours"),
    ],
)
def test_a_modality_is_read_as_dicom_spells_it(tmp_path: Path, written: object, expected: str) -> None:
    """A plan took `ct` for a modality without Hounsfield units, and wrote `MRI` into the bundle."""
    assert DataSet.load(write(tmp_path, {"modality": written})).modality == expected
