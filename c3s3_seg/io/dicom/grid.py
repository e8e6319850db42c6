"""Compute the grid of a DICOM series from its slice positions, or refuse missing, uneven or tilted slices."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from c3s3_seg.errors import GeometryError, InputError, listed, shown
from c3s3_seg.io.dicom.header import PLACE_MM, Slice
from c3s3_seg.io.limits import SPACING_RANGE_MM

Floats = NDArray[np.float64]

EVEN_MM, EVEN_PART = 0.011, 0.02
DRIFT_PART = 0.5  # of a step: a slice that is further off lies nearer to the place of another slice
# Largest in-plane offset of slices that is no tilt: rounding, or a tenth of a pixel.
UPRIGHT_MM, UPRIGHT_PART = 0.05, 0.1
COSINE_TOL = 1e-4
# Directions and spacings of slices may differ if that moves no pixel by more than a tenth of a voxel.
FAR_EDGE_VOX = 0.1
SAME_VALUE = 1e-6  # differences below this are not worth a note


@dataclass(frozen=True)
class Stack:
    """The slices in order along the normal, grouped by place, and their geometry.

    Parameters
    ----------
    places
        The slices at each place.
    points_mm
        (places, 3): centre of the first pixel of each place, LPS.
    turn
        (3, 3): directions of i, j and the normal as columns.
    spacing_mm
        Spacing of the pixels along i, j.
    even, upright
        Whether the steps are equal, and whether the slices lie one straight above the other. A stack
        that is not both has no grid until it is repaired.
    notes
        Notes for the user.
    """

    places: tuple[tuple[Slice, ...], ...]
    points_mm: Floats
    turn: Floats
    spacing_mm: Floats
    even: bool
    upright: bool
    notes: tuple[str, ...]

    @property
    def offsets_mm(self) -> Floats:
        """(places, 3): offsets from the first place along i, j and the normal."""
        return np.asarray((self.points_mm - self.points_mm[0]) @ self.turn)

    @property
    def step_mm(self) -> float:
        """The mean step along the normal."""
        return float(self.offsets_mm[-1, 2]) / (len(self.places) - 1)

    @property
    def affine(self) -> Floats:
        """(4, 4): index (i, j, k, 1) to mm in LPS; valid for a stack that is even and upright."""
        affine = np.eye(4)
        affine[:3, :3] = self.turn * np.array([*self.spacing_mm, self.step_mm])
        affine[:3, 3] = self.points_mm[0]
        return affine


def numbers(item: Slice, keyword: str, count: int, root: Path) -> Floats:
    """Return the (count,) numbers of an attribute that a slice must have.

    Raises
    ------
    InputError
        If the numbers are missing, not `count` many or not finite.
    """
    values = item.numbers(keyword, count)
    if values is None:
        raise InputError(
            f"'{item.name}' has no valid {keyword}, so where its voxels are is not known", where=root
        )
    return values


def stack(slices: tuple[Slice, ...], root: Path, repair: Collection[str] = ()) -> Stack:
    """Order the slices and find their grid.

    Parameters
    ----------
    slices
        Slices of one series.
    root
        The folder that messages name.
    repair
        Repairs that follow: `gaps` and `tilt` admit slices that can be repaired.

    Raises
    ------
    InputError
        If the slices are fewer than two, differ in orientation or pixel spacing by more than a tenth of a
        voxel at their far edge, or one is missing.
    GeometryError
        If the slices are unevenly spaced, or not one straight above the other (gantry tilt).
    """
    points, turn, spacing, notes = _in_common(slices, root)
    heights = points @ turn[:, 2]
    order = np.lexsort((np.arange(len(slices)), heights))
    slices = tuple(slices[n] for n in order)
    points, heights = points[order], heights[order]
    upright = _is_untilted(slices, points, turn, UPRIGHT_PART * spacing.min(), "tilt" in repair, root)
    starts = np.flatnonzero(np.diff(heights, prepend=-np.inf) > PLACE_MM)
    places = tuple(slices[a:b] for a, b in zip(starts, [*starts[1:].tolist(), len(slices)], strict=True))
    if len(places) < 2:
        raise InputError(f"found slices at {len(places)} position; a volume needs two or more", where=root)
    _check_range(np.ptp(heights[starts]) / (len(places) - 1), "mean step between slices", root)
    even = _is_even(places, heights[starts], "gaps" in repair, root)
    # PS3.3, C.7.6.2.1.1: the row direction goes with the column index, and PixelSpacing is rows first.
    found = Stack(places, points[starts], turn, spacing[::-1], even, upright, notes)
    if not (even and upright):
        return found
    ideal = points[0] + np.arange(len(places))[:, None] * found.affine[:3, 2]
    off_mm = float(np.linalg.norm(points[starts] - ideal, axis=1).max())
    beside = (f"slices lie up to {off_mm:.3f} mm beside the even grid",) if off_mm > EVEN_MM else ()
    return replace(found, notes=(*notes, *beside))


def _in_common(slices: tuple[Slice, ...], root: Path) -> tuple[Floats, Floats, Floats, tuple[str, ...]]:
    """Return positions (slices, 3), directions (3, 3), pixel spacing (rows, columns), and notes."""
    cosines = _values(slices, "ImageOrientationPatient", 6, root)
    spacings = _values(slices, "PixelSpacing", 2, root)
    _check_range(spacings, "pixel spacing", root)
    spacing, points = _middle(spacings), _values(slices, "ImagePositionPatient", 3, root)
    turn, _ = _turn(cosines[0], slices[0], root)
    step = np.ptp(points @ turn[:, 2]) / max(len(slices) - 1, 1)
    alike = _Alike(slices, turn, np.array([*spacing[::-1], max(step, spacing.min())]), root)
    along = np.stack([cosines[:, :3] * spacing[1], cosines[:, 3:] * spacing[0]], axis=2)
    differ = alike.checked("ImageOrientationPatient", cosines, along)
    differ += alike.checked("PixelSpacing", spacings, turn[:, :2] * spacings[:, None, ::-1])
    turn, turned = _turn(_middle(cosines), slices[0], root)
    return points, turn, spacing, (*differ, *turned)


def _check_range(found: ArrayLike, what: str, root: Path) -> None:
    """Refuse distances that only a wrong unit explains; the limits are those for image files."""
    values, (low, high) = np.ravel(found), SPACING_RANGE_MM
    odd = values[(values < low) | (values > high)]
    if odd.size:
        message = f"found a {what} of {odd[0]:.6g} mm; wanted {low} to {high:g}"
        raise InputError(message, where=root, todo="Have the series exported again")


def _values(slices: tuple[Slice, ...], keyword: str, count: int, root: Path) -> Floats:
    """Return the numbers of an attribute in all slices: (slices, count)."""
    return np.array([numbers(item, keyword, count, root) for item in slices])


def _middle(values: Floats) -> Floats:
    """Return the midpoint of each column's extremes, which minimises the error of the worst slice."""
    low, high = values.min(axis=0), values.max(axis=0)
    return np.asarray(low + (high - low) / 2)


