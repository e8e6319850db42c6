"""How far networks disagree about one scan: as a map along the boundary, and as one number in mm.

Two were trained to compete on the same data, so where they differ the answer is not sure. Of more than two,
as in an ensemble of folds, the first is compared with the mean of the others, which it took no part in.
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

BAND = 2.0  # how far from a boundary the map reaches, in voxels of the model's grid


@dataclass(frozen=True)
class NetworkComparison:
    """How to compare networks.

    Parameters
    ----------
    leading
        How many of the networks, from the first, make the mask. The first is always compared with the mean
        of the others.
    threshold_mm
        Above this 95HD between the two masks a case is flagged; None where nobody has calibrated it.
    """

    leading: int = 1
    threshold_mm: float | None = None


@dataclass(frozen=True)
class Disagreement:
    """What the first network and the others disagree about.

    Parameters
    ----------
    map
        (i, j, k) float32 on the scan's grid, 0 to 1: the total variation distance between the two
        answers' probabilities (half the sum of |differences| over all classes), near the boundary of
        either mask and wherever their labels differ; 0 elsewhere.
    hd95_mm
        Label name -> 95HD between the two masks, each postprocessed as the final one is. inf where one
        answer found nothing, nan where neither did.
    threshold_mm
        As in `NetworkComparison`.
    """

    map: Volume
    hd95_mm: dict[str, float]
    threshold_mm: float | None

    @property
    def flagged(self) -> bool | None:
        """Whether a label is uncertain: beyond the threshold, or found by one answer alone. None without one.

        A label that neither finds is no disagreement; a mask without any is reported as `nothing_found`.
        """
        if self.threshold_mm is None:
            return None
        return any(value > self.threshold_mm for value in self.hd95_mm.values())

    def note(self) -> str | None:
        """A sentence for the reader of a flagged case."""
        if self.threshold_mm is None or not self.flagged:
            return None
        worst = max(mm for mm in self.hd95_mm.values() if not math.isnan(mm))
        decimals = COLUMNS["hd95_mm"][1]
        found = f"differ by {rounded(worst, decimals)} mm (95HD)"
        if not math.isfinite(worst):
            found = "do not both find every label"
        return f"uncertain: the networks {found}; the limit is {rounded(self.threshold_mm, decimals)} mm"


class DisagreementMap:
    """Gathers blocks: the mask of the first network, that of the mean of the others, and where they differ.

    Parameters
    ----------
    task
        Whose classes the blocks hold, once for each network.
    shape
        Voxels of the scan, along the scan's own axes.
    networks
        How many, at least 2.
    """

    def __init__(self, task: Task, shape: tuple[int, int, int], networks: int = 2) -> None:
        self._task, self._networks = task, networks
        self.masks: tuple[Labels, Labels] = (np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        self.distance: FloatArray = np.zeros(shape, np.float32)

    def add(self, block: Block, geometry: Geometry) -> None:
        """Take what the networks say about a block of the scan of this geometry."""
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
        """The mean probability of a class over all networks but the first."""
        classes, count = self._task.classes, self._networks - 1
        return mean((block.channel((n + 1) * classes + number) for n in range(count)), count)

    def finish(self, geometry: Geometry, comparison: NetworkComparison) -> Disagreement:
        """After the masks were postprocessed: keep the map near their boundaries, and measure."""
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
    """Voxels (i, j, k) within `reach_mm` of a voxel at which either mask changes."""
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
    # A part at a time, each with the planes within reach: the transform takes 46 bytes for each voxel.
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
    """Voxels with a face on a voxel of another label."""
    edges = np.zeros(mask.shape, dtype=np.bool_)
    for axis in range(3):
        along, found = np.moveaxis(mask, axis, 0), np.moveaxis(edges, axis, 0)
        changes = along[1:] != along[:-1]
        found[1:] |= changes
        found[:-1] |= changes
    return edges
