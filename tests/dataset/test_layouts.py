"""Tests of known folder layouts: the Decathlon's, nnU-Net's, this package's and the benchmarks' HDF5."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.archive import image_case, scan_and_mask
from helpers.benchmark_files import hdf5

from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.layouts import read_layout
from c3s3_seg.dataset.prepare.discover import Search
from c3s3_seg.dataset.prepare.inventory import Inventory
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.io import load_mask, save
from c3s3_seg.system.reading import sha256


def index(folder: Path, **content: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


def read(folder: Path, **search: Any) -> Inventory:
    found = read_layout(folder, Search(**search))
    assert found is not None
    return found


def cases(found: Inventory) -> dict[str, tuple[int, ...] | None]:
    return {p.scan.stem: p.mask.values if p.mask else None for p in found.pairs}


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    for n in range(3):
        image_case(tmp_path, n, f"imagesTr/liver_{n}", f"labelsTr/liver_{n}" if n else None)
    image_case(tmp_path, 7, "imagesTs/liver_7")
    pairs = [
        {"image": f"./imagesTr/liver_{n}.nii.gz", "label": f"./labelsTr/liver_{n}.nii.gz"} for n in (1, 2)
    ]
    index(
        tmp_path,
        modality={"0": "MRI"},
        labels={"0": "background", "1": "liver", "2": "cancer"},
        training=pairs,
    )
    return tmp_path


def test_the_decathlon(decathlon: Path) -> None:
    found = read(decathlon)
    assert cases(found) == {"liver_1": (1, 2), "liver_2": (1, 2), "liver_0": None}
    assert found.labels == {"liver": 1, "cancer": 2}
    assert {p.scan.modality for p in found.pairs} == {"MR"}
    assert found.passed == {"test images of the layout": 1}
    assert list(cases(read(decathlon, leave_out=("*_2.*",)))) == ["liver_1", "liver_0"]


@pytest.mark.parametrize("name", ["./imagesTr/none.nii.gz", "../outside.nii.gz", "/etc/hostname"])
def test_what_an_index_may_not_name(decathlon: Path, name: str) -> None:
    image_case(decathlon.parent, 0, "outside")
    index(decathlon, training=[{"image": name}])
    with pytest.raises(InputError, match="no image file below its folder"):
        read(decathlon)


def nnunet(folder: Path, **more: Any) -> Path:
    image_case(folder, 0, "imagesTr/a_0000", "labelsTr/a")
    image_case(folder, 1, "imagesTr/b_0000")
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "lump": 2}, **more}
    index(folder, file_ending=".nii.gz", numTraining=2, **content)
    return folder


def test_nnunet(tmp_path: Path) -> None:
    found = read(nnunet(tmp_path))
    assert cases(found) == {"a": (1, 2), "b": None}
    assert found.labels == {"organ": 1, "lump": 2}
    assert found.pairs[0].scan.modality == "CT"


def test_nnunet_with_segmentations_of_3d_slicer(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    save(load_mask(folder / "labelsTr" / "a.nii.gz"), folder / "labelsTr" / "a.seg.nrrd")
    (folder / "labelsTr" / "a.nii.gz").unlink()
    assert cases(read(folder)) == {"a": (1, 2), "b": None}


def test_what_nnunet_can_and_this_cannot(tmp_path: Path) -> None:
    nnunet(tmp_path, channel_names={"0": "T1", "1": "FLAIR"})
    with pytest.raises(InputError, match=r"2 channels \(T1, FLAIR\); one is read"):
        read(tmp_path)
    nnunet(tmp_path, labels={"background": 0, "organ": 1, "ignore": 2})
    with pytest.raises(InputError, match="'ignore' marks voxels"):
        read(tmp_path)


def test_our_own_keeps_its_splits(tmp_path: Path) -> None:
    for n, name in enumerate("abc"):
        image_case(tmp_path, n, f"imagesTr/{name}", f"labelsTr/{name}" if name != "b" else None)
    index(tmp_path, labelled=["a"], unlabelled=["b"], validation=["c"], labels={"liver": 1}, modality="MR")
    found = read(tmp_path)
    assert {p.scan.stem: p.scan.split for p in found.pairs} == {
        "a": "labelled", "b": "unlabelled", "c": "validation",
    }  # fmt: skip
    assert cases(found) == {"a": (1, 2), "b": None, "c": (1, 2)}


@pytest.mark.parametrize(("written", "expected"), [("NM", "NM"), ("OT", "OT"), ("mri", "MR"), ("?", "")])
def test_our_own_keeps_its_modality(tmp_path: Path, written: str, expected: str) -> None:
    """Codes that `prepare` had written itself, from DICOM or --modality, were lost."""
    image_case(tmp_path, 0, "imagesTr/a", "labelsTr/a")
    index(tmp_path, labelled=["a"], labels={"liver": 1, "lump": 2}, modality=written)
    assert [pair.scan.modality for pair in read(tmp_path).pairs] == [expected]


@pytest.mark.parametrize(("written", "expected"), [("US", "US"), ("FLAIR", ""), ("noNorm", "")])
def test_a_channel_of_another_layout_is_a_modality_if_dicom_has_it(
    decathlon: Path, written: str, expected: str
) -> None:
    """Their channels may have any name, as nnU-Net's have."""
    content = json.loads((decathlon / "dataset.json").read_text())
    index(decathlon, **{**content, "modality": {"0": written}})
    assert {pair.scan.modality for pair in read(decathlon).pairs} == {expected}