@dataclass(frozen=True)
class _Alike:
    """A check that all slices share an attribute, measured by the shift of the farthest pixel.

    Parameters
    ----------
    slices, root
        Slices of the series, and the folder that messages name.
    turn, voxel_mm
        The directions that are used for all slices, and the size of a voxel along them.
    """

    slices: tuple[Slice, ...]
    turn: Floats
    voxel_mm: Floats
    root: Path

    def checked(self, keyword: str, values: Floats, steps_mm: Floats) -> tuple[str, ...]:
        """Return a note if the values differ within rounding.

        Parameters
        ----------
        keyword, values
            The attribute, and its values (slices, n).
        steps_mm
            (slices, 3, 2): steps from pixel to pixel along i and j, by the values of each slice.

        Raises
        ------
        InputError
            If the values differ by more.
        """
        spread = float(np.ptp(values, axis=0).max())
        if spread == 0:
            return ()
        size = np.array([[s.number("Columns", 1) - 1, s.number("Rows", 1) - 1] for s in self.slices])
        ends_mm = (steps_mm - _middle(steps_mm)) * size[:, None]  # shifts of the last column and row
        moved_mm = np.stack([ends_mm[..., 0], ends_mm[..., 1], ends_mm.sum(axis=2)])
        edge = np.linalg.norm(moved_mm @ self.turn / self.voxel_mm, axis=2).max(axis=0)
        if edge.max() > FAR_EDGE_VOX:
            other = int(np.abs(values - values[0]).max(axis=1).argmax())
            raise InputError(
                f"the slices of the series differ in {keyword}: '{self.slices[0].name}' and"
                f" '{self.slices[other].name}', by what moves a pixel by {edge.max():.3g} voxels;"
                f" wanted {FAR_EDGE_VOX} at most",
                where=self.root,
                todo="Put the slices of each volume into a folder of their own",
            )
        if spread < SAME_VALUE:
            return ()
        return (
            f"the slices differ in {keyword} by up to {spread:.2g}, which is taken for rounding:"
            f" it moves no pixel by more than {edge.max():.2g} voxels",
        )


