"""Preprocess scans from their grid to the model's grid.

The recipe is stored in the bundle and used by training and by inference, so that a network always
gets the input that it was trained on. Only permutations, flips and changes of spacing happen here, so
every step is separable along the axes and its inverse is exact in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.resample import orient, oriented, resample
from c3s3_seg.geometry.volume import Geometry, Volume, fits_float32
from c3s3_seg.system.schema import Rule, closed

FloatArray = NDArray[np.float32]
Millimetres = Annotated[float, Gt(0), Le(100)]

LONGEST_SIDE = 2**14
LARGEST_GRID = 2**29  # voxels of a model's grid: 2 GB. A whole body of 2 m at 1 mm has half of them
# Narrower than float32 itself (1e-38 to 3e38), since squares and sums of intensities are computed.
LEAST_SPAN, MOST_SPAN = 1e-30, 1e30
NOT_FINITE = "found NaN or infinite intensities; wanted numbers"
RESCALE = "Look at its header and its intensities, and export it with the values that it is meant to have"


class FlatScanError(InputError):
    """A scan, or a part of a scan, with no contrast left for a network."""


@closed
@dataclass(frozen=True)
class Intensity:
    """The rule that turns intensities into network input.

    Parameters
    ----------
    rule
        `zscore`: zero mean and unit variance over the whole volume (the published LA setting).
        `window`: clip to [low, high] and scale to [0, 1] (CT, in Hounsfield units).
    low, high
        The window's ends; only for `window`.
    """

    rule: Literal["zscore", "window"] = "zscore"
    low: float = 0.0
    high: float = 1.0

    def __call__(self, array: FloatArray, offset: float = 0.0) -> FloatArray:
        """Turn intensities (i, j, k), less `offset`, into network input; `zscore` makes a flat volume 0."""
        if self.rule == "window":
            low, high = self.low - offset, self.high - offset
            span = np.float32(self.high - self.low)
            return np.asarray((array.clip(low, high) - np.float32(low)) / span, dtype=np.float32)
        mean = float(array.mean(dtype=np.float64))
        # Plane by plane, because numpy's own std allocates a volume in double precision.
        squares = sum(float(np.square(np.subtract(plane, mean, dtype=np.float64)).sum()) for plane in array)
        spread = (squares / array.size) ** 0.5
        largest = max(abs(float(array.min())), abs(float(array.max())))
        if spread <= 1e-6 * largest:  # resampling leaves rounding errors in a flat volume
            return np.zeros_like(array)
        scaled = array - np.float32(mean)
        scaled /= np.float32(spread)
        return np.asarray(scaled, dtype=np.float32)


def _is_window(rule: Intensity) -> bool:
    """Return whether a window's ends differ in single precision, in which they are used."""
    if rule.rule != "window":
        return True
    return max(abs(rule.low), abs(rule.high)) < 1e30 and bool(np.float32(rule.low) < np.float32(rule.high))


@closed
@dataclass(frozen=True)
class Recipe:
    """The preprocessing of a scan before the network, undone after it.

    Parameters
    ----------
    spacing_mm
        Voxel spacing of the model's grid along x, y, z.
    intensity
        The intensity rule.
    orientation
        Directions of the model's axes: the patient's left, posterior and superior side.
    """

    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    intensity: Annotated[Intensity, Rule(_is_window, "a window with low below high")] = Intensity()
    orientation: Literal["LPS"] = "LPS"

    def grid(self, scan: Geometry, where: Path | None = None) -> Geometry:
        """Return the model's grid for a scan: same field of view, axes nearest to LPS, this spacing.

        Parameters
        ----------
        scan
            Grid of the scan.
        where
            File of the scan, for the error message.

        Raises
        ------
        GeometryError
            If the grid would have more than `LARGEST_GRID` voxels, or `LONGEST_SIDE` along an axis.
        """
        reoriented = oriented(scan)
        with np.errstate(over="ignore", divide="ignore"):  # an infinite number is refused below
            sides = np.asarray(reoriented.shape) / (np.asarray(self.spacing_mm) / reoriented.spacing_mm)
            voxels = float(np.prod(np.maximum(sides, 1)))
        if not (voxels <= LARGEST_GRID and sides.max() <= LONGEST_SIDE):
            spacing, found = (" x ".join(f"{n:.3g}" for n in each) for each in (self.spacing_mm, sides))
            what = f"at the model's spacing of {spacing} mm this scan has {found} voxels"
            raise GeometryError(
                f"{what}, wanted at most {LARGEST_GRID:,} in all and {LONGEST_SIDE:,} along an axis",
                where=where,
                todo="See whether the voxel size in its header is true",
            )
        shape = [max(1, round(n)) for n in sides]
        # The field of view is kept exactly, so the spacing changes, by less than half a voxel over an axis.
        exact = np.asarray(reoriented.shape) / np.asarray(shape)
        affine = reoriented.affine.copy()
        affine[:3, :3] *= exact
        affine[:3, 3] = reoriented.to_mm((exact - 1) / 2)
        return Geometry((shape[0], shape[1], shape[2]), affine, scan.frame_uid)

    def to_model(self, scan: Volume) -> Volume:
        """Orient, resample and scale a scan: float32 on the model's grid.

        Raises
        ------
        InputError
            If float32 cannot hold the intensities (`intensity_defect`), or the grid is too large (`grid`).
        """
        exact = exact_in_float32(scan)
        grid = self.grid(scan.geometry, scan.source.path)
        oriented = orient(exact.array, scan.geometry)
        array = resample(oriented.astype(np.float32), grid.shape)
        return grid.volume(self.intensity(array, exact.offset), scan.source)

    def occupancy(self, mask: Volume, values: tuple[int, ...]) -> FloatArray:
        """Return the fraction of each model voxel that each label fills: (len(values), i, j, k) in [0, 1].

        These are soft targets for training; the mask is averaged, never sampled, so no boundary is lost.
        """
        grid = self.grid(mask.geometry, mask.source.path)
        oriented = orient(mask.array, mask.geometry)
        return np.stack([resample((oriented == v).astype(np.float32), grid.shape) for v in values])


