"""Tests of HDF5 files of any name in any folder as scans, and of the lists beside them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.archive import image_case, scan_and_mask, study
from helpers.benchmark_files import hdf5
from typer.testing import CliRunner

from c3s3_seg.cli import app
from c3s3_seg.dataset import DataSet
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare.arrays import NO_IMAGE, SLICES, UNLISTED, find_arrays
from c3s3_seg.dataset.prepare.assemble import PrepareSettings, find
from c3s3_seg.dataset.prepare.discover import Search
from c3s3_seg.dataset.prepare.inventory import Inventory
from c3s3_seg.dataset.prepare.pipeline import prepare
from c3s3_seg.errors import InputError
from c3s3_seg.io import load, load_mask
from c3s3_seg.io.image.hdf5 import array_shapes, load_hdf5


def splits(found: Inventory) -> dict[str, str]:
    return {pair.scan.stem: pair.scan.split for pair in found.pairs}


def acdc(root: Path) -> Path:
    """Write files as in the benchmark (volumes, slices of them and lists) and return the folder."""
    for n, frame in ((1, 1), (1, 12), (2, 1), (2, 8), (3, 1)):
        hdf5(root / "data" / f"patient{n:03}_frame{frame:02}.h5", 10 * n + frame)
        path = root / "data" / "slices" / f"patient{n:03}_frame{frame:02}_slice_1.h5"
        path.parent.mkdir(exist_ok=True)
        with h5py.File(path, "w") as file:
            file["image"], file["label"] = np.zeros((8, 8)), np.zeros((8, 8))
    (root / "train.list").write_text("patient001_frame01\npatient001_frame12\n\npatient002_frame01\r\n")
    (root / "test.list").write_text("data/patient003_frame01.h5\n")
    (root / "train_slices.list").write_text("patient001_frame01_slice_1\n")
    return root


def test_any_name_in_any_folder(tmp_path: Path) -> None:
    hdf5(tmp_path / "source/deep/down/Case 7.hdf5", 0)
    hdf5(tmp_path / "source/x.H5", 1, label=False)
    hdf5(tmp_path / "source/a/vol.h5", 2)
    hdf5(tmp_path / "source/b/vol.h5", 3)
    result = prepare(tmp_path / "source", tmp_path / "data", PrepareSettings(labels=Labels.parse("organ=1")))
    assert result.refused == ()
    assert set(result.patients) == {"Case 7", "x", "a", "b"}
    assert result.masks == 3
    assert "4 HDF5 files without geometry: voxels of 1 x 1 x 1 mm" in result.assumed[0]
    data = DataSet.load(tmp_path / "data")
    scan, mask = scan_and_mask(0)
    assert np.array_equal(load(data.scan("Case 7")).array, scan.array.astype(np.float32) / 7)
    assert np.array_equal(load_mask(data.mask("Case 7")).array, mask > 0)


def test_lists_say_what_each_is_for_and_slices_are_passed_over(tmp_path: Path) -> None:
    found = find(acdc(tmp_path), PrepareSettings())
    assert splits(found) == {
        "patient001_frame01": "", "patient001_frame12": "", "patient002_frame01": "",
        "patient003_frame01": "test",
    }  # fmt: skip
    assert found.passed == {SLICES: 5, UNLISTED: 1}
    assert [patients for _, patients in found.patients_by.values()] == [
        1,
        2,
    ]  # two frames of one patient; each other scan is the only one of its patient


def test_only_files_that_are_taken_have_an_assumed_geometry(tmp_path: Path) -> None:
    """The number used to include files that no list names and that were not read."""
    for n in range(3):
        hdf5(tmp_path / f"case{n}.h5", n)
    (tmp_path / "train.list").write_text("case0\n")
    (found,) = find_arrays(tmp_path, sorted(tmp_path.iterdir()), lambda _: False).assumed
    assert found.startswith("1 HDF5 file without geometry: ")


def test_a_val_list_is_for_validation(tmp_path: Path) -> None:
    (acdc(tmp_path / "source") / "val.list").write_text("patient002_frame08\n")
    settings = PrepareSettings(labels=Labels.parse("heart=1"))
    assert splits(find(tmp_path / "source", settings))["patient002_frame08"] == "validation"
    result = prepare(tmp_path / "source", tmp_path / "data", settings)
    assert result.passed["scans that are left out, as their patients are for validation or test"] == 1
    data = DataSet.load(tmp_path / "data")
    assert data.splits.validation == ("patient002_frame08",)
    assert data.splits.test == ("patient003_frame01",)
    assert data.splits.labelled == ("patient001_frame01", "patient001_frame12")  # not the other frame of 2


def test_a_listed_case_that_is_not_there(tmp_path: Path) -> None:
    with (acdc(tmp_path) / "train.list").open("a") as file:
        file.write("patient004_frame01\npatient005_frame01\n")
    with pytest.raises(InputError, match=r"train\.list: names 2 cases not found here, such as 'patient004"):
        find(tmp_path, PrepareSettings())
    answer = CliRunner().invoke(app, ["prepare", str(tmp_path), "-o", str(tmp_path.with_name("out"))])
    assert isinstance(answer.exception, InputError)


def test_a_case_in_two_lists(tmp_path: Path) -> None:
    with (acdc(tmp_path) / "test.list").open("a") as file:
        file.write("patient001_frame01\n")
    with pytest.raises(InputError, match=r"'patient001_frame01' is in .*\.list and in .*\.list"):
        find(tmp_path, PrepareSettings())


@pytest.mark.parametrize("line", ["../patient001_frame01", "/etc/passwd", "data/../../x.h5", "a\x1b[31m"])
def test_a_list_names_nothing_outside(tmp_path: Path, line: str) -> None:
    (acdc(tmp_path) / "train.list").write_text(line + "\n")
    with pytest.raises(InputError, match="wanted the name of a case in this folder"):
        find(tmp_path, PrepareSettings())


def test_a_listed_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    source = acdc(tmp_path / "source")
    hdf5(tmp_path / "secret.h5", 50)
    (source / "data" / "patient009_frame01.h5").symlink_to(tmp_path / "secret.h5")
    assert len(find(source, PrepareSettings()).pairs) == 4
    with (source / "train.list").open("a") as file:
        file.write("patient009_frame01\n")
    found = find(source, PrepareSettings())
    assert len(found.pairs) == 4
    assert "is not followed" in found.refused[0].reason


def test_what_is_left_out_may_be_listed(tmp_path: Path) -> None:
    found = find(acdc(tmp_path), PrepareSettings(search=Search(leave_out=("*patient001*",))))
    assert set(splits(found)) == {"patient002_frame01", "patient003_frame01"}
    found = find(tmp_path, PrepareSettings(search=Search(leave_out=("*.list",))))
    assert len(found.pairs) == 5


def test_beside_other_files(tmp_path: Path) -> None:
    study(tmp_path / "p1", 0)
    image_case(tmp_path, 1, "images/p2", "masks/p2")
    hdf5(tmp_path / "p3.h5", 2)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.zeros(3)
    found = find(tmp_path, PrepareSettings())
    assert [(p.scan.part.kind, p.mask is not None) for p in found.pairs] == [
        ("image", True), ("dicom", False), ("hdf5", True),
    ]  # fmt: skip
    assert found.passed == {NO_IMAGE: 1}
    assert found.refused == ()


def test_what_cannot_be_used_is_a_row(tmp_path: Path) -> None:
    hdf5(tmp_path / "good.h5", 0)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "good.h5").read_bytes()[:900])
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"], file["label"] = np.random.default_rng(0).random((4, 5, 6)), np.zeros((4, 5, 7))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink("good.h5", "image")
    found = find(tmp_path, PrepareSettings())
    told = {item.place: item.reason for item in found.refused}
    assert "damaged" in told["cut.h5"]
    assert "not an HDF5 file" in told["text.h5"]
    assert "its array 'label' has the shape (4, 5, 7), and 'image' (4, 5, 6)" in told["other.h5"]
    assert "its array 'image' is a link, or lies in another file" in told["link.h5"]
    assert found.passed == {}
    assert set(splits(found)) == {"good", "other"}


def test_an_array_larger_than_any_scan_is_not_read(tmp_path: Path) -> None:
    """The array was never written, so it takes no room in the file."""
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("image", shape=(1 << 12, 1 << 12, 1 << 12), dtype=np.float64, chunks=True)
    assert array_shapes(tmp_path / "bomb.h5", ("image", "label")) == {"image": (4096, 4096, 4096)}
    with pytest.raises(InputError, match="4096 x 4096 x 4096 voxels; up to"):
        load_hdf5(tmp_path / "bomb.h5", "image", (1, 1, 1))


@pytest.mark.parametrize(
    "line",
    ["C:\\data\\patient001_frame01.h5", "file:///patient001_frame01.h5", "\uff0e\uff0e/patient001_frame01"],
)
def test_a_list_names_no_other_place(tmp_path: Path, line: str) -> None:
    (acdc(tmp_path) / "train.list").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match="wanted the name of a case in this folder"):
        find(tmp_path, PrepareSettings())


def test_a_list_that_is_a_link(tmp_path: Path) -> None:
    folder = acdc(tmp_path / "source")
    (tmp_path / "secret").write_text("patient001_frame01\n")
    (folder / "train.list").unlink()
    (folder / "train.list").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"train\.list: is a link to a file outside of the folder"):
        find(folder, PrepareSettings())
    (folder / "train.list").unlink()
    (folder / "first.txt").write_text("patient001_frame01\n")
    (folder / "train.list").symlink_to("first.txt")
    assert set(splits(find(folder, PrepareSettings()))) == {"patient001_frame01", "patient003_frame01"}