def origins(found: Inventory) -> dict[str, tuple[str, str]]:
    return {p.scan.stem: (p.origin, p.note) for p in found.pairs}


def test_predictions_in_a_layout_are_known(decathlon: Path) -> None:
    """Predictions are known, as in an unordered folder, by the JSON that `predict` writes beside a mask."""
    masks = decathlon / "labelsTr"
    for name, digest in (("liver_1", sha256(masks / "liver_1.nii.gz")), ("liver_2", "0" * 64)):
        content = {"c3s3_seg": "1", "files_sha256": {f"{name}.nii.gz": digest}}
        (masks / f"{name}.json").write_text(json.dumps(content))
    assert origins(read(decathlon)) == {
        "liver_1": ("prediction", "its mask is a prediction that was not corrected"),
        "liver_2": ("correction", "its mask is the correction of a prediction"),
        "liver_0": ("", ""),
    }
    found = read(decathlon, predictions="unlabelled")
    assert cases(found) == {"liver_1": None, "liver_2": (1, 2), "liver_0": None}
    assert found.passed["predictions that were not corrected"] == 1


def test_predictions_in_our_own_are_known_by_its_index(tmp_path: Path) -> None:
    for n, name in enumerate("abcd"):
        image_case(tmp_path, n, f"imagesTr/{name}", f"labelsTr/{name}")
    records = {
        name: {"patient": name, "source": {}, "source_sha256": {}, "sha256": {"label": digest}}
        for name, digest in (("a", sha256(tmp_path / "labelsTr" / "a.nii.gz")), ("b", "0" * 64), ("c", ""))
    }
    prepared = {"uncorrected": ["a", "b"], "corrected": ["c"]}
    index(tmp_path, labelled=list("abcd"), labels={"liver": 1}, cases=records, prepared=prepared)
    kinds = {case: origin for case, (origin, _) in origins(read(tmp_path)).items()}
    assert kinds == {"a": "prediction", "b": "correction", "c": "correction", "d": ""}
    for strange in (7, {"uncorrected": 7, "corrected": "abc"}):
        index(tmp_path, labelled=list("abcd"), labels={"liver": 1}, cases=records, prepared=strange)
        assert set(origins(read(tmp_path)).values()) == {("", "")}