def intensity_defect(array: NDArray[Any]) -> str:
    """Return why intensities (any shape) are unfit for a network, which computes in float32; empty if fit.

    An offset that all of the intensities share does no harm: it is subtracted first.
    """
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return NOT_FINITE
    span = float(high) - float(low)
    if span > MOST_SPAN or (0 < span < LEAST_SPAN):
        return (
            f"its intensities run from {float(low):.6g} to {float(high):.6g}, a range that float32 does not"
            f" hold; wanted one of {LEAST_SPAN:g} to {MOST_SPAN:g}"
        )
    return ""


def refuse_not_finite(scan: Volume) -> None:
    """Raise if an intensity is no number: also where no network will look, it changes quantiles and means.

    Raises
    ------
    InputError
        If a voxel is NaN or infinite.
    """
    found = scan.array
    if found.dtype.kind == "f" and not (np.isfinite(found.min()) and np.isfinite(found.max())):
        raise InputError(NOT_FINITE, where=scan.source.path, todo=RESCALE)


@dataclass(frozen=True)
class ExactScan:
    """Intensities that float32 holds without rounding different ones to the same number.

    Parameters
    ----------
    array
        (i, j, k) on the scan's grid: as read, or less `offset`.
    offset
        The number that was subtracted; usually 0.
    """

    array: NDArray[Any]
    offset: float = 0.0


def exact_in_float32(scan: Volume) -> ExactScan:
    """Return a scan's intensities in a form that may be converted to float32.

    Raises
    ------
    InputError
        If float32 cannot hold the intensities, see `intensity_defect`.
    """
    fault = intensity_defect(scan.array)
    if fault:
        raise InputError(fault, where=scan.source.path, todo=RESCALE)
    offset = _offset(scan.array)
    if not offset:
        return ExactScan(scan.array)
    # In the voxels' dtype if that is an integer, and so exact, else in float64; neither overflows here.
    kind = scan.array.dtype if scan.array.dtype.kind in "iu" else np.dtype(np.float64)
    kind = kind.newbyteorder("=")  # numpy computes in no other byte order
    return ExactScan(np.subtract(scan.array, kind.type(offset), dtype=kind), float(offset))


def refuse_flat(scan: Volume, prepared: Volume) -> None:
    """Raise if a scan has no contrast left for a network.

    Parameters
    ----------
    scan
        Scan as it was read.
    prepared
        Result of `Recipe.to_model` for this scan.

    Raises
    ------
    FlatScanError
        If all voxels of `prepared` are the same.
    """
    if not prepared.array.max() > prepared.array.min():
        raise flat(ExactScan(scan.array), scan.source.path)


def flat(scan: ExactScan, where: Path | None) -> FlatScanError:
    """Return the error for a scan with no contrast left for a network."""
    low, high = (float(value) + scan.offset for value in (scan.array.min(), scan.array.max()))
    found = (
        f"all its voxels are {low:.6g}"
        if low == high
        else f"its intensities run from {low:.6g} to {high:.6g}"
    )
    what = f"the intensities have no spread left on the model's grid and in its range: {found}"
    return FlatScanError(what, where=where, todo=RESCALE)


def _offset(array: NDArray[Any]) -> int | float:
    """Return the offset to subtract so that float32 can hold the intensities; 0 if none is needed."""
    return 0 if fits_float32(array) else array.min().item()
