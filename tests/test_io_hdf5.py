"""HDF5 in: the arrays as they are, with the spacing that was stated, and nothing through a link."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from c3s3_seg.errors import InputError
from c3s3_seg.io.hdf5 import has_array, load_hdf5

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
    assert has_array(path, "image")
    assert not has_array(path, "label")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("label", "no array 'label'"),
        ("elsewhere", "no array 'elsewhere'"),
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
    assert not has_array(path, "image")
