"""Voxel grids in patient coordinates (`Geometry`), and arrays on them (`Volume`).

Axes are i, j, k = x, y, z everywhere. Positions are millimetres in LPS (x to the patient's left,
y to the back, z to the head), as in DICOM (PS3.3, C.7.6.2.1.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from c3s3_seg.errors import GeometryError, InputError, Told, shown

Array = NDArray[Any]
# float32 keeps 24 bits of a number. Intensities must keep 16 bits of their range at any offset.
KEPT_BITS = 16
UNIT_TOL = 1e-3  # of the length of a direction: headers and users round
# Two grids are the same if no voxel moves by more: 0.01 mm, and a tenth of a voxel if voxels are that small.
SAME_MM, SAME_PART = 1e-2, 0.1


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a scan.

    Parameters
    ----------
    shape
        Number of voxels along i, j, k.
    affine
        (4, 4) float64: voxel index (i, j, k, 1) -> patient position (x, y, z, 1) in mm, LPS.
        Index 0 is the centre of the first voxel.
    frame_uid
        DICOM frame of reference UID; None if there is none.

    Raises
    ------
    GeometryError
        If a size is no positive whole number, or the affine not finite, not affine or singular.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    frame_uid: str | None = None

    def __post_init__(self) -> None:
        sizes = _numeric(self.shape, "shape", (3,))
        if not (np.array_equal(sizes, np.rint(sizes)) and sizes.min() >= 1):
            what = f"found a grid of {shown(self.shape)} voxels, wanted three positive whole sizes"
            raise GeometryError(what)
        affine = _numeric(self.affine, "affine", (4, 4)).copy()
        if not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise GeometryError("the last row of the affine is not 0 0 0 1")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
            raise GeometryError(f"the affine is singular: spacing {shown(spacing)} mm")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(size) for size in sizes))
        object.__setattr__(self, "affine", affine)

    def __reduce__(self) -> Any:
        """Return function and arguments for copies and other processes, whose affine is read-only too."""
        return Geometry, (self.shape, self.affine, self.frame_uid)

    @classmethod
    def build(
        cls,
        shape: Sequence[int],
        spacing_mm: ArrayLike = (1.0, 1.0, 1.0),
        origin_mm: ArrayLike = (0.0, 0.0, 0.0),
        direction: ArrayLike | None = None,
        frame_uid: str | None = None,
    ) -> Geometry:
        """Return a grid from spacing and origin (mm) and a (3, 3) direction: its columns are axes i, j, k.

        Parameters
        ----------
        shape, frame_uid
            Same as in `Geometry`.
        spacing_mm
            (3,), or one number for all three axes: positive.
        origin_mm
            (3,): position of the centre of voxel (0, 0, 0), LPS.
        direction
            (3, 3), columns of length 1 (to 1e-3), LPS; None: the axes run to the left, back and head.

        Raises
        ------
        GeometryError
            If a size is no positive whole number, a spacing not positive, or the direction no such matrix.
        """
        spacing = _numeric(spacing_mm, "spacing", (), (3,))
        if not spacing.min() > 0:
            raise GeometryError(f"found a spacing of {shown(spacing)} mm, wanted positive numbers")
        axes = np.eye(3) if direction is None else _numeric(direction, "direction", (3, 3))
        if not np.abs(np.linalg.norm(axes, axis=0) - 1).max() <= UNIT_TOL:
            what = f"found columns of the direction of length {shown(np.linalg.norm(axes, axis=0))}, wanted 1"
            raise GeometryError(what, todo="Give the spacing in spacing_mm")
        affine = np.eye(4)
        affine[:3, :3] = axes * spacing
        affine[:3, 3] = _numeric(origin_mm, "origin", (3,))
        return cls(shape, affine, frame_uid)  # type: ignore[arg-type]  # its length is checked

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """(3,): distance of neighbouring voxel centres along i, j, k, in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), dtype=np.float64)

    @property
    def origin_mm(self) -> NDArray[np.float64]:
        """(3,): position of the centre of voxel (0, 0, 0), mm, LPS."""
        return self.affine[:3, 3]

    @property
    def direction(self) -> NDArray[np.float64]:
        """(3, 3): column n is the unit vector along which index n grows, LPS."""
        return np.asarray(self.affine[:3, :3] / self.spacing_mm, dtype=np.float64)

    @property
    def letters(self) -> str:
        """A letter for the side that each index grows to: `LPS` is left, back, head."""
        sides = ("LR", "PA", "SI")
        nearest = dict(zip(self.patient_axes[0], zip(sides, self.patient_axes[1], strict=True), strict=True))
        return "".join(side[int(against)] for side, against in (nearest[n] for n in range(3)))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def is_orthogonal(self) -> bool:
        """Whether the three axes are perpendicular to each other (to 1e-4): no shear, no gantry tilt."""
        return self._largest_cosine < 1e-4

    @property
    def shear_degrees(self) -> float:
        """The largest angle by which two axes are off a right angle; 0 if all are perpendicular."""
        return float(np.degrees(np.arcsin(min(1.0, self._largest_cosine))))

    @property
    def _largest_cosine(self) -> float:
        direction = self.direction
        return float(np.abs(direction.T @ direction - np.eye(3)).max())

    @property
    def patient_axes(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """The voxel axes nearest to left, posterior and superior, and whether each runs the opposite way.

        The best match of all three at once: matched one by one, an oblique grid could use one axis twice.
        """
        along = np.abs(self.direction)
        x, y, z = max(permutations(range(3)), key=lambda axes: float(along[range(3), axes].sum()))
        against = self.direction[range(3), (x, y, z)] < 0
        return (x, y, z), (bool(against[0]), bool(against[1]), bool(against[2]))

    def to_mm(self, index: ArrayLike) -> NDArray[np.float64]:
        """Convert voxel indices (..., 3), fractions allowed, to positions (..., 3) in mm, LPS."""
        return np.asarray(_points(index) @ self.affine[:3, :3].T + self.affine[:3, 3], dtype=np.float64)

    def to_index(self, position_mm: ArrayLike) -> NDArray[np.float64]:
        """Convert positions (..., 3) in mm, LPS, to voxel indices (..., 3) with fractions."""
        offsets = _points(position_mm) - self.affine[:3, 3]
        return np.asarray(offsets @ np.linalg.inv(self.affine[:3, :3]).T, dtype=np.float64)

    def apart_mm(self, other: Geometry) -> float:
        """Return the largest distance between the same corner voxels of two grids; infinite if shapes differ.

        Along an axis of one voxel, where corners show no step, the steps are compared, forwards or backwards:
        the voxel extends half a step to either side.
        """
        if self.shape != _grid(other).shape:
            return math.inf
        corners = [
            [c * (n - 1) for c, n in zip(corner, self.shape, strict=True)]
            for corner in product((0, 1), repeat=3)
        ]
        apart = [np.linalg.norm(self.to_mm(corners) - other.to_mm(corners), axis=1).max()]
        for axis in (n for n, size in enumerate(self.shape) if size == 1):
            one, two = self.affine[:3, axis], other.affine[:3, axis]
            apart.append(min(np.linalg.norm(one - two), np.linalg.norm(one + two)))
        return float(max(apart))

    def allowed_mm(self, other: Geometry, tol_mm: float = SAME_MM) -> float:
        """Return how far two grids may lie apart: `tol_mm`, and at most a tenth of the smallest spacing."""
        return min(tol_mm, SAME_PART * float(min(self.spacing_mm.min(), other.spacing_mm.min())))

    def matches(self, other: Geometry, tol_mm: float = SAME_MM) -> bool:
        """Return whether both grids have the same shape and lie within `allowed_mm` of each other.

        The frame of reference is not compared: a NIfTI mask of a DICOM scan has none.
        """
        return self.apart_mm(other) <= self.allowed_mm(other, tol_mm)

    def distance_note(self, other: Geometry, tol_mm: float = SAME_MM) -> str:
        """Return the end of a message on two grids, which may read the same; empty if their shapes differ."""
        if self.shape != other.shape:
            return ""
        allowed = self.allowed_mm(other, tol_mm)
        return f"; corners lie up to {self.apart_mm(other):.3g} mm apart, {allowed:.3g} mm allowed"

    def volume(self, array: Array, source: Source | None = None) -> Volume:
        """Return an array of this grid's shape as a volume on this grid: the way to create a mask."""
        return Volume(array, self, source or Source())

    def refuse_other_frame(self, frame_uid: object, path: Path, kind: str) -> None:
        """Raise if a drawing is in another frame of reference: positions cannot be compared (PS3.3, C.7.4.1).

        Parameters
        ----------
        frame_uid
            Frame of reference UID of the drawing; empty or None if unknown.
        path, kind
            File of the drawing, and its kind as the message names it.

        Raises
        ------
        GeometryError
            If both have a frame of reference, and the two differ.
        """
        frame = str(frame_uid or "")
        if frame and self.frame_uid and frame != self.frame_uid:
            what = f"this {kind} is in another frame of reference than the scan"
            raise GeometryError(what, where=path, todo="Give the series that it was drawn on")

    def __repr__(self) -> str:
        return f"Geometry(shape={self.shape}, spacing_mm={_numbers(self.spacing_mm)}, axes={self.letters})"

    def __str__(self) -> str:
        size = " x ".join(str(n) for n in self.shape)
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.2f}" for o in self.origin_mm)
        axes = "; ".join(" ".join(f"{v:.3g}" for v in axis) for axis in self.direction.T)
        return f"{size} voxels of {spacing} mm, origin ({origin}) mm, axes ({axes})"