def test_a_mask_that_is_none(decathlon: Path) -> None:
    from c3s3_seg.io import save

    scan, _ = scan_and_mask(1)
    save(scan, decathlon / "labelsTr" / "liver_1.nii.gz")
    found = read(decathlon)
    assert cases(found)["liver_1"] is None
    assert "values that no mask has" in found.refused[0].reason


def test_the_left_atrium_benchmark(tmp_path: Path) -> None:
    for n in range(4):
        hdf5(tmp_path / "2018LA_Seg_Training Set" / f"CASE{n}" / "mri_norm2.h5", n)
    (tmp_path / "train.list").write_text("CASE0\nCASE1\nCASE2\n")
    (tmp_path / "test.list").write_text("CASE3\n")
    found = read(tmp_path)
    assert cases(found) == {f"CASE{n}": (1,) for n in range(4)}
    assert [p.scan.split for p in found.pairs] == ["", "", "", "test"]
    scan = found.pairs[0].scan.part.scan(tmp_path, frozenset())
    assert scan.geometry.spacing_mm.tolist() == [0.625] * 3
    assert "holds no geometry" in scan.source.notes[0]
    assert np.array_equal(scan.array, scan_and_mask(0)[0].array.astype(np.float32) / 7)


def test_the_pancreas_benchmark(tmp_path: Path) -> None:
    for n in range(2):
        hdf5(tmp_path / "Pancreas_h5" / f"image000{n}_norm.h5", n)
    hdf5(tmp_path / "Pancreas_h5" / "image0002_norm.h5", 2, label=False)
    (tmp_path / "test.list").write_text("image0001_norm.h5\n")
    found = read(tmp_path)
    assert cases(found) == {"image0000": (1,), "image0001": (1,), "image0002": None}
    assert found.pairs[1].scan.split == "test"
    assert found.pairs[0].scan.part.spacing_mm == (1.0, 1.0, 1.0)
    assert found.assumed == ()  # it is known: the benchmark was resampled to 1 mm
    assert "no array 'label'" in found.refused[0].reason
    (tmp_path / "test.list").write_text("image0009\n")
    with pytest.raises(InputError, match="names 1 case not found here, such as 'image0009'"):
        read(tmp_path)


def test_a_folder_in_no_order(tmp_path: Path) -> None:
    assert read_layout(tmp_path, Search()) is None
    index(tmp_path, something="else")
    assert read_layout(tmp_path, Search()) is None
    for content in ("{", "[" * 100_000):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_layout(tmp_path, Search())


