"""Shared by tests: MAKER, SEGMENTS, drawn, files, differing, errors."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load_mask
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Maker, Segment

SEGMENTS = (Segment("left_atrium", 1, ("82471001", "SCT", "Left atrium")), Segment("wall", 3))


MAKER = Maker("left-atrium", "0123456789abcdef")


def drawn(scan: Volume) -> Volume:
    """Return an asymmetric mask of two labels (1 and 3); its first slices are empty."""
    i, j, k = (np.indices(scan.array.shape).T / (np.array(scan.array.shape) - 1)).T
    mask = np.zeros(scan.array.shape, np.uint8)
    mask[(i - 0.3) ** 2 + (j - 0.55) ** 2 + ((k - 0.6) / 1.3) ** 2 < 0.06] = 1
    mask[(i > 0.7) & (j < 0.3) & (k > 0.4)] = 3
    assert set(np.unique(mask)) == {0, 1, 3}
    return scan.geometry.volume(mask, scan.source)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    from conftest import rotation

    grid = Geometry.build((40, 36, 12), (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), rotation(12, -20, 30))
    array = np.arange(40 * 36 * 12).reshape(grid.shape) % 4000
    return save_series(grid.volume(array), tmp_path / "series", description="phantom", seed_uid="a")


def errors(path: Path) -> list[str]:
    """Return the error lines that dciodvfy prints for a file, without its warnings."""
    found = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    return [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]


def tool(name: str) -> str:
    import sys

    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def differing(path: Path, mask: Volume, folder: Path) -> int:
    """Return the number of voxels by which the SEG, as dcmqi reads it, differs from the mask."""
    command = [tool("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(folder)]
    folder.mkdir(exist_ok=True)
    subprocess.run([*command, "--outputType", "nii"], check=True, capture_output=True)
    wrong = 0
    for number, segment in enumerate(SEGMENTS, 1):
        seen = load_mask(folder / f"{number}.nii.gz")
        index = mask.geometry.to_index(seen.geometry.to_mm(np.argwhere(seen.array > 0)))
        assert np.abs(index - np.rint(index)).max() < 1e-3
        back = np.zeros(mask.array.shape, bool)
        back[tuple(np.rint(index).astype(int).T)] = True
        wrong += int((back != (mask.array == segment.value)).sum())
    return wrong
