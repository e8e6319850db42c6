"""Recognise the same scan in any file format and axis order by a hash of its voxels."""

from __future__ import annotations

import hashlib

import numpy as np

from c3s3_seg.geometry.resample import orient
from c3s3_seg.geometry.volume import Volume, narrow


def voxels_sha256(scan: Volume) -> str:
    """Return the hash of the intensities in patient axes, equal for a DICOM series and its NIfTI file."""
    # Adding zero turns -0.0 into 0.0, which is equal but has other bytes.
    turned = np.add(orient(narrow(scan.array), scan.geometry), np.float32(0), order="C")
    return hashlib.sha256(repr(turned.shape).encode() + turned.tobytes()).hexdigest()
