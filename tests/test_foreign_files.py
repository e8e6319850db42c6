"""Files of other programs: all files of pydicom and pydicom-data are read or refused, without taking long.

Their series are compared with the volumes that highdicom and dcm2niix read.
"""

import shutil
import subprocess
import sys
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file, get_testdata_files

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom.inspect import inspect

pytestmark = pytest.mark.slow


def processor_s() -> float:
    """Return the processor seconds of this thread, so that a busy machine does not count as a hang."""
    return time.thread_time()


def test_every_file_is_read_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("data_store")
    files = [Path(name) for name in get_testdata_files() if Path(name).is_file()]
    assert len(files) > 200
    read, crashed, slow = set(), [], []
    for number, source in enumerate(files):
        (tmp_path / str(number)).mkdir()
        path = Path(shutil.copy(source, tmp_path / str(number)))
        started = processor_s()
        for act in (load, inspect):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made = act(path)
            except C3S3Error:
                continue
            except Exception as error:
                crashed.append(f"{path.name}: {error!r}")
            else:
                read |= {path.name} if isinstance(made, Volume) else set()
        slow += [path.name] if processor_s() - started > 5 else []
    assert (crashed, slow) == ([], [])
    assert read == {"eCT_Supplemental.dcm"}


def test_every_folder_is_read_or_refused() -> None:
    folders = {Path(name).parent for name in get_testdata_files()}
    assert len(folders) > 15
    readable = set()
    for folder in sorted(folders):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = inspect(folder)
        except C3S3Error:
            continue
        readable |= {row.uid for row in rows if row.readable}
    # The UIDs of the small gated CT and of the enhanced CT.
    assert readable == {
        "1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.6",
        "1.3.6.1.4.1.5962.1.3.10.3.1166562673.14401",
    }


def same(found: Volume, other: Volume) -> bool:
    """Return whether both have the same values at the same positions, whatever the order of their axes."""
    last = np.array(other.geometry.shape) - 1
    corners = np.array(list(product(*((0, n) for n in last))))
    there = found.geometry.to_index(other.geometry.to_mm(corners))
    if np.abs(there - np.rint(there)).max() >= 0.02:  # smaller between the corners
        return False
    # The axis of `other`, and the direction, along which each axis of `found` runs.
    origin, *steps = np.rint(
        found.geometry.to_index(other.geometry.to_mm(np.vstack([np.zeros(3), np.eye(3)])))
    )
    turn = np.array([step - origin for step in steps])
    array = found.array.transpose(np.abs(turn).argmax(axis=1))
    array = array[tuple(slice(None, None, int(row[np.abs(row).argmax()])) for row in turn)]
    return np.array_equal(array, other.array)


def converted(folder: Path, out: Path) -> Volume:
    """Return the volume that dcm2niix converts a series to; skip the test if it is not installed."""
    program = shutil.which("dcm2niix") or shutil.which("dcm2niix", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("dcm2niix is not installed")
    out.mkdir()
    subprocess.run(
        [program, "-z", "n", "-o", str(out), "-f", "x", str(folder)], check=True, capture_output=True
    )
    (path,) = out.glob("*.nii")
    return load(path)


def gated(tmp_path: Path) -> Path:
    folder = tmp_path / "gated"
    index = get_testdata_file("DICOMDIR")
    assert isinstance(index, str)
    shutil.copytree(Path(index).parent / "98892001" / "CT5N", folder)
    return folder


def test_the_small_gated_ct_is_as_highdicom_and_dcm2niix_see_it(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = gated(tmp_path)
    back = load(folder)
    seen = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in folder.iterdir()])
    grid = Geometry(seen.array.T.shape, seen.affine[:, [2, 1, 0, 3]])
    assert same(back, grid.volume(seen.array.T))
    assert same(back, converted(folder, tmp_path / "out"))
    assert not same(back, grid.volume(seen.array.T + 1))


def test_the_enhanced_ct_is_as_dcm2niix_sees_it(tmp_path: Path) -> None:
    pytest.importorskip("data_store")
    (tmp_path / "one").mkdir()
    path = get_testdata_file("eCT_Supplemental.dcm")
    assert isinstance(path, str)
    shutil.copy(path, tmp_path / "one")
    assert same(load(tmp_path / "one"), converted(tmp_path / "one", tmp_path / "out"))


@pytest.mark.data
@pytest.mark.parametrize("name", ["philips-ct/S2010", "oblique-t1", "brain-study/12-T1post-05670"])
def test_the_real_series_are_as_dcm2niix_sees_them(shared_data: Path, tmp_path: Path, name: str) -> None:
    folder = shared_data / "dicom" / name
    assert same(load(folder), converted(folder, tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emri_small.dcm", "it has 10 frames and describes 0 of them"),
        ("examples_palette.dcm", "not a grey image: found 'PALETTE COLOR'"),
        ("color3d_jpeg_baseline.dcm", "several frames"),
        ("mlut_18.dcm", "lookup table"),
        ("liver.dcm", r"several frames|0 series|no valid"),
        ("MR_truncated.dcm", r"two or more|damaged"),
        ("rtplan.dcm", "no DICOM slices"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "no valid ImageOrientationPatient"),
    ],
)
def test_refusals_say_why(tmp_path: Path, name: str, message: str) -> None:
    pytest.importorskip("data_store")
    path = get_testdata_file(name)
    assert isinstance(path, str)
    copy = Path(shutil.copy(path, tmp_path))
    with pytest.raises(InputError, match=message):
        load(copy)
