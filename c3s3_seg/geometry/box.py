"""Boxes of voxels in a scan (regions of interest), and their text form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import InputError, shown
from c3s3_seg.geometry.arguments import instances_of
from c3s3_seg.geometry.volume import Array, Geometry, Volume

FORM = "x0:x1,y0:y1,z0:z1 in voxels, or the same with mm behind"
TOUCH = 1e-6  # share of a voxel that a region may reach into it by rounding
REGION = instances_of(str, f"a text: {FORM}")


@dataclass(frozen=True)
class Box:
    """A part of a scan: its first voxel and the voxel after its last one, along i, j, k."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @classmethod
    def of(cls, low: Sequence[int] | NDArray[np.int_], high: Sequence[int] | NDArray[np.int_]) -> Box:
        """Return the box with these corners, arrays (3,)."""
        (a, b, c), (d, e, f) = (tuple(int(n) for n in corner) for corner in (low, high))
        return cls((a, b, c), (d, e, f))

    def crop(self, scan: Volume) -> Volume:
        """Return the part of the scan in the box, at its position in mm."""
        affine = scan.geometry.affine.copy()
        affine[:3, 3] = scan.geometry.to_mm(self.low)
        shape = tuple(b - a for a, b in zip(self.low, self.high, strict=True))
        grid = Geometry((shape[0], shape[1], shape[2]), affine, scan.geometry.frame_uid)
        return Volume(np.ascontiguousarray(scan.array[self.slices]), grid, scan.source)

    def paste(self, part: Volume, scan: Geometry) -> Volume:
        """Return a volume on the whole grid, with the part in its place and 0 elsewhere."""
        whole: Array = np.zeros(scan.shape, dtype=part.array.dtype)
        whole[self.slices] = part.array
        return scan.volume(whole, part.source)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The slices of the box in an array (i, j, k) of the scan."""
        return tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))

    def __str__(self) -> str:
        return ",".join(f"{axis}{a}:{b}" for axis, a, b in zip("xyz", self.low, self.high, strict=True))


def match_box(text: str) -> re.Match[str]:
    """Match the six numbers of a region and an optional `mm`: the check that needs no scan.

    Parameters
    ----------
    text
        The region, as in `parse_box`.

    Returns
    -------
    re.Match
        Groups 1 to 6: the numbers as text, x0 to z1; group 7: `mm`, or None for voxels.

    Raises
    ------
    InputError
        If it is no text, or not a region, or one begins after its end.
    """
    REGION.take("roi", text)
    number = r"\s*(-?\d+(?:\.\d+)?)\s*"
    match = re.fullmatch(rf"{number}:{number},{number}:{number},{number}:{number}(mm)?\s*", text)
    if match is None:
        raise InputError(f"found the region '{text}', wanted {FORM}")
    ends = [float(number) for number in match.groups()[:6]]
    if any(first > last for first, last in zip(ends[::2], ends[1::2], strict=True)):
        todo = "Give the lower end of an axis first"
        raise InputError(f"the region '{text}' begins after its end", todo=todo)
    return match


def parse_box(text: str, scan: Geometry) -> Box:
    """Parse `x0:x1,y0:y1,z0:z1`: voxels from 0, the end excluded; with a final `mm`, positions in mm, LPS.

    Parameters
    ----------
    text
        The region. Any part of it outside the scan is cut off.
    scan
        Grid of the scan, to whose axes i, j, k the box is aligned. In mm it includes every voxel it touches.

    Raises
    ------
    InputError
        If the text has another form, or the region contains no voxel of the scan.
    """
    match = match_box(text)
    values = np.array([float(v) for v in match.groups()[:6]]).reshape(3, 2)
    if match.group(7):
        corners = scan.to_index(list(product(*values)))
        first, last = corners.min(axis=0), corners.max(axis=0)
        # A voxel reaches half a step to either side of its centre. Decimals of a region that ends at the
        # border of two voxels must not add one.
        outside = (last < -0.5) | (first > np.array(scan.shape) - 0.5)
        values = np.stack([first + 0.5 + TOUCH, last + 0.5 - TOUCH], axis=1)
        values[outside] = 0
    low = np.clip(np.floor(values[:, 0]), 0, scan.shape).astype(int)
    high = np.clip(np.ceil(values[:, 1]), 0, scan.shape).astype(int)
    if (high - low).min() < 1:
        raise InputError(f"the region '{text}' holds no voxel of a scan of {shown(scan.shape)} voxels")
    return Box.of(low, high)
