"""Shared fixtures: small volumes with known content, and the real scans where they are at hand."""

from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.volume import Geometry, Volume

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason=f"the real scans are not at {SHARED_DATA}")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return SHARED_DATA


def rotation(degrees_x: float, degrees_y: float, degrees_z: float) -> np.ndarray:
    """A rotation matrix (3, 3): about x, then y, then z."""
    ax, ay, az = np.radians([degrees_x, degrees_y, degrees_z])
    cx, cy, cz, sx, sy, sz = np.cos(ax), np.cos(ay), np.cos(az), np.sin(ax), np.sin(ay), np.sin(az)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)


@pytest.fixture
def oblique() -> Volume:
    """An asymmetric int16 ramp with a bright corner block, on an oblique grid of three spacings."""
    geometry = Geometry.build((20, 16, 12), (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), rotation(12, -20, 30))
    i, j, k = np.indices(geometry.shape)
    array = (i + 20 * j + 320 * k).astype(np.int16)
    array[2:6, 3:9, 1:4] = 9000
    return geometry.volume(array)
