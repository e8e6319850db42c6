"""The two forms of a NIfTI header, sform and qform, by which a reader places the voxels in the patient.

Readers differ: nibabel takes the sform, ITK in some cases the qform, and if neither is set, each takes axes
and an origin of its own. So a mask has all these fields from the header of its scan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SROW = 280  # byte of a NIfTI-1 header at which the sform begins: 12 numbers in float32
# The fields as they are in a NIfTI-1 header: the first ends before the others begin.
PACKED: np.dtype[Any] = np.dtype(
    [
        ("pixdim", "<f4", 4),
        ("qcode", "<i2"),
        ("scode", "<i2"),
        ("quatern", "<f4", 3),
        ("qoffset", "<f4", 3),
        ("srow", "<f4", (3, 4)),
    ]
)
PIXDIM, CODES = 76, 252  # bytes of a NIfTI-1 header at which the two parts of these fields begin
DIRECTIONS = "the directions of the axes"  # in the note on a sform and a qform that disagree in them
NO_SFORM = "the sform is set and has zeros alone: the qform is used"


@dataclass(frozen=True)
class Forms:
    """The forms of a header.

    Parameters
    ----------
    spacing_mm
        (3,): pixdim of the three axes.
    qform, sform
        (4, 4): voxel index (i, j, k, 1) to mm in RAS; None if its code is 0.
    packed
        All fields that place the voxels, as the bytes of `PACKED`.
    """

    spacing_mm: NDArray[np.float64]
    qform: NDArray[np.float64] | None
    sform: NDArray[np.float64] | None
    packed: bytes

    @classmethod
    def parse(cls, field: Any) -> Forms:
        """Return the forms of a header, whose fields have the names of `PACKED`."""
        pixdim = np.asarray(field["pixdim"], dtype=np.float64)
        qform = _qform(field, pixdim) if field["qcode"] > 0 else None
        sform = _square(field["srow"]) if field["scode"] > 0 else None
        return cls(pixdim[1:4], qform, sform, _packed(field))

    @classmethod
    def unpack(cls, packed: bytes) -> Forms:
        """Return the forms from their bytes."""
        return cls.parse(np.frombuffer(packed, PACKED)[0])

    def place(self, shape: Sequence[int]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Return the affine (4, 4) to mm in LPS, and the notes about it, for voxels of this shape."""
        if self.sform is None and self.qform is None:
            # The standard, nibabel and ITK give three different answers here. ITK's is taken, because
            # most viewers are built on it: axes along LPS, origin 0.
            affine = np.diag([*self.spacing_mm, 1.0])
            return affine, ("neither sform nor qform is set: left and right, front and back are not known",)
        if self.sform is None or self.qform is None:
            only = np.asarray(self.qform if self.sform is None else self.sform)
            return RAS_TO_LPS @ only, self._spacing_notes(shape, only)
        if not self.sform[:3, :3].any():  # its code was set, and not its numbers
            return RAS_TO_LPS @ self.qform, (NO_SFORM,)
        corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape[:3])[:, None] - 1)
        gap = (self.sform - self.qform) @ np.vstack([corners, np.ones(8)])
        off_mm = float(np.linalg.norm(gap, axis=0).max())
        agree = off_mm <= self._slack_mm(shape)
        if agree:
            return RAS_TO_LPS @ self.sform, ()
        also = f", also in {DIRECTIONS}" if _are_contrary(self.sform, self.qform) else ""
        note = f"sform and qform disagree by up to {off_mm:.3g} mm{also}: the sform is used"
        return RAS_TO_LPS @ self.sform, (note,)

    def _slack_mm(self, shape: Sequence[int]) -> float:
        # A quaternion in float32 is good to about 7e-4 rad at its worst: 0.7 mm at the far end of 1 m.
        reach_mm = float(np.linalg.norm((np.array(shape[:3]) - 1) * self.spacing_mm))
        return max(0.2, 0.25 * float(self.spacing_mm.min()), 7e-4 * reach_mm)

    def _spacing_notes(self, shape: Sequence[int], affine: NDArray[np.float64]) -> tuple[str, ...]:
        """Return a note if the header's spacing differs from that of its only sform or qform."""
        found, stated = np.linalg.norm(affine[:3, :3], axis=0), self.spacing_mm
        off_mm = np.abs(found - stated) * (np.array(shape[:3]) - 1)
        if not off_mm.max() > self._slack_mm(shape):
            return ()
        what = (
            f"pixdim is {stated.round(4).tolist()} mm, the spacing of the sform {found.round(4).tolist()} mm"
        )
        return (f"{what}: the sform is used",)


def placing(packed: bytes) -> dict[int, bytes]:
    """Return byte of a NIfTI-1 header -> bytes that begin there, for the fields of `PACKED`."""
    first = PACKED["pixdim"].itemsize
    return {PIXDIM: packed[:first], CODES: packed[first:]}


def _packed(field: Any) -> bytes:
    packed = np.zeros((), PACKED)
    with np.errstate(over="ignore"):  # numbers of NIfTI-2 that no scan has
        for name in ("quatern", "qoffset", "srow"):
            packed[name] = field[name]
        packed["pixdim"] = field["pixdim"][:4]
    for name in ("qcode", "scode"):
        packed[name] = np.clip(int(field[name]), -(1 << 15), (1 << 15) - 1)
    return packed.tobytes()


def _qform(field: Any, pixdim: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the qform in RAS, from its quaternion (nifti1.h, method 2)."""
    b, c, d = (float(v) for v in field["quatern"])
    length = b * b + c * c + d * d
    if length > 1:
        b, c, d = (v / math.sqrt(length) for v in (b, c, d))
    a = math.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    side = -1.0 if pixdim[0] < 0 else 1.0
    return _square(np.column_stack([turn * pixdim[1:4] * [1, 1, side], field["qoffset"]]))


def _square(rows: Any) -> NDArray[np.float64]:
    return np.vstack([np.asarray(rows, dtype=np.float64), [0, 0, 0, 1]])


def _are_contrary(sform: NDArray[np.float64], qform: NDArray[np.float64]) -> bool:
    """Return whether an axis has directions that differ by more than 45 degrees.

    Then the forms name different sides of the patient for it, or different axes.
    """
    one, other = sform[:3, :3], qform[:3, :3]
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return bool(((one * other).sum(axis=0) < math.sqrt(0.5) * lengths).any())