@dataclass(frozen=True)
class Source:
    """The origin of a volume, without the patient's name, id or dates.

    `series` selects the series again among those at `path`: its UID, or its UID and its part.
    `sha256` is the `io.hashes.scan_sha256` of exactly the data that were read, if it was requested.
    `nifti_forms` are the fields of a NIfTI header that place its voxels, as bytes: a NIfTI file on the same
    grid is written with them, so that every reader sees it where it sees the original.
    """

    path: Path | None = None
    modality: str | None = None
    series_uid: str | None = None
    notes: tuple[str, ...] = field(default=())
    series: str | None = None
    sha256: str | None = None
    nifti_forms: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        """Give each note a version without file names, for records: see `errors.public`."""
        object.__setattr__(self, "notes", tuple(Told(note, named=True) for note in self.notes))


@dataclass(frozen=True, eq=False)
class Volume:
    """An array on its grid.

    Parameters
    ----------
    array
        (i, j, k) = (x, y, z), any real dtype.
    geometry
        Grid of the array.
    source
        Origin of the volume.

    Raises
    ------
    InputError
        If the array is no numpy array, or a masked one, or the grid no `Geometry`.
    GeometryError
        If the array's shape is not the grid's.
    """

    array: Array
    geometry: Geometry
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        if not (isinstance(self.array, np.ndarray) and isinstance(self.geometry, Geometry)):
            found = f"{type(self.array).__name__} and {type(self.geometry).__name__}"
            raise InputError(f"found {found}, wanted a numpy array and its Geometry")
        if isinstance(self.array, np.ma.MaskedArray):  # some functions of numpy heed its mask, others do not
            todo = "Give the voxels behind the mask a value: array.filled(value)"
            raise InputError("found a masked array, wanted one in which every voxel has a value", todo=todo)
        if self.array.shape != self.geometry.shape:
            raise GeometryError(
                f"found an array of {self.array.shape} for a grid of {self.geometry.shape} voxels"
            )

    def __repr__(self) -> str:
        grid = self.geometry
        modality = f", modality={self.source.modality}" if self.source.modality else ""
        spacing = _numbers(grid.spacing_mm)
        return f"Volume(shape={grid.shape}, spacing_mm={spacing}, dtype={self.array.dtype}{modality})"


