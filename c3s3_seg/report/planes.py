"""Cut axial, coronal and sagittal planes out of a scan and its masks, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.axis_order import AxisPermutation
from c3s3_seg.geometry.volume import Array, Geometry, Volume

FIELD_MARGIN_MM = 30.0


@dataclass(frozen=True)
class Plane:
    """One of the three planes: its name, the axis it is cut across, and the axes that run right and down.

    Axes 0, 1, 2 are x to the left, y to the back, z to the head; the letters stand at the left, right,
    top and bottom edge.
    """

    name: str
    across: int
    right: int
    down: int
    letters: str


PLANES = (
    Plane("Axial", 2, 0, 1, "RLAP"),
    Plane("Coronal", 1, 0, 2, "RLHF"),
    Plane("Sagittal", 0, 1, 2, "APHF"),
)


@dataclass(frozen=True)
class SliceNumber:
    """The number of the slice that a plane shows, from 1 in the order of the file, and the slice count."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, eq=False)
class Panel:
    """One plane cut out: intensities (rows, columns) uint8, masks of that shape, and a voxel's size in mm.

    `mark` is the column and the row of a point to be marked, in voxels from the top left corner.
    """

    plane: Plane
    grey: NDArray[np.uint8]
    masks: tuple[Array, ...]
    row_mm: float
    column_mm: float
    slice: SliceNumber
    mark: tuple[float, float] | None = None

    @property
    def size_mm(self) -> tuple[float, float]:
        """The width and height in mm."""
        return self.grey.shape[1] * self.column_mm, self.grey.shape[0] * self.row_mm


@dataclass(frozen=True)
class PatientOrder:
    """The axes of a grid in patient order: x to the left, y to the back, z to the head.

    Oblique axes are taken as the nearest patient axes.

    Parameters
    ----------
    axes
        Axis of the grid for each patient axis.
    backwards
        Whether the grid runs against each patient axis.
    counts, spacing_mm
        Number of voxels, and their size, along the patient axes.
    """

    axes: tuple[int, int, int]
    backwards: tuple[bool, bool, bool]
    counts: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, geometry: Geometry) -> PatientOrder:
        """Return the order of a grid."""
        axes, backwards = geometry.patient_axes
        x, y, z = axes
        shape, spacing = geometry.shape, geometry.spacing_mm.tolist()
        counts = (shape[x], shape[y], shape[z])
        return cls((x, y, z), backwards, counts, (spacing[x], spacing[y], spacing[z]))

    def turned(self, array: Array) -> Array:
        """Return a view of an array in patient order: (i, j, k) -> (x, y, z)."""
        return AxisPermutation(self.axes, self.backwards).view(array)

    def voxel(self, index: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the place (x, y, z) of a voxel (i, j, k) in the turned array."""
        x, y, z = (
            count - 1 - index[axis] if flip else index[axis]
            for axis, flip, count in zip(self.axes, self.backwards, self.counts, strict=True)
        )
        return x, y, z

    def slice_number(self, axis: int, place: int) -> SliceNumber:
        """Return the slice of the file at a place along a patient axis."""
        count = self.counts[axis]
        return SliceNumber(count - place if self.backwards[axis] else place + 1, count)


def cut(scan: Volume, masks: Sequence[Array], through: tuple[int, int, int] | None = None) -> list[Panel]:
    """Return the three planes with sizes in mm, in radiological view.

    Parameters
    ----------
    scan
        Intensities (i, j, k). Oblique axes are taken as the nearest patient axes.
    masks
        (i, j, k) each, bool or label values; the field is the box around them with a margin of 30 mm or half
        of the box, whichever is larger.
    through
        Voxel of the scan in which the planes meet. None: where the first mask has its largest area.
    """
    order = PatientOrder.of(scan.geometry)
    array, *turned = (order.turned(item) for item in (scan.array, *masks))
    meet = order.voxel(through) if through is not None else None
    field = field_around(turned, order.spacing_mm)
    low, high = intensity_window(scan.array)
    panels = []
    for plane in PLANES:
        where: list[slice | int] = list(field)
        place = meet[plane.across] if meet else largest_plane(turned[0], plane.across)
        where[plane.across] = place
        index = tuple(where)
        grey = np.clip((_displayed(array[index], plane).astype(np.float64) - low) / (high - low), 0, 1)
        panels.append(
            Panel(
                plane=plane,
                grey=np.nan_to_num(grey * 255).round().astype(np.uint8),
                masks=tuple(_displayed(mask[index], plane) for mask in turned),
                row_mm=order.spacing_mm[plane.down],
                column_mm=order.spacing_mm[plane.right],
                slice=order.slice_number(plane.across, place),
                mark=_mark(meet, field, plane, turned[0].shape) if meet else None,
            )
        )
    return panels


def _mark(
    meet: tuple[int, int, int], field: list[slice], plane: Plane, shape: tuple[int, ...]
) -> tuple[float, float]:
    """Return the column and row of the centre of the voxel in which the planes meet, in the picture."""
    ends = [part.indices(size)[:2] for part, size in zip(field, shape, strict=True)]
    column = meet[plane.right] - ends[plane.right][0]
    row = meet[plane.down] - ends[plane.down][0]
    if plane.down == 2:
        row = ends[2][1] - ends[2][0] - 1 - row
    return column + 0.5, row + 0.5


def _displayed(section: Array, plane: Plane) -> Array:
    """Return a section, with its axes in rising order, as (rows, columns) with the head up."""
    picture = section.T  # the axis that runs right comes first in all three planes
    return picture[::-1] if plane.down == 2 else picture


def largest_plane(mask: Array, axis: int) -> int:
    """Return the index along an axis where a mask (i, j, k) has its largest area; the middle if empty."""
    others = tuple(n for n in range(3) if n != axis)
    areas = np.count_nonzero(mask, axis=others)
    return int(areas.argmax()) if areas.any() else mask.shape[axis] // 2


def field_around(masks: Sequence[Array], spacing: tuple[float, float, float]) -> list[slice]:
    """Return the box around all masks (i, j, k) with a margin; the whole volume if all are empty.

    `spacing` is in mm along i, j, k.
    """
    field = []
    for axis in range(3):
        others = tuple(n for n in range(3) if n != axis)
        used = np.flatnonzero(np.any([mask.any(axis=others) for mask in masks], axis=0))
        if not used.size:
            return [slice(None)] * 3
        extent = int(used[-1] - used[0]) + 1
        margin = int(np.ceil(max(FIELD_MARGIN_MM / spacing[axis], extent / 2)))
        field.append(slice(max(0, int(used[0]) - margin), int(used[-1]) + 1 + margin))
    return field


def intensity_window(array: Array, ends: tuple[float, float] = (1, 99.5)) -> tuple[float, float]:
    """Return two percentiles of an array's (i, j, k) finite values, from some two million voxels at most.

    The second is always the larger one; without a finite value they are 0 and 1.
    """
    step = max(1, round((array.size / 2e6) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = np.percentile(sample, ends)
    least = max(1.0, abs(float(low)) * 1e-6)  # span of a constant scan, large enough for float64 to resolve
    return float(low), float(high if high > low else low + least)
