"""Tests of reading HDF5: arrays come unchanged, with the stated spacing, and no link is followed."""

import io
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from c3s3_seg.errors import C3S3Error, InputError, MemoryLimitError
from c3s3_seg.io import limits
from c3s3_seg.io.content import Opened
from c3s3_seg.io.image import hdf5
from c3s3_seg.io.image.hdf5 import array_shapes, load_hdf5

SPACING = (0.625, 0.625, 0.625)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        file["flat"] = np.zeros((4, 4))
        file["words"] = "text"
        file["nan"] = np.full((2, 2, 2), np.nan)
        file["elsewhere"] = h5py.ExternalLink("other.h5", "image")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros((2, 2, 2))
    return tmp_path / "a.h5"


def test_the_array_and_what_is_not_known_of_it(path: Path) -> None:
    volume = load_hdf5(path, "image", SPACING)
    assert np.array_equal(volume.array, np.arange(24).reshape(2, 3, 4))
    assert volume.array.dtype == np.float32
    assert volume.geometry.spacing_mm.tolist() == list(SPACING)
    assert "no geometry: a spacing of 0.625 x 0.625 x 0.625 mm was taken" in volume.source.notes[0]
    assert array_shapes(path, ("image", "label")) == {"image": (2, 3, 4)}
    with pytest.raises(InputError, match=r"a\.h5: its array 'elsewhere' is a link, or lies in another file"):
        array_shapes(path, ("image", "elsewhere"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("label", "no array 'label'"),
        ("elsewhere", "its array 'elsewhere' is a link"),
        ("flat", "wanted numbers in 3D"),
        ("words", "wanted numbers in 3D"),
        ("nan", "NaN"),
    ],
)
def test_refusals(path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_hdf5(path, name, SPACING)


def test_a_file_that_is_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match="not an HDF5 file, or a damaged one"):
        load_hdf5(path, "image", SPACING)
    with pytest.raises(InputError, match="not an HDF5 file, or a damaged one"):
        array_shapes(path, ("image",))


def test_what_an_array_claims_is_checked_before_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that were never written are read as zeros, and a file of 2 KB may claim any number of them."""
    with h5py.File(path, "a") as file:
        file.create_dataset("label", (4000, 4000, 4000), "f4", chunks=(64, 64, 64))
        file.create_dataset("none", (8, 8, 8), "u1")
        part = file.create_dataset("part", (8, 8, 8), "u1", chunks=(4, 8, 8))
        part[:4] = 1
        file.create_dataset("many", (8, 8, 8), "u1", chunks=(4, 8, 8), compression="gzip")[...] = 1
    for name, message in {
        "label": "4000 x 4000 x 4000 voxels; up to",
        "none": "never written in full: 0 of its 1 parts",
        "part": "never written in full: 1 of its 2 parts",
    }.items():
        with pytest.raises(InputError, match=message):
            load_hdf5(path, name, SPACING)
    assert load_hdf5(path, "many", SPACING).array.all()
    monkeypatch.setattr(limits, "SMALL", 10)
    monkeypatch.setattr(limits, "free_bytes", lambda: 1000.0)
    with pytest.raises(MemoryLimitError, match="the memory did not suffice: 8 x 8 x 8 voxels"):
        load_hdf5(path, "many", SPACING)


def test_an_image_of_zeros_that_is_packed_too_tightly(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(path, "a") as file:
        del file["image"]
        for name in ("image", "label"):
            file.create_dataset(name, (64, 64, 64), "f4", compression="gzip")[...] = 0
    monkeypatch.setattr(limits, "DENSE_FLOOR", 1000)
    with pytest.raises(InputError, match="no scan can be packed so tightly"):
        load_hdf5(path, "image", SPACING)
    assert not load_hdf5(path, "label", SPACING).array.any()


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(InputError, match="a pipe, a device or a folder"):
        load_hdf5(tmp_path / "a.h5", "image", SPACING)
    with pytest.raises(InputError, match="a pipe, a device or a folder"):
        array_shapes(tmp_path / "a.h5", ("image",))


@pytest.mark.slow
@pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF])
def test_a_damaged_header_is_never_more_than_one_line(tmp_path: Path, value: int) -> None:
    """h5py also raises errors that its authors did not foresee, such as an OverflowError."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=np.arange(8 * 6 * 4).reshape(8, 6, 4), compression="gzip")
    raw = path.read_bytes()
    refused = 0
    for place in range(0, min(len(raw), 3000), 2):
        path.write_bytes(raw[:place] + bytes([value]) * 8 + raw[place + 8 :])
        try:
            load_hdf5(path, "image", SPACING)
        except C3S3Error:
            refused += 1
    assert refused > 50


def test_arrays_in_other_files_are_not_read(path: Path) -> None:
    """Virtual and external arrays are not links, but would read any file that they name."""
    layout = h5py.VirtualLayout((2, 2, 2), "f8")
    layout[:] = h5py.VirtualSource(str(path.parent / "other.h5"), "image", (2, 2, 2))
    (path.parent / "raw").write_bytes(bytes(64))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (2, 2, 2), "f8", external=[(str(path.parent / "raw"), 0, 64)])
        file["soft"] = h5py.SoftLink("/elsewhere")
    for name in ("virtual", "raw", "soft"):
        with pytest.raises(InputError, match=f"its array '{name}' is a link, or lies in another file"):
            load_hdf5(path, name, SPACING)


def test_a_read_that_returns_too_little_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reads up to 2 GiB at once; the rest of a larger array was zeros without an error."""

    class Short(io.FileIO):
        def readinto(self, into: object) -> int:
            return super().readinto(memoryview(into)[:1000])  # type: ignore[call-overload,no-any-return]

    array = np.random.default_rng(0).integers(1, 255, (20, 30, 40), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = array
    monkeypatch.setattr(Opened, "raw", property(lambda opened: Short(opened.path)))
    assert np.array_equal(load_hdf5(tmp_path / "a.h5", "image", SPACING).array, array)


@pytest.mark.parametrize("order", "<>")
def test_half_precision_becomes_single(path: Path, order: str) -> None:
    with h5py.File(path, "a") as file:
        file["half"] = np.arange(24, dtype=f"{order}f2").reshape(2, 3, 4)
    array = load_hdf5(path, "half", SPACING).array
    assert array.dtype == np.float32
    assert np.array_equal(array, np.arange(24).reshape(2, 3, 4))


def test_a_part_that_unpacks_to_far_more_than_its_array(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(path, "a") as file:
        more = {"maxshape": (None, None, None), "chunks": (16, 16, 16), "compression": "gzip"}
        file.create_dataset("label", (2, 2, 2), "u1", **more)[...] = 1
    assert load_hdf5(path, "label", SPACING).array.all()
    monkeypatch.setattr(hdf5, "DENSE_FLOOR", 4095)
    with pytest.raises(InputError, match="'label' of 8 bytes is packed in parts of 4096 bytes"):
        load_hdf5(path, "label", SPACING)
