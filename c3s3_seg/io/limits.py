"""Limits on the claims of a header: number of voxels, memory, and compression ratio of a scan."""

from __future__ import annotations

from pathlib import Path

from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.system.memory import free_bytes

# Outside this range the units of a header are wrong; the finest CT voxel is about 0.01 mm.
SPACING_RANGE_MM = (1e-3, 1e3)
# A micro-CT of 2000 x 2000 x 1000 voxels has 4e9; the largest clinical scans have 5e8.
MOST_VOXELS = 1 << 32
# Scans deflate to a half or, with much air, to a tenth of their size; only masks shrink 1000 : 1.
DENSE_RATIO, DENSE_FLOOR = 200, 1 << 28
# Bytes below which the free memory is not checked.
SMALL = 1 << 26
AGAIN = "Copy or export it again"


def check_dense(path: Path, packed: int, size: int) -> None:
    """Refuse a large file that is packed more tightly than the noise of a scan allows.

    Parameters
    ----------
    path
        The file.
    packed, size
        Bytes as stored, and unpacked.

    Raises
    ------
    InputError
        If `size` exceeds both `DENSE_FLOOR` and `DENSE_RATIO * packed`.
    """
    if size > max(DENSE_FLOOR, DENSE_RATIO * packed):
        what = f"{packed} bytes unpack to {size}: no scan can be packed so tightly"
        raise InputError(what, where=path, todo=AGAIN)


def check_size(path: Path, shape: tuple[int, ...], size: int, beside: int = 0) -> None:
    """Refuse too many voxels, or more than fit into memory, before memory is allocated.

    Parameters
    ----------
    path
        The file.
    shape
        Shape that the header claims.
    size
        Bytes of the voxels.
    beside
        Bytes of the file that are held in memory as well.

    Raises
    ------
    InputError
        If there are more than `MOST_VOXELS` voxels.
    MemoryLimitError
        If the free memory does not suffice.
    """
    voxels = 1
    for side in shape:
        voxels *= int(side)
    if voxels > MOST_VOXELS:
        what = f"the header claims {times(shape)} voxels; up to {MOST_VOXELS} are read"
        raise InputError(what, where=path, todo="Give the part that matters, or a coarser scan")
    needed = size + 4 * voxels + beside  # all later steps work on a copy in float32
    if needed > SMALL and needed > (free := free_bytes()):
        what = (
            f"the memory did not suffice: {times(shape)} voxels take {needed / 1e9:.1f} GB,"
            f" {free / 1e9:.1f} GB are free"
        )
        raise MemoryLimitError(what, where=path, todo="Give more memory, or a coarser scan")


def times(shape: tuple[int, ...]) -> str:
    """Return a shape as text: `4 x 5 x 6`."""
    return " x ".join(str(n) for n in shape)
