"""Folders in order: the Decathlon's, nnU-Net's, our own, and the benchmarks' HDF5 files."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from archive import image_case, scan_and_mask

from c3s3_seg.dataset.discover import Search
from c3s3_seg.dataset.items import Inventory
from c3s3_seg.dataset.layouts import read_layout
from c3s3_seg.errors import InputError
from c3s3_seg.io import load_mask, save


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


def test_a_mask_that_is_none(decathlon: Path) -> None:
    from c3s3_seg.io import save

    scan, _ = scan_and_mask(1)
    save(scan, decathlon / "labelsTr" / "liver_1.nii.gz")
    found = read(decathlon)
    assert cases(found)["liver_1"] is None
    assert "values that no mask has" in found.refused[0].reason


def hdf5(path: Path, seed: int, *, label: bool = True) -> None:
    scan, mask = scan_and_mask(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=scan.array.astype(np.float32) / 7, compression="gzip")
        if label:
            file.create_dataset("label", data=(mask > 0).astype(np.uint8), compression="gzip")


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
    assert "no array 'label'" in found.refused[0].reason
    (tmp_path / "test.list").write_text("image0009\n")
    with pytest.raises(InputError, match="names 1 cases that are not there, 'image0009'"):
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
