"""Read NIfTI-1 and NIfTI-2 files: check the whole file, and take the voxels from the checked bytes.

SimpleITK fills a truncated file with zeros, and neither it nor nibabel notices a flipped byte: the
CRC of a gzip stream is only known at its end. So the whole stream is unpacked here, its length and
its CRC are checked, and the voxels are taken from that very buffer. The header has 13 fields that
matter, and reading them here spares every run the import of nibabel, which imports pydicom.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import InputError, shown
from c3s3_seg.geometry.volume import Array, narrow
from c3s3_seg.io.content import Need, Opened, unpack, unpack_head
from c3s3_seg.io.image.nifti_forms import Forms
from c3s3_seg.io.limits import AGAIN

GZIP_MAGIC = b"\x1f\x8b"
FIRST = 1 << 17  # bytes of a packed file that contain its header, even after an extra field of 64 KiB
HEADER_BYTES = {348: 352, 540: 544}
MOST_EXTENSIONS = 1 << 26  # bytes between header and voxels, which are unpacked as well
DATA_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
OTHER_TYPES = {128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex", 2048: "complex", 1: "one-bit"}
MOST_PER_AXIS = 32767  # of a NIfTI-1 file
UNITS = {1: "metres", 3: "micrometres"}

_NAMES = (
    "dim", "datatype", "pixdim", "offset", "slope", "inter", "units", "qcode", "scode", "quatern", "qoffset",
    "srow", "magic",
)  # fmt: skip
_LAYOUTS = {
    348: (
        ("8i2", "i2", "8f4", "f4", "f4", "f4", "u1", "i2", "i2", "3f4", "3f4", "(3,4)f4", "S4"),
        (40, 70, 76, 108, 112, 116, 123, 252, 254, 256, 268, 280, 344),
    ),
    540: (
        ("8i8", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "i4", "3f8", "3f8", "(3,4)f8", "S4"),
        (16, 12, 104, 168, 176, 184, 500, 344, 348, 352, 376, 400, 4),
    ),
}


class Parts(NamedTuple):
    """The content of a file: an array (i, j, k), its affine to mm in LPS, notes, and the sides of its axes.

    `sides` is `LPS` if the header states in words that the indices grow to the left, back and head; empty
    if it states no sides. `sha256` is the hash of the very bytes that were read, equal to
    `hashes.scan_sha256`; empty if it was not requested. `forms` is `Forms.packed` of a NIfTI file.
    """

    array: Array
    affine: NDArray[np.float64]
    notes: tuple[str, ...]
    sides: str = ""
    sha256: str = ""
    forms: bytes = b""


@dataclass(frozen=True)
class Header:
    """The fields of a NIfTI header that locate the voxels in the file and in the patient."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    forms: Forms

    @property
    def end(self) -> int:
        """The number of bytes from the start of the header to the end of the voxels."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_nifti(path: Path, *, hashed: bool = False, dense: bool = False) -> Parts:
    """Read a `.nii` or `.nii.gz` file; the content decides which of the two, not the name.

    Parameters
    ----------
    path
        The file.
    hashed
        Whether the sha256 of the file is requested.
    dense
        Whether this is a scan, so that a file of zeros that unpacks to gigabytes is refused at once.

    Raises
    ------
    InputError
        If the file is truncated or damaged, or does not hold one real 3D volume in mm.
    MemoryLimitError
        If the memory does not suffice for the voxels.
    """
    with Opened(path) as file:
        first = file.begin(FIRST)
        packed = first[:2] == GZIP_MAGIC
        header = parse_header(_head(first, path), path)
        need = Need(path, header.shape, header.offset, header.end - header.offset, packed, dense)
        need.check(file.size)
        raw = file.whole()
    digest = hashlib.sha256(raw).hexdigest() if hashed else ""
    content, surplus = unpack(memoryview(raw), need) if packed else (raw, len(raw) - header.end)
    affine, notes = header.forms.place(header.shape)
    if surplus:
        notes = (*notes, f"{surplus} bytes after the last voxel were not used")
    return Parts(_values(header, content), affine, notes, sha256=digest, forms=header.forms.packed)


def read_affine(path: Path) -> NDArray[np.float64]:
    """Return the affine (4, 4) of a `.nii` or `.nii.gz` file, to mm in LPS, from its header alone.

    Raises
    ------
    InputError
        If it is no NIfTI file, or is damaged.
    """
    with Opened(path) as file:
        header = parse_header(_head(file.begin(FIRST), path), path)
    return header.forms.place(header.shape)[0]


def read_forms(path: Path) -> bytes:
    """Return `Forms.packed` of a `.nii` or `.nii.gz` file, from its header alone.

    Raises
    ------
    InputError
        If it is no NIfTI file, or is damaged.
    """
    with Opened(path) as file:
        return parse_header(_head(file.begin(FIRST), path), path).forms.packed


def _head(first: bytes, path: Path) -> bytes:
    """Return the unpacked header from the first bytes of a file."""
    return unpack_head(first, 544, path) if first[:2] == GZIP_MAGIC else first[:544]


def parse_header(head: bytes, path: Path) -> Header:
    """Parse the header in the first bytes of an unpacked file, and check everything that it claims."""
    field = _fields(head, path)
    if field["magic"] == b"ni1" or field["magic"] == b"ni2":
        raise InputError("header and voxels are in two files; wanted one .nii", where=path)
    if field["magic"] not in (b"n+1", b"n+2"):
        raise InputError("this is not a NIfTI file: its magic is missing", where=path)
    shape = _shape(field["dim"], path)
    code = int(field["datatype"])
    if code not in DATA_TYPES:
        name = OTHER_TYPES.get(code, f"type {code}")
        raise InputError(f"found {name} voxels of shape {shape}; wanted real numbers", where=path)
    unit = UNITS.get(int(field["units"]) & 7)
    if unit:
        raise InputError(f"its distances are in {unit}; wanted mm", where=path)
    spacing = np.asarray(field["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise InputError(f"found a spacing of {shown(spacing)} mm; wanted positive numbers", where=path)
    start = float(field["offset"])
    least = HEADER_BYTES[len(field.tobytes())]
    if not (math.isfinite(start) and least <= start <= least + MOST_EXTENSIONS):
        raise InputError(f"the voxels cannot start at byte {start:g}", where=path)
    slope, inter = float(field["slope"]), float(field["inter"])
    if not math.isfinite(slope) or slope == 0:
        slope, inter = 1.0, 0.0  # the standard: a slope of 0 means that there is no scaling
    if not math.isfinite(inter):
        raise InputError(f"found an intercept of {inter}; wanted a number", where=path)
    dtype = np.dtype(DATA_TYPES[code]).newbyteorder(field["dim"].dtype.byteorder)
    return Header(shape, dtype, int(start), slope, inter, Forms.parse(field))


@cache
def _layout(size: int, order: str) -> np.dtype[Any]:
    formats, offsets = _LAYOUTS[size]
    names: Any = {"names": _NAMES, "formats": formats, "offsets": offsets, "itemsize": size}
    layout: np.dtype[Any] = np.dtype(names)
    return layout.newbyteorder(order)  # type: ignore[arg-type]


def _fields(head: bytes, path: Path) -> Any:
    for order in "<>":
        size = int(np.frombuffer(head[:4], f"{order}i4")[0]) if len(head) >= 4 else 0
        if size in _LAYOUTS and len(head) >= size:
            return np.frombuffer(head[:size], _layout(size, order))[0]
    raise InputError("this is not a NIfTI file, or it ends within its header", where=path, todo=AGAIN)


def _shape(dim: NDArray[Any], path: Path) -> tuple[int, ...]:
    count = int(dim[0])
    if not 1 <= count <= 7:
        raise InputError(f"the header claims {count} dimensions", where=path)
    shape = tuple(int(n) for n in dim[1 : count + 1])
    if min(shape) < 1:
        raise InputError(f"the header claims a shape of {shape}; wanted positive sizes", where=path)
    if len(shape) < 3 or math.prod(shape[3:]) > 1:
        raise InputError(f"found an array of shape {shape}; wanted one 3D volume", where=path)
    return shape


def _values(header: Header, buffer: bytearray) -> Array:
    count = math.prod(header.shape)
    stored = np.frombuffer(buffer, header.dtype, count, header.offset).reshape(header.shape[:3], order="F")
    native = stored.astype(header.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.inter) == (1.0, 0.0):
        return native
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused later
        scaled = native * np.float64(header.slope) + np.float64(header.inter)
        merged = header.dtype.kind != "f" and _merges_float32(scaled, header.slope)
        return scaled if merged or header.dtype.itemsize > 4 else narrow(scaled)


def _merges_float32(scaled: Array, slope: float) -> bool:
    """Return whether whole numbers, times a slope, may lie closer than float32 resolves; of any shape."""
    largest = np.float32(max(abs(scaled.min()), abs(scaled.max())))
    return bool(np.spacing(largest) > abs(slope))
