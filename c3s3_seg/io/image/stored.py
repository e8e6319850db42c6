"""The parsed header of a NRRD or MetaImage file: where the voxels are, in the files and in the patient."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import InputError

Floats = NDArray[np.float64]
NO_SPACING = "the header gives no spacing: 1 mm was taken"


@dataclass(frozen=True)
class Stored:
    """The content of a header.

    Parameters
    ----------
    shape
        Shape of the voxels, the fastest axis first, axes of one voxel included.
    dtype
        Type of a voxel, with its byte order.
    packed
        Whether the voxels are deflated.
    affine
        (4, 4): index (i, j, k, 1) to mm in LPS.
    start
        Byte at which the voxels begin, if they are in the header's file.
    name
        Name of the data file, if the voxels are in another file.
    at_end
        Whether the voxels are the last bytes of their file, whatever comes before.
    notes, sides
        Same as in `nifti.Parts`.
    axes
        The three axes of the volume; other axes have one voxel each.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packed: bool
    affine: Floats
    start: int
    name: str | None = None
    at_end: bool = False
    notes: tuple[str, ...] = ()
    sides: str = ""
    axes: tuple[int, ...] = (0, 1, 2)

    @property
    def size(self) -> int:
        """The number of bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def volume_shape(self) -> tuple[int, ...]:
        """The shape of the volume, without the axes of one voxel that are not in `axes`."""
        return tuple(self.shape[n] for n in self.axes)


def once(pairs: Iterable[tuple[str, str]], path: Path, *synonyms: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a header; refuse a field that occurs twice: readers differ in which they take.

    Parameters
    ----------
    pairs
        Names and values, as in the header.
    path
        The file.
    synonyms
        Names that mean the same.

    Raises
    ------
    InputError
        If a field occurs twice, or with a synonym.
    """
    same = {name: names[0] for names in synonyms for name in names}
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in pairs:
        key = same.get(name, name)
        if key.lower() in seen:
            what = f"the header says '{name}' twice, or in two ways; wanted it once"
            raise InputError(what, where=path, todo="Write the file again with the program that made it")
        seen.add(key.lower())
        found[key] = value
    return found


def sizes(text: str, path: Path) -> tuple[int, ...]:
    """Parse the numbers of voxels along at least three axes."""
    if not re.fullmatch(r"\s*-?\d{1,18}(\s+-?\d{1,18})*\s*", text):
        raise InputError(f"the header's sizes are '{text}'; wanted numbers", where=path)
    shape = tuple(int(n) for n in text.split())
    if min(shape) < 1:
        raise InputError(f"the header claims a shape of {shape}; wanted positive sizes", where=path)
    if len(shape) < 3:
        raise not_one_volume(shape, path)
    return shape


def not_one_volume(shape: tuple[int, ...], path: Path, todo: str | None = None) -> InputError:
    """Return the error for an array that is not one 3D volume."""
    return InputError(f"found an array of shape {shape}; wanted one 3D volume", where=path, todo=todo)


def numbers(text: str, count: int, what: str, path: Path) -> Floats:
    """Parse `count` numbers of any value; whether they make a grid is checked later.

    Raises
    ------
    InputError
        If the text is not `count` numbers.
    """
    try:
        found = np.array([float(n) for n in text.split()], dtype=np.float64)
    except ValueError:
        found = np.empty(0)
    if found.shape != (count,):
        raise InputError(f"its {what} is '{text}'; wanted {count} numbers", where=path)
    return found


def positive(text: str, count: int, path: Path) -> Floats:
    """Parse `count` distances in mm. ITK makes 1 mm of a spacing of 0, and flips an axis if it is negative.

    Raises
    ------
    InputError
        If a distance is not positive and finite.
    """
    found = numbers(text, count, "spacing", path)
    if not (np.isfinite(found).all() and found.min() > 0):
        raise InputError(f"found a spacing of {text} mm; wanted positive numbers", where=path)
    return found


def placed(columns: Floats, origin: Floats) -> Floats:
    """Return the (4, 4) affine of three steps (3, 3), one per column, and an origin, all in mm."""
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = origin
    return affine
