"""How much a header may claim: voxels, memory, and how tightly a scan can be packed."""

from __future__ import annotations

from pathlib import Path

from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.system.memory import free_bytes

# Outside this range a header has its units wrong; the finest CT voxel is about 0.01 mm.
SPACING_RANGE_MM = (1e-3, 1e3)
# A micro-CT of 2000 x 2000 x 1000 voxels has 4e9; the largest clinical scans have 5e8.
MOST_VOXELS = 1 << 32
# Scans deflate to a half or, with much air, to a tenth of their size; only masks shrink 1000 : 1.
DENSE_RATIO, DENSE_FLOOR = 200, 1 << 28
# Below this nobody asks how much memory there is.
SMALL = 1 << 26
AGAIN = "Copy or export it again"


def check_dense(path: Path, packed: int, size: int) -> None:
    """Refuse what unpacks to gigabytes and cannot be a scan, whose noise is not packed so tightly.

    Parameters
    ----------
    path
        The file.
    packed, size
        Bytes as they are stored, and unpacked.

    Raises
    ------
    InputError
        If it is that.
    """
    if size > max(DENSE_FLOOR, DENSE_RATIO * packed):
        what = f"{packed} bytes unpack to {size}: no scan can be packed so tightly"
        raise InputError(what, where=path, todo=AGAIN)


def check_size(path: Path, shape: tuple[int, ...], size: int, beside: int = 0) -> None:
    """Refuse voxels that are too many, or more than there is memory for, before it is allocated.

    Parameters
    ----------
    path
        The file.
    shape
        As its header claims it.
    size
        Bytes of the voxels.
    beside
        Bytes of the file that are held as well.

    Raises
    ------
    InputError
        If they are too many.
    MemoryLimitError
        If the memory does not suffice.
    """
    voxels = 1
    for side in shape:
        voxels *= int(side)
    if voxels > MOST_VOXELS:
        what = f"the header claims {times(shape)} voxels; up to {MOST_VOXELS} are read"
        raise InputError(what, where=path, todo="Give the part that matters, or a coarser scan")
    needed = size + 4 * voxels + beside  # all that comes after works on a copy in float32
    if needed > SMALL and needed > (free := free_bytes()):
        what = (
            f"the memory did not suffice: {times(shape)} voxels take {needed / 1e9:.1f} GB,"
            f" {free / 1e9:.1f} GB are free"
        )
        raise MemoryLimitError(what, where=path, todo="Give more memory, or a coarser scan")


def times(shape: tuple[int, ...]) -> str:
    """`4 x 5 x 6`."""
    return " x ".join(str(n) for n in shape)
