"""Build a mask on the scan's grid from probabilities on the model's grid, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from c3s3_seg.bundle import Task
from c3s3_seg.errors import InputError, shown
from c3s3_seg.geometry.resample import orient
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference.arrays import HOST, ArrayOperations
from c3s3_seg.inference.postprocess import Postprocessing, postprocess_all
from c3s3_seg.inference.streaming import Slab
from c3s3_seg.inference.tiling import Array, FloatArray, Shape, mean
from c3s3_seg.inference.to_scan_grid import Block, ScanGridResampler
from c3s3_seg.inference.uncertainty import Disagreement, DisagreementMap, Labels, NetworkComparison


@dataclass
class MaskBuilder:
    """A builder of one mask; each instance is used once.

    Parameters
    ----------
    task
        Task with labels and recipe.
    grid
        Grid of the mask: that of the part of the scan that is segmented.
    networks
        Number of compared networks; 1: the slabs hold one set of classes.
    leading
        Number of the compared networks, from the first, that make the mask.
    probabilities
        Whether to keep the probability of each label.
    arrays
        Array operations of the slabs. The mask and all other results are on the host.
    """

    task: Task
    grid: Geometry
    networks: int = 1
    leading: int = 1
    probabilities: bool = False
    arrays: ArrayOperations = HOST
    mask: Labels = field(init=False)
    kept: dict[str, FloatArray] = field(init=False)

    def __post_init__(self) -> None:
        self.mask = np.zeros(self.grid.shape, dtype=np.uint8)
        labels = self.task.labels if self.probabilities else ()
        self.kept = {label.name: np.zeros(self.grid.shape, np.float32) for label in labels}
        self._compared = (
            DisagreementMap(self.task, self.grid.shape, self.networks) if self.networks > 1 else None
        )

    def fill(self, slabs: Iterable[Slab], shape: Shape) -> None:
        """Write the most probable label of each voxel into the mask.

        Parameters
        ----------
        slabs
            Probabilities on the model's grid.
        shape
            Voxels (x, y, z) of that grid.

        Raises
        ------
        InputError
            If a slab has other classes, networks or sides, or slabs are missing.
        """
        mask = orient(self.mask, self.grid)
        goal = self.arrays.workspace(mask)
        wanted = [orient(array, self.grid) for array in self.kept.values()]
        x, y, z = goal.shape
        everything = self.probabilities or self._compared is not None
        resampler = ScanGridResampler(shape, (x, y, z), self.task.classes, all_of_it=everything)
        for block in resampler(self._fitting(slabs, shape)):
            self._decide(block, goal[block.where], [array[block.where] for array in wanted])
            if self._compared is not None:
                self._compared.add(block, self.grid)
        self.arrays.put(mask, goal)

    def _fitting(self, slabs: Iterable[Slab], shape: Shape) -> Iterator[Slab]:
        """Yield the slabs; raise if one is not of this grid, these classes and as many networks."""
        channels = self.networks * self.task.classes
        for slab in slabs:
            wanted = (
                channels,
                *shape[: slab.axis],
                slab.values.shape[1 + slab.axis],
                *shape[slab.axis + 1 :],
            )
            if tuple(slab.values.shape) != wanted:
                what = (
                    f"found probabilities of shape {shown(tuple(slab.values.shape))}, wanted {shown(wanted)}"
                )
                raise InputError(what, todo="Run the networks of this task on this scan")
            yield slab

    def postprocess(self, wanted: Postprocessing) -> dict[str, dict[str, float]]:
        """Postprocess the mask and the compared masks; return label -> changes to the mask, in ml."""
        done = self._postprocess(self.mask, wanted)
        for mask in self._compared.masks if self._compared is not None else ():
            self._postprocess(mask, wanted)
        return done

    def volume_ml(self) -> dict[str, float]:
        """Return label name -> volume of the mask as it is, 0 if no voxel has the label."""
        # Plane by plane, because bincount takes 8 bytes per voxel.
        counts = np.asarray(sum(np.bincount(plane.ravel(), minlength=256) for plane in self.mask))
        return {x.name: float(counts[x.value] * self.grid.voxel_ml) for x in self.task.labels}

    def uncertainty(self, comparison: NetworkComparison) -> Disagreement | None:
        """Return how far the networks differ; None if no networks are compared."""
        return None if self._compared is None else self._compared.finish(self.grid, comparison)

    def _decide(self, block: Block, mask: Array, kept: list[FloatArray]) -> None:
        """Write the most probable class of each voxel of a block; of equal ones the first, as argmax does."""
        best = self._class(block, 0)
        for number, label in enumerate(self.task.labels, start=1):
            found = self._class(block, number)
            mask[found > best] = label.value
            if number < len(self.task.labels):
                best = self.arrays.larger(best, found)
            if kept:
                self.arrays.put(kept[number - 1], found)

    def _class(self, block: Block, number: int) -> Array:
        """Return the probability of a class: the mean of the leading networks, if they were kept apart."""
        if self.networks == 1 or self.leading == 1:
            return block.channel(number)
        classes, count = self.task.classes, self.leading
        return mean((block.channel(n * classes + number) for n in range(count)), count)

    def _postprocess(self, mask: Labels, wanted: Postprocessing) -> dict[str, dict[str, float]]:
        done = postprocess_all(mask, self.task.label_values.values(), wanted, self.grid.voxel_ml)
        return {name: done[value] for name, value in self.task.label_values.items() if value in done}
