"""Helpers for data sets: small DICOM studies with known masks as SEG, RTSTRUCT or image files."""

from pathlib import Path

import numpy as np
import pydicom

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load
from c3s3_seg.io import save as save_image
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_write import write_seg

SEGMENTS = (Segment("liver", 1), Segment("tumour", 2))


def scan_and_mask(seed: int, shape: tuple[int, int, int] = (24, 20, 10)) -> tuple[Volume, np.ndarray]:
    """Return a scan of a noisy ball on a grid of its own, and a mask of it with a smaller ball as label 2."""
    random = np.random.default_rng(seed)
    geometry = Geometry.build(shape, (1.5, 1.25, 3.0), (7.5 * seed - 40, 12.25, -80.0))
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array(shape) / 2, axis=-1)
    mask = (distance < 4).astype(np.uint8) + (distance < 2)
    image = random.integers(0, 400, shape) + 300 * (mask > 0)
    return geometry.volume(image.astype(np.uint16)), mask.astype(np.uint8)


def study(folder: Path, seed: int, truth: str = "none", patient: str = "") -> np.ndarray:
    """Write a series to a folder, and its mask in the format `truth` beside the slices; return the mask."""
    scan, mask = scan_and_mask(seed)
    name = patient or f"ID-{seed}"
    save_series(scan, folder, description="portal venous", seed_uid=f"s{seed}", patient=name)
    read = load(folder)
    drawn = read.geometry.volume(mask, read.source)
    if truth == "seg":
        write_seg(drawn, folder / "seg.dcm", SEGMENTS)
    elif truth == "rtstruct":
        write_rtstruct(drawn, folder / "rt.dcm", SEGMENTS)
    elif truth == "nii.gz":
        save_image(drawn, folder / "mask.nii.gz")
    return mask


def image_case(folder: Path, seed: int, name: str, mask_name: str | None = None) -> np.ndarray:
    """Write a NIfTI scan, and its mask if that has a name, relative to the folder; return the mask."""
    scan, mask = scan_and_mask(seed)
    files = [(scan, name), (scan.geometry.volume(mask), mask_name)]
    for volume, where in files:
        if where is not None:
            path = folder / f"{where}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(volume, path)
    return mask


def renamed(path: Path, **attributes: str) -> None:
    """Set attributes of all slices below a folder."""
    for file in path.rglob("*.dcm"):
        data = pydicom.dcmread(file)
        for keyword, value in attributes.items():
            setattr(data, keyword, value)
        data.save_as(file)
