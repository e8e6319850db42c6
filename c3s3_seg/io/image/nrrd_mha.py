"""Read NRRD and MetaImage files: check the whole file, and take the voxels from the checked bytes.

No other library reads the files: two readers of one header may disagree on which data file it names.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array
from c3s3_seg.io.content import Need, Opened, unpack
from c3s3_seg.io.image.metaimage import parse_meta
from c3s3_seg.io.image.nifti import Parts
from c3s3_seg.io.image.nrrd import parse_nrrd
from c3s3_seg.io.image.stored import Stored

META = (".mha", ".mhd")
END = re.compile(rb"\r?\n\r?\n|^[ \t]*ElementDataFile[^\n]*\n", re.M)
FIRST = 1 << 14  # bytes that contain most headers
MOST_HEADER = 1 << 22  # bytes; 3D Slicer writes 500 for each of up to a thousand segments


def read_nrrd_or_meta(path: Path, *, hashed: bool = False, dense: bool = False) -> Parts:
    """Read `.nrrd`, `.nhdr`, `.mha` or `.mhd`.

    Parameters
    ----------
    path
        The file.
    hashed, dense
        Same as in `read_nifti`; the hash of a header with a data file beside it covers both files.

    Raises
    ------
    InputError
        If the file is truncated or damaged, or does not hold one real 3D volume in mm.
    MemoryLimitError
        If the memory does not suffice for the voxels.
    """
    with Opened(path) as file:
        stored = _header(file)
        if stored.name is None:
            need = Need(path, stored.shape, 0, stored.size, stored.packed, dense)
            need.check(file.size - stored.start)
        elif file.size > MOST_HEADER:
            raise InputError(f"its header has {file.size} bytes; up to {MOST_HEADER} are read", where=path)
        raw = file.whole()
    digest = hashlib.sha256(raw).hexdigest() if hashed else ""
    data = memoryview(raw)[stored.start :]
    if stored.name is not None:
        with Opened(data_file(stored.name, path)) as beside:
            need = Need(beside.path, stored.shape, 0, stored.size, stored.packed, dense)
            need.check(beside.size)
            raw = beside.whole()
        data = memoryview(raw)
        if hashed:
            other = hashlib.sha256(raw).hexdigest()
            digest = sha256_of_list(path.parent, {path: digest, path.parent / stored.name: other})
    array, surplus = _voxels(stored, data, need)
    notes = stored.notes
    if surplus:
        notes = (*notes, f"{surplus} bytes after the last voxel were not used")
    return Parts(array, stored.affine, notes, stored.sides, digest)


def data_file_of(path: Path) -> Path | None:
    """Return the data file that a header names; None if the voxels are in `path` itself.

    Raises
    ------
    InputError
        If the header cannot be read, or its data file is not one file beside it.
    """
    with Opened(path) as file:
        name = _header(file).name
    if name is None:
        return None
    data_file(name, path)
    return path.parent / name


def data_file(name: str, path: Path) -> Path:
    """Return the real path of the data file that a header names: one file below the header's folder.

    Raises
    ------
    InputError
        If the name is a list or pattern of files, or the file is the header, missing, elsewhere or a link
        to elsewhere.
    """
    target, folder = path.parent / name, os.path.realpath(path.parent)
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    plain = inside and "%" not in name and not name.upper().startswith("LIST") and "\0" not in name
    if not plain or not os.path.isfile(target):
        raise InputError(f"its data file '{name}' is not one file beside it", where=path)
    real = Path(os.path.realpath(target))
    if not real.is_relative_to(folder):
        todo = "Put the data file itself beside the header"
        raise InputError(f"its data file '{name}' is a link out of the folder", where=path, todo=todo)
    if os.path.samefile(real, path):
        raise InputError(f"its data file '{name}' is the header itself", where=path)
    return real


def sha256_of_list(root: Path, hashes: dict[Path, str]) -> str:
    """Return one sha256 of several files: of their names below `root` and their hashes, sorted by path."""
    lines = [
        os.fsencode(path.relative_to(root)) + b"\0" + hashes[path].encode() + b"\n" for path in sorted(hashes)
    ]
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _header(file: Opened) -> Stored:
    head = file.begin(FIRST)
    if not END.search(head):
        head = file.begin(MOST_HEADER)
    return (parse_meta if file.path.suffix.lower() in META else parse_nrrd)(head, file.path)


def _voxels(stored: Stored, data: memoryview, need: Need) -> tuple[Array, int]:
    """Return the array (i, j, k) in native byte order, and the number of bytes after the last voxel."""
    content: bytearray | memoryview = data
    surplus = len(data) - stored.size
    if stored.packed:
        content, surplus = unpack(data, need)
    elif stored.at_end:
        content, surplus = data[surplus:], 0
    array = np.frombuffer(content, stored.dtype, stored.size // stored.dtype.itemsize)
    array = array.reshape(stored.volume_shape, order="F")
    # The header may have any length, so the voxels need not start at a multiple of their size.
    return np.require(array.astype(stored.dtype.newbyteorder("="), copy=False), requirements="A"), surplus
