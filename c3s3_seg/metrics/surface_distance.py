"""Find the surfaces of masks and measure the exact distances between them.

The surface of a mask is the mask minus its erosion by the 6-neighbour cross, where everything outside of
the image is background. Distances are measured between voxel centres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from c3s3_seg.errors import InputError, shown
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.metrics.nearest import Floats, Neighbours, Points, nearest

Mask = NDArray[np.bool_]
Labels = NDArray[Any]

# A spacing that was float32 in a file header has a relative error of 6e-8; a distance that equals the
# tolerance must still count as within the tolerance.
NSD_SLACK = 1e-6

SLAB = 1 << 18  # voxels


@dataclass(frozen=True, eq=False)
class Surfaces:
    """The distances between two surfaces, measured once; every boundary metric is computed from them.

    Parameters
    ----------
    d_pt
        (n,) float64: from each surface voxel of the first mask to the second's surface.
    d_tp
        (m,) float64: from each surface voxel of the second mask to the first's surface.

    Both are in the unit of the spacing. If one mask is empty, its own distances are an empty array and the
    other's are all inf. Every metric is nan if both masks are empty and inf (`nsd`: 0) if one is.
    """

    d_pt: Floats
    d_tp: Floats

    def hd95(self) -> float:
        """Return the 95th percentile of both directions pooled (equals medpy `hd95`)."""
        return self._measure(lambda: np.percentile(self._pooled(), 95))

    def hd95_max(self) -> float:
        """Return the larger of the two directed 95th percentiles (equals MONAI and MetricsReloaded)."""
        return self._measure(lambda: max(np.percentile(self.d_pt, 95), np.percentile(self.d_tp, 95)))

    def hd(self) -> float:
        """Return the largest distance of both directions: the Hausdorff distance."""
        return self._measure(lambda: max(self.d_pt.max(), self.d_tp.max()))

    def asd(self) -> float:
        """Return the mean of `d_pt`, one direction (equals medpy `asd`)."""
        return self._measure(lambda: self.d_pt.mean())

    def assd(self) -> float:
        """Return the mean of both directions pooled (equals medpy `assd`)."""
        return self._measure(lambda: self._pooled().mean())

    def masd(self) -> float:
        """Return the mean of the two directed means."""
        return self._measure(lambda: (self.d_pt.mean() + self.d_tp.mean()) / 2)

    def nsd(self, tolerance: float) -> float:
        """Return the share of both surfaces' voxels within `tolerance` + 1e-6; one empty: 0, both: nan."""
        total = self.d_pt.size + self.d_tp.size
        if total == 0:
            return math.nan
        reach = tolerance + NSD_SLACK
        return float(np.count_nonzero(self.d_pt <= reach) + np.count_nonzero(self.d_tp <= reach)) / total

    def _pooled(self) -> Floats:
        return np.concatenate((self.d_pt, self.d_tp))

    def _measure(self, metric: Callable[[], float]) -> float:
        if self.d_pt.size and self.d_tp.size:
            return float(metric())
        return math.inf if self.d_pt.size or self.d_tp.size else math.nan


@dataclass(frozen=True, eq=False)
class LabelPair:
    """The voxel counts of one label in the first mask, the second and both, and its surface distances."""

    first: int
    second: int
    both: int
    surfaces: Surfaces


def step_mm(geometry: Geometry) -> Floats:
    """Return the spacing of a grid in mm for the argument `spacing` of `surface_distances`.

    Returns
    -------
    Floats
        (3,) float64: the spacing, which keeps distances along an axis exact; (3, 3), one step vector per
        column, only if the axes are not perpendicular (gantry tilt).
    """
    return geometry.spacing_mm if geometry.is_orthogonal else geometry.affine[:3, :3]


def surface_distances(a: Mask, b: Mask, spacing: ArrayLike) -> Surfaces:
    """Return the distances between the surfaces of two masks, in both directions.

    Parameters
    ----------
    a, b
        (i, j, k) bool, the same shape.
    spacing
        (3,): distance of neighbouring voxels along i, j, k; or (3, 3): the step vectors along i, j, k,
        one per column, for a grid whose axes are not perpendicular. Its unit becomes the unit of the
        distances.

    Returns
    -------
    Surfaces
        `d_pt` from a to b, `d_tp` from b to a, in unspecified order. For empty masks see `Surfaces`.

    Raises
    ------
    InputError
        If the shapes differ (even if they would broadcast), are not 3D or not bool, or the spacing is
        not positive and finite.
    """
    if a.dtype != np.bool_ or b.dtype != np.bool_:
        raise InputError(f"found masks of {a.dtype} and {b.dtype}, wanted bool")
    return label_pairs(a, b, (1,), spacing)[1].surfaces