def _turn(cosines: Floats, first: Slice, root: Path) -> tuple[Floats, tuple[str, ...]]:
    """Return the directions of i, j and the normal as columns (3, 3); and a note if i and j were turned."""
    i, j = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(i), np.linalg.norm(j)
    if max(abs(length - 1) for length in lengths) > 1e-3:
        raise GeometryError(
            f"the axes of ImageOrientationPatient have lengths {shown(lengths)}; wanted 1", where=root
        )
    i, j = i / lengths[0], j / lengths[1]
    skew = float(i @ j)
    notes: tuple[str, ...] = ()
    if abs(skew) > COSINE_TOL:
        moved = abs(skew) / 2 * max(first.number("Columns", 1), first.number("Rows", 1))
        if moved > FAR_EDGE_VOX:
            raise GeometryError("the axes of ImageOrientationPatient are not perpendicular", where=root)
        i, j = i - skew / 2 * j, j - skew / 2 * i
        i, j = i / np.linalg.norm(i), j / np.linalg.norm(j)
        notes = (
            f"the axes of ImageOrientationPatient are {skew:.2g} off a right angle, which is taken for"
            f" rounding: it moves no pixel by more than {moved:.2g} voxels",
        )
    normal = np.cross(i, j)
    return np.column_stack([i, j, normal / np.linalg.norm(normal)]), notes


def _is_untilted(
    slices: tuple[Slice, ...], points: Floats, turn: Floats, limit: float, mend: bool, root: Path
) -> bool:
    """Return whether the positions show no gantry tilt; the tag for the tilt is often 0 or absent."""
    offsets = (points - points[0]) @ turn
    across = np.linalg.norm(offsets[:, :2], axis=1)
    if across.max() <= max(UPRIGHT_MM, limit):
        return True
    above = offsets[:, 2] > PLACE_MM  # a copy of the lowest slice has no direction from it
    tilts = offsets[above, :2] / offsets[above, 2:]
    straight = above.any() and np.linalg.norm(tilts - np.median(tilts, axis=0), axis=1).max() < 0.01
    if straight and across[~above].max() <= max(UPRIGHT_MM, limit):
        if mend:
            return False
        degrees = float(np.degrees(np.arctan(np.linalg.norm(np.median(tilts, axis=0)))))
        raise GeometryError(
            f"the gantry was tilted by {degrees:.3g} degrees: the slices shift sideways from one to the next",
            where=root,
            todo="Let it be corrected with --repair tilt, or use a reconstruction without tilt",
        )
    worst = slices[int(across.argmax())].name
    raise GeometryError(
        f"the slices do not lie one above the other: '{worst}' is {across.max():.3g} mm"
        f" beside '{slices[0].name}'",
        where=root,
    )


def _is_even(places: tuple[tuple[Slice, ...], ...], heights: Floats, mend: bool, root: Path) -> bool:
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    odd = np.flatnonzero(np.abs(gaps - usual) > max(EVEN_MM, EVEN_PART * usual))
    # Steps that differ by little, but all in one direction, add up.
    drift_mm = float(np.abs(heights - np.linspace(heights[0], heights[-1], len(heights))).max())
    even = not odd.size and drift_mm <= DRIFT_PART * usual
    if even or mend:
        return even
    whole = np.round(gaps[odd] / usual)
    if odd.size and (whole >= 2).all() and np.abs(gaps[odd] / usual - whole).max() < 0.1:
        where = listed(
            f"{gaps[n]:.4g} mm from '{places[n][0].name}' to '{places[n + 1][0].name}'" for n in odd
        )
        raise InputError(
            f"slices are missing ({int(whole.sum() - len(odd))}): {where},"
            f" where the usual step is {usual:.4g} mm",
            where=root,
            todo="Export the whole series again, or let the gaps be interpolated with --repair gaps",
        )
    raise GeometryError(
        f"the slices are unevenly spaced: the steps are {gaps.min():.4g} to {gaps.max():.4g} mm,"
        f" the widest at '{places[int(gaps.argmax())][0].name}',"
        f" and slices lie up to {drift_mm:.3g} mm beside an even grid",
        where=root,
        todo="Give an evenly spaced reconstruction, or let it be resampled with --repair gaps",
    )
