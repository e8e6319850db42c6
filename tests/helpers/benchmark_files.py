"""Shared by tests: hdf5."""

from pathlib import Path

import h5py
import numpy as np

from helpers.archive import scan_and_mask


def hdf5(path: Path, seed: int, *, label: bool = True) -> None:
    scan, mask = scan_and_mask(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=scan.array.astype(np.float32) / 7, compression="gzip")
        if label:
            file.create_dataset("label", data=(mask > 0).astype(np.uint8), compression="gzip")