def _numeric(values: ArrayLike, name: str, *shapes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return an argument of `Geometry` or its `build` as finite float64 of one of these shapes."""
    with suppress(TypeError, ValueError, OverflowError):
        given = np.asanyarray(values)
        # numpy would take the real part, the days since 1970, and what a mask hides.
        if given.dtype.kind in "iufO" and not isinstance(given, np.ma.MaskedArray):
            found = np.asarray(given, dtype=np.float64)
            if found.shape in shapes and np.isfinite(found).all():
                return found
    size = " x ".join(str(n) for n in shapes[-1])
    raise GeometryError(f"found the {name} {shown(values)}, wanted {size} finite numbers")


def _points(values: ArrayLike) -> NDArray[np.float64]:
    """Return an argument of `to_mm` or `to_index` as float64 (..., 3)."""
    with suppress(TypeError, ValueError, OverflowError):
        found = np.asarray(values, dtype=np.float64)
        if found.shape[-1:] == (3,):
            return found
    raise GeometryError(f"found the points {shown(values)}, wanted numbers of shape (..., 3)")


def _grid(found: object) -> Geometry:
    if isinstance(found, Geometry):
        return found
    todo = "That of a Volume is volume.geometry"
    raise InputError(f"found {type(found).__name__}, wanted a Geometry", todo=todo)


def _numbers(values: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def fits_float32(array: Array) -> bool:
    """Return whether float32 keeps intensities (any shape) finite and `KEPT_BITS` of their range."""
    if array.dtype.kind not in "iuf" or (array.dtype.kind != "f" and array.dtype.itemsize <= 2):
        return True
    exact = float if array.dtype.kind == "f" else int  # float64 merges whole numbers beyond 2^53
    low, high = exact(array.min()), exact(array.max())
    largest = max(abs(low), abs(high))
    if not largest <= float(np.finfo(np.float32).max):
        return False
    return low == high or largest * 2.0**-24 <= (high - low) * 2.0**-KEPT_BITS


def narrow(array: Array) -> Array:
    """Return intensities (any shape) as float32 if that holds them, else as float64.

    In float32, a scan with a large offset (values just above 1e8) would lose its contrast.
    """
    return np.asarray(array, dtype=np.float32 if fits_float32(array) else np.float64)
