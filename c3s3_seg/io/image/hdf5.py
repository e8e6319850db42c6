"""Read HDF5 files with the arrays `image` and `label`, as in benchmarks of semi-supervised segmentation.

The files hold no geometry: the spacing is what their authors state, and origin and sides are not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import C3S3Error, InputError, MissingError, to_install
from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.io.content import Opened
from c3s3_seg.io.limits import DENSE_FLOOR, check_dense, check_size

HDF5_SUFFIXES = (".h5", ".hdf5")
NO_GEOMETRY = "the file holds no geometry: a spacing of {} mm was taken, origin and sides are not known"


def load_hdf5(path: Path, name: str, spacing_mm: tuple[float, float, float]) -> Volume:
    """Read one array of an HDF5 file.

    Parameters
    ----------
    path
        The file.
    name
        `image` or `label`; its axes are taken as (i, j, k).
    spacing_mm
        Spacing of the voxels, as the benchmark states it.

    Returns
    -------
    Volume
        The array in its own type (float16: float32), with the origin at 0, the axes of LPS, and a note
        that the file holds no geometry.

    Raises
    ------
    InputError
        If there is no such array, it is not 3D and finite, lies in another file, parts of it were
        never written, or the file is damaged.
    MemoryLimitError
        If the memory does not suffice for the array.
    MissingError
        If h5py is not installed.
    """
    array = _read(path, name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"'{name}' has NaN or infinite values", where=path)
    stated = " x ".join(f"{s:g}" for s in spacing_mm)
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return Volume(array, Geometry.build(shape, spacing_mm), Source(path, notes=(NO_GEOMETRY.format(stated),)))


def array_shapes(path: Path, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the named arrays that a file holds; nothing else is inspected.

    Raises
    ------
    InputError
        If the file is no HDF5 file or damaged, or an array is a link or lies in another file.
    MissingError
        If h5py is not installed.
    """
    with _opened(path) as file:
        return {name: tuple(item.shape) for name in names if (item := _array(file, name, path)) is not None}


def _read(path: Path, name: str) -> Array:
    with _opened(path) as file:
        item = _array(file, name, path)
        if item is None:
            raise InputError(f"there is no array '{name}' in this file", where=path)
        _check(item, name, path)
        array = np.asarray(item[()])
        half = (array.dtype.kind, array.dtype.itemsize) == ("f", 2)  # in either byte order
        return array.astype(np.float32) if half else array  # no image file holds float16


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = _h5py()
    try:
        # One handle from the first check to the last voxel, so that the file cannot be swapped in between.
        # The system reads up to 2 GiB at once, and h5py takes the rest as zeros; a buffered reader reads on.
        with Opened(path) as opened, BufferedReader(opened.raw) as whole, h5py.File(whole, "r") as file:
            yield file
    except (C3S3Error, MemoryError):
        raise
    except Exception as error:  # a damaged file can make h5py raise anything
        what = "this is not an HDF5 file, or a damaged one"
        raise InputError(what, where=path, todo="Copy or export it again") from error


def _array(file: Any, name: str, path: Path) -> Any:
    """Return an array of this very file; refuse links, virtual and external arrays, which read any file."""
    h5py = _h5py()
    link = file.get(name, getlink=True)
    item: Any = file.get(name) if isinstance(link, h5py.HardLink) else None
    is_array = isinstance(item, h5py.Dataset)
    if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)) or (
        is_array and (item.is_virtual or item.external)
    ):
        what = f"its array '{name}' is a link, or lies in another file, which is not followed"
        raise InputError(what, where=path, todo="Write the array itself into this file")
    return item if is_array and item.shape is not None else None


def _check(item: Any, name: str, path: Path) -> None:
    """Check the type, size and completeness of an array before memory is allocated for it."""
    shape = tuple(int(n) for n in item.shape)
    if len(shape) != 3 or item.dtype.kind not in "iufb" or not all(shape):
        raise InputError(f"'{name}' is a {item.dtype} array of {shape}; wanted numbers in 3D", where=path)
    size = math.prod(shape) * item.dtype.itemsize
    check_size(path, shape, size)
    # Parts that were never written are read as zeros, without a warning.
    stored = int(item.id.get_storage_size())
    chunks, there = 1, int(stored > 0)
    if item.chunks is not None:
        chunks = math.prod(-(-n // c) for n, c in zip(shape, item.chunks, strict=True))
        there = int(item.id.get_num_chunks())
        part = math.prod(item.chunks) * item.dtype.itemsize  # unpacked whole, even beyond the array
        check_size(path, item.chunks, part)
        if part > max(size, DENSE_FLOOR):
            raise InputError(f"'{name}' of {size} bytes is packed in parts of {part} bytes", where=path)
    if there < chunks:
        what = f"'{name}' was never written in full: {there} of its {chunks} parts are there"
        raise InputError(what, where=path, todo="Copy or export it again")
    if name == "image":
        check_dense(path, stored, size)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        todo = to_install("train")
        raise MissingError("reading HDF5 files needs h5py", todo=todo) from error
    return h5py
