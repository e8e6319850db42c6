"""Disagreement of networks about one scan: a map along the boundary, and one number in mm per label.

The two networks of a run were trained to compete on the same data, so the mask is uncertain where they
differ. Of more than two, as in an ensemble of folds, the first is compared with the mean of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle import Task
from c3s3_seg.geometry.resample import orient
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference.memory import PART
from c3s3_seg.inference.tiling import Array, FloatArray, mean
from c3s3_seg.inference.to_scan_grid import Block
from c3s3_seg.metrics.surface_distance import step_mm, surface_distances
from c3s3_seg.report.numbers import COLUMNS, rounded

Labels = NDArray[np.uint8]

BAND = 2.0  # reach of the map from a boundary, in voxels of the model's grid


@dataclass(frozen=True)
class NetworkComparison:
    """The rules for comparing networks.

    Parameters
    ----------
    leading
        Number of networks, from the first, that make the mask. The first is always compared with the mean
        of the others.
    threshold_mm
        95HD between the two masks above which a case is flagged; None if it was not calibrated.
    """

    leading: int = 1
    threshold_mm: float | None = None


@dataclass(frozen=True)
class Disagreement:
    """The disagreement between the first network and the mean of the others.

    Parameters
    ----------
    map
        (i, j, k) float32 on the scan's grid, 0 to 1: the total variation distance between the two
        probabilities (half the sum of |differences| over all classes), near the boundary of either
        mask and wherever their labels differ; 0 elsewhere.
    hd95_mm
        Label name -> 95HD between the two masks, each postprocessed as the final mask is. inf if only
        one mask has the label, nan if neither has.
    threshold_mm
        Same as in `NetworkComparison`.
    """

    map: Volume
    hd95_mm: dict[str, float]
    threshold_mm: float | None

    @property
    def flagged(self) -> bool | None:
        """Whether a label is uncertain: beyond the threshold, or in one mask only. None without a threshold.

        A label in neither mask is no disagreement; a mask without labels is reported as `nothing_found`.
        """
        if self.threshold_mm is None:
            return None
        return any(value > self.threshold_mm for value in self.hd95_mm.values())

    def note(self) -> str | None:
        """Return a sentence for the reader of a flagged case; None if the case is not flagged."""
        if self.threshold_mm is None or not self.flagged:
            return None
        worst = max(mm for mm in self.hd95_mm.values() if not math.isnan(mm))
        decimals = COLUMNS["hd95_mm"][1]
        found = f"differ by {rounded(worst, decimals)} mm (95HD)"
        if not math.isfinite(worst):
            found = "do not both find every label"
        return f"uncertain: the networks {found}; the limit is {rounded(self.threshold_mm, decimals)} mm"


class DisagreementMap:
    """The masks of the first network and of the mean of the others, and their difference, built from blocks.

    Parameters
    ----------
    task
        Task whose classes the blocks hold, once for each network.
    shape
        Voxels of the scan, along the scan's own axes.
    networks
        Number of networks, at least 2.
    """

    def __init__(self, task: Task, shape: tuple[int, int, int], networks: int = 2) -> None:
        self._task, self._networks = task, networks
        self.masks: tuple[Labels, Labels] = (np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        self.distance: FloatArray = np.zeros(shape, np.float32)

    def add(self, block: Block, geometry: Geometry) -> None:
        """Add the networks' probabilities in a block of the scan of this geometry."""
        arrays = block.arrays
        best = [block.channel(0), self._others(block, 0)]
        total = abs(best[0] - best[1])
        masks = [arrays.zeros(total.shape, "uint8") for _ in self.masks]
        for number, label in enumerate(self._task.labels, start=1):
            found = [block.channel(number), self._others(block, number)]
            total += abs(found[0] - found[1])
            for mask, new, old in zip(masks, found, best, strict=True):
                mask[new > old] = label.value
            best = [arrays.larger(new, old) for new, old in zip(found, best, strict=True)]
        for whole, mask in zip(self.masks, masks, strict=True):
            arrays.put(orient(whole, geometry)[block.where], mask)
        arrays.put(orient(self.distance, geometry)[block.where], total / 2)

    def _others(self, block: Block, number: int) -> Array:
        """Return the mean probability of a class over all networks but the first."""
        classes, count = self._task.classes, self._networks - 1
        return mean((block.channel((n + 1) * classes + number) for n in range(count)), count)

    def finish(self, geometry: Geometry, comparison: NetworkComparison) -> Disagreement:
        """Keep the map near the boundaries of the postprocessed masks, or where they differ, and measure."""
        a, b = self.masks
        near = near_boundary(a, b, geometry, BAND * max(self._task.recipe.spacing_mm))
        self.distance[~near & (a == b)] = 0
        step = step_mm(geometry)
        hd95 = {
            label.name: surface_distances(a == label.value, b == label.value, step).hd95()
            for label in self._task.labels
        }
        return Disagreement(geometry.volume(self.distance), hd95, comparison.threshold_mm)


def near_boundary(a: Labels, b: Labels, geometry: Geometry, reach_mm: float) -> NDArray[np.bool_]:
    """Return the voxels (i, j, k) within `reach_mm` of a voxel at which either mask changes."""
    from scipy import ndimage

    edges = _edges(a) | _edges(b)
    near = np.zeros(a.shape, dtype=np.bool_)
    boxes = ndimage.find_objects(edges.view(np.uint8))
    if not boxes:
        return near
    margin = np.ceil(reach_mm / geometry.spacing_mm).astype(int)
    box = tuple(
        slice(max(0, part.start - m), part.stop + m) for part, m in zip(boxes[0], margin, strict=True)
    )
    # One part at a time, with the planes within reach, because the transform takes 46 bytes per voxel.
    inside, found, reach = edges[box], near[box], int(margin[0])
    step = max(1 + reach, PART // inside[0].size - 2 * reach)
    for start in range(0, len(inside), step):
        first = max(0, start - reach)
        part = inside[first : start + step + reach]
        if part.any():
            distance = ndimage.distance_transform_edt(~part, sampling=geometry.spacing_mm)
            found[start : start + step] = distance[start - first :][:step] <= reach_mm
    return near


def _edges(mask: Labels) -> NDArray[np.bool_]:
    """Return the voxels that share a face with a voxel of another label."""
    edges = np.zeros(mask.shape, dtype=np.bool_)
    for axis in range(3):
        along, found = np.moveaxis(mask, axis, 0), np.moveaxis(edges, axis, 0)
        changes = along[1:] != along[:-1]
        found[1:] |= changes
        found[:-1] |= changes
    return edges
