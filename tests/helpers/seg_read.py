"""Shared by tests: read."""

from pathlib import Path

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io.dicom_objects.segmentation import load_drawing, look_at_drawing

TABLE = {"left_atrium": 1, "wall": 3}


def read(path: Path, grid: Geometry, table: dict[str, int] | None = None) -> Volume:
    drawing = look_at_drawing(path)
    assert drawing is not None
    return load_drawing(drawing, grid, table or TABLE)