def label_pairs(a: Labels, b: Labels, labels: Sequence[int], spacing: ArrayLike) -> dict[int, LabelPair]:
    """Return voxel counts and surface distances of several labels, found in one pass over the volumes.

    Parameters
    ----------
    a, b
        (i, j, k) whole numbers, the same shape; 0 is the background.
    labels
        The label values to measure, none of them 0.
    spacing
        Same as in `surface_distances`.

    Returns
    -------
    dict
        Label -> its pair.

    Raises
    ------
    InputError
        As in `surface_distances`, except that masks of any dtype are accepted.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise InputError(f"found masks of shape {a.shape} and {b.shape}, wanted two 3D masks of one shape")
    # Arrays read from files are (z, y, x) in memory: planes are taken across the axis that keeps each
    # plane contiguous.
    axes = np.argsort([-abs(stride) for stride in b.strides], kind="stable")
    a, b = a.transpose(axes), b.transpose(axes)
    near = Neighbours.of(_step(spacing)[..., axes])
    box = union_box(a, b)
    a, b = a[box], b[box]
    on_a, on_b = _by_label(a, labels), _by_label(b, labels)
    return {label: _measure(a, b, label, (on_a[label], on_b[label]), near) for label in labels}


def surface_voxels(mask: Labels) -> tuple[Points, Labels]:
    """Return every voxel of a label that has one of its six neighbours outside of that label.

    Parameters
    ----------
    mask
        (i, j, k) whole numbers; 0 is the background, outside of the array is background too.

    Returns
    -------
    voxels, labels
        (3, n) indices in C order, and the (n,) labels of these voxels.
    """
    found = [np.empty((3, 0), dtype=np.intp)]
    labels = [np.empty(0, dtype=mask.dtype)]
    for start, stop in _slabs(mask.shape):
        edge = _edge(mask, start, stop)
        at = np.flatnonzero(edge)  # much faster than np.nonzero where hits are few
        voxels = np.stack(np.unravel_index(at, edge.shape))
        labels.append(mask[start:stop][tuple(voxels)])
        voxels[0] += start
        found.append(voxels)
    return np.concatenate(found, axis=1), np.concatenate(labels)


def union_box(a: Labels, b: Labels) -> tuple[slice, ...]:
    """Return the smallest box around the non-zero voxels of two masks (i, j, k); empty if there are none.

    No margin is needed: outside of the box is background, as `surface_voxels` assumes.
    """
    box = []
    sides = [_occupied(mask) for mask in (a, b)]
    for one, other in zip(*sides, strict=True):
        used = np.flatnonzero(one | other)
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0))
    return tuple(box)


def _occupied(mask: Labels) -> tuple[Mask, Mask, Mask]:
    """Return for each axis, (n,) bool, which planes across it are not all 0, in two passes over the array."""
    flat = np.asarray(mask.any(axis=0))
    return np.asarray(mask.any(axis=(1, 2))), np.asarray(flat.any(axis=1)), np.asarray(flat.any(axis=0))


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield ranges of planes that together fit the processor's cache, so that no volume is copied."""
    thick = max(1, SLAB // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], thick):
        yield start, min(start + thick, shape[0])


def _edge(mask: Labels, start: int, stop: int) -> Mask:
    """Return which foreground voxels of these planes differ from a neighbour: (stop - start, j, k) bool."""
    slab = mask[start:stop]
    edge = np.zeros(slab.shape, dtype=np.bool_)
    if not slab.any():
        return edge
    low, high = max(start - 1, 0), min(stop + 1, len(mask))
    above = start - low  # whether there is a plane before the first
    steps = mask[low + 1 : high] != mask[low : high - 1]
    edge[1 - above :] = steps[: len(slab) - 1 + above]
    edge[: len(steps) - above] |= steps[above : above + len(slab)]
    edge[0] |= start == 0
    edge[-1] |= stop == len(mask)
    for axis in (1, 2):
        line, out = np.moveaxis(slab, axis, 0), np.moveaxis(edge, axis, 0)
        steps = line[1:] != line[:-1]
        out[1:] |= steps
        out[:-1] |= steps
        out[0] = out[-1] = True
    edge &= slab != 0
    return edge


def _by_label(mask: Labels, labels: Sequence[int]) -> dict[int, Points]:
    """Return the surface voxels of each label: label -> (3, n)."""
    voxels, values = surface_voxels(mask)
    if len(labels) == 1:
        here = values == labels[0]
        return {labels[0]: voxels if here.all() else voxels[:, here]}
    order = np.argsort(values, kind="stable")
    values, voxels = values[order], voxels[:, order]
    ends = {label: np.searchsorted(values, label, side="right") for label in labels}
    return {label: voxels[:, np.searchsorted(values, label) : end] for label, end in ends.items()}


def _measure(
    a: Labels, b: Labels, label: int, surfaces: tuple[Points, Points], near: Neighbours
) -> LabelPair:
    on_a, on_b = surfaces
    both = np.concatenate(surfaces, axis=1)
    first = second = common = 0
    if both.size:
        box = tuple(slice(*ends) for ends in zip(both.min(axis=1), both.max(axis=1) + 1, strict=True))
        a, b = a[box], b[box]
        for start, stop in _slabs(a.shape):
            in_a, in_b = a[start:stop] == label, b[start:stop] == label
            first += int(np.count_nonzero(in_a))
            second += int(np.count_nonzero(in_b))
            common += int(np.count_nonzero(in_a & in_b))
    distances = Surfaces(nearest(on_a, on_b, near), nearest(on_b, on_a, near))
    return LabelPair(first, second, common, distances)


def _step(spacing: ArrayLike) -> Floats:
    step = np.asarray(spacing, dtype=np.float64)
    lengths = np.linalg.norm(step, axis=0) if step.ndim == 2 else step
    if step.shape not in ((3,), (3, 3)) or not np.isfinite(step).all() or lengths.min() <= 0:
        raise InputError(f"found the spacing {shown(step)}, wanted three positive numbers")
    return step
