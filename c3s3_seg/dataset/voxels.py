"""When two scans are the same one, whatever file format and axis order they are stored in."""

from __future__ import annotations

import hashlib

import numpy as np

from c3s3_seg.geometry.resample import orient
from c3s3_seg.geometry.volume import Volume, narrow


def voxels_sha256(scan: Volume) -> str:
    """Of the intensities (i, j, k) along the patient's axes: a DICOM series and its NIfTI file have one."""
    # A sum with zero has no -0.0, which equals 0.0 and has other bytes.
    turned = np.add(orient(narrow(scan.array), scan.geometry), np.float32(0), order="C")
    return hashlib.sha256(repr(turned.shape).encode() + turned.tobytes()).hexdigest()