@pytest.mark.data
def test_the_shared_data_sets(shared_data: Path) -> None:
    found = read(shared_data / "hippocampus")
    assert found.labels == {"anterior": 1, "posterior": 2}
    assert found.refused == ()
    assert sum(p.scan.split == "labelled" for p in found.pairs) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": 7}, "training = 7: wanted a list"),
        ({"training": {"image": "x"}}, "training = {'image': 'x'}: wanted a list"),
        ({"training": [7]}, r"training\.0\.image = 7: wanted the path"),
        ({"training": [{"image": 7}]}, r"training\.0\.image = 7: wanted the path"),
        ({"training": [{"label": "x"}]}, r"training\.0\.image = None: wanted the path"),
        ({"training": [{"image": ["a", "b"]}]}, r"training\.0\.image = \['a', 'b'\]: wanted the path"),
        ({"training": [{"image": "x" * 5000}]}, r"names 'xxx.*\.\.\., which is no image file"),
        ({"training": [{"image": "a\0b.nii"}]}, "which is no image file"),
        ({"training": [{"image": "imagesTr/liver_1.nii.gz", "label": 7}]}, r"training\.0\.label = 7"),
        ({"modality": 7}, "modality = 7: wanted"),
        ({"modality": {"0": 7}}, r"modality\.0 = 7: wanted"),
        ({"labels": 7}, "labels = 7: wanted"),
        ({"labels": {"0": "background", "1": 7}}, r"labels\.1 = 7: wanted"),
        ({"labels": {"liver": "one"}}, r"labels\.liver = 'one'"),
        ({"labels": {"liver": True}}, r"labels\.liver = 'true'"),
        ({"labels": {"liver": -1}}, r"labels\.liver = -1"),
        ({"labels": {"liver": 70000}}, r"labels\.liver = 70000"),
        ({"labels": {"liver": 1, "lung": 1}}, "two labels have the value 1"),
        ({"labels": {"1": "liver", "2": "liver"}}, "two labels have the name 'liver'"),
        ({"labels": {"\u0661": "liver"}}, "labels"),
    ],
)
def test_wrong_types_in_the_decathlons_index(decathlon: Path, change: dict[str, Any], message: str) -> None:
    right = json.loads((decathlon / "dataset.json").read_text())
    index(decathlon, **right)
    read(decathlon)
    index(decathlon, **{**right, **change})
    with pytest.raises((ConfigError, InputError), match=message):
        read(decathlon)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": 7}, "channel_names = 7: wanted"),
        ({"channel_names": ["CT"]}, r"channel_names = \['CT'\]: wanted"),
        ({"channel_names": {"0": 7}}, r"channel_names\.0 = 7: wanted"),
        ({"channel_names": {}}, "has 0 channels"),
        ({"channel_names": None}, "channel_names = None: wanted"),
        ({"labels": ["background", "organ"]}, "labels = "),
        ({"dataset": 7}, "dataset = 7: wanted"),
        ({"dataset": {"../../x": {}}}, "plain file name"),
        ({"dataset": {"a": {"images": 7}}}, r"dataset\.a\.images = 7: wanted a list of one path"),
        ({"dataset": {"a": {"images": ["../../x.nii.gz"]}}}, "no image file below its folder"),
    ],
)
def test_wrong_types_in_an_index_of_nnunet(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    nnunet(tmp_path, **change)
    with pytest.raises((ConfigError, InputError), match=message):
        read(tmp_path)


def test_an_index_that_is_no_table_or_too_deep(tmp_path: Path) -> None:
    for text in ("7", "[]", "null"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(InputError, match="holds no table of keys"):
            read_layout(tmp_path, Search())
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        read_layout(tmp_path, Search())


def test_regions_of_nnunet(tmp_path: Path) -> None:
    regions = {"background": 0, "whole": [1, 2], "lump": [2]}
    nnunet(tmp_path, labels=regions, regions_class_order=[1, 2])
    with pytest.raises(InputError, match=r"regions.*\('whole' = \[1, 2\]\).*not supported.*--labels"):
        read(tmp_path)
    named = read(tmp_path, labels=Labels.parse("organ=1,lump=2"))  # each value of the masks is named
    assert cases(named) == {"a": (1, 2), "b": None}


def test_nnunet_with_a_list_of_its_files(tmp_path: Path) -> None:
    nnunet(tmp_path)
    listed = {"x": {"images": ["imagesTr/../imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    nnunet(tmp_path, dataset=listed)
    assert cases(read(tmp_path)) == {"x": (1, 2)}


def outside(folder: Path) -> Path:
    target = folder.parent / f"{folder.name}-outside"
    image_case(target, 3, "secret")
    return target / "secret.nii.gz"


def test_links_out_of_a_layout_are_refused_and_links_inside_are_followed(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "n")
    (folder / "imagesTr" / "c_0000.nii.gz").symlink_to("b_0000.nii.gz")
    assert set(cases(read(folder))) == {"a", "b", "c"}
    (folder / "imagesTr" / "d_0000.nii.gz").symlink_to(outside(folder))
    with pytest.raises(InputError, match=r"'imagesTr/d_0000\.nii\.gz' is a link to a file outside"):
        read(folder)
    index(folder, labelled=[], unlabelled=["d_0000"])
    with pytest.raises(InputError, match="is a link to a file outside"):
        read(folder)
    index(folder, training=["imagesTr/d_0000.nii.gz"])
    with pytest.raises(InputError, match="no image file below its folder"):
        read(folder)


def test_a_folder_of_a_layout_that_leads_out(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "imagesTr").symlink_to(outside(folder).parent)
    index(folder, labelled=[], unlabelled=["secret"])
    with pytest.raises(InputError, match="is a link to a file outside"):
        read(folder)


@pytest.mark.parametrize(
    "name", ["../../victim/x", "/etc/x", "..", ".", "", "a/b", "a\\b", "a\x1b]0;x\x07", "x" * 300]
)
@pytest.mark.parametrize("key", ["labelled", "unlabelled", "validation", "test"])
def test_names_of_our_own_index_are_plain(tmp_path: Path, key: str, name: str) -> None:
    index(tmp_path, **{"labelled": [], key: [name]})
    with pytest.raises(ConfigError, match="file name"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("labelsTr/a.seg.nrrd", r"labelsTr: two files are of one case: 'a\.nii\.gz' and 'a\.seg\.nrrd'"),
        ("labelsTr/a.nrrd", r"two files are of one case: 'a\.nii\.gz' and 'a\.nrrd'"),
        ("imagesTr/a.nii.gz", r"imagesTr: two files are of one case: 'a\.nii\.gz' and 'a_0000\.nii\.gz'"),
        ("imagesTr/a_0001.nii.gz", r"'a_0001\.nii\.gz' is another channel of 'a_0000\.nii\.gz'"),
    ],
)
def test_two_files_of_one_case_of_nnunet(tmp_path: Path, extra: str, message: str) -> None:
    """Without the refusal, the last file would be taken silently."""
    folder = nnunet(tmp_path)
    save(load_mask(folder / "labelsTr" / "a.nii.gz"), folder / extra)
    with pytest.raises(InputError, match=message):
        read(folder)


def test_a_number_at_the_end_is_no_channel_by_itself(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    image_case(folder, 2, "imagesTr/scan_0001")
    assert cases(read(folder)) == {"a": (1, 2), "b": None, "scan_0001": None}


def test_masks_without_a_scan_are_counted(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    (folder / "labelsTr" / "a.nii.gz").rename(folder / "labelsTr" / "A.nii.gz")
    found = read(folder)
    assert cases(found) == {"a": None, "b": None}
    assert found.passed == {"masks whose scan is not there": 1}


def test_a_file_that_is_listed_twice(decathlon: Path, tmp_path: Path) -> None:
    image, mask = "imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz"
    for other in ({"image": image}, {"image": "imagesTr/liver_2.nii.gz", "label": f"./{mask}"}):
        index(decathlon, training=[{"image": image, "label": mask}, other])
        with pytest.raises(InputError, match=r"dataset\.json: names '.*liver_1\.nii\.gz' twice"):
            read(decathlon)
    listed = {case: {"images": ["imagesTr/a_0000.nii.gz"]} for case in ("x", "y")}
    with pytest.raises(InputError, match=r"names 'imagesTr/a_0000\.nii\.gz' twice"):
        read(nnunet(tmp_path / "other", dataset=listed))


@pytest.mark.parametrize("name", ["../../x", "", "a\nb"])
def test_a_label_is_called_as_a_file_can_be(decathlon: Path, name: str) -> None:
    """Otherwise `train` would refuse the label, after `prepare` and `plan` have done their work."""
    pairs = [{"image": "imagesTr/liver_1.nii.gz", "label": "labelsTr/liver_1.nii.gz"}]
    labels = {"0": "anything/else", "1": "liver", "2": name}
    index(decathlon, labels=labels, training=pairs)
    with pytest.raises(ConfigError, match="wanted a plain file name"):
        read(decathlon)
    index(decathlon, labels={**labels, "2": "cancer"}, training=pairs)
    assert read(decathlon).labels == {"liver": 1, "cancer": 2}
