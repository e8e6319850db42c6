"""Scan in, mask out: recipe, tiles, runtime, stitching, and the way back to the scan's grid.

The three steps can be run apart, and each by a thread of its own: `prepare` scan n + 1 and `restore`
scan n - 1 while the `network` works on scan n. Nothing in a `Predictor` changes while it is used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle import Task
from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.inference.backends import Backend
from c3s3_seg.inference.budget import MEASURED_FILTERS, MULTIPLE, Budget, Costs, costs_of, smaller
from c3s3_seg.inference.choice import facts, notes
from c3s3_seg.inference.doubt import Doubt, Doubting, DoubtMap, Labels
from c3s3_seg.inference.hardware import available_memory
from c3s3_seg.inference.postprocess import tidy
from c3s3_seg.inference.restore import Block, Restorer
from c3s3_seg.inference.runtime import run
from c3s3_seg.inference.settings import Prediction, Settings
from c3s3_seg.inference.stream import Progress, Slab, stream
from c3s3_seg.inference.window import FloatArray, Shape, Tiling, mean, softmax
from c3s3_seg.recipe import orient, refuse_flat
from c3s3_seg.volume import Geometry, Source, Volume

__all__ = ["Answer", "Prediction", "Predictor", "Prepared", "Settings"]

RESAMPLING = 12  # bytes for each voxel of the model's grid, while a scan is brought to it
WHOLE_LIMIT = 1_500_000  # voxels of a single tile: 0.35 GB in OpenVINO, 0.8 GB in ONNX Runtime


@dataclass(frozen=True)
class Prepared:
    """A scan as the network wants it; the scan itself is no longer needed.

    Parameters
    ----------
    array
        (x, y, z) float32 on the model's grid.
    geometry, source
        Of the scan.
    seconds
        What it took.
    """

    array: FloatArray
    geometry: Geometry
    source: Source
    seconds: float

    @property
    def shape(self) -> Shape:
        """Voxels of the model's grid."""
        x, y, z = self.array.shape
        return x, y, z


@dataclass
class Answer:
    """What the networks say about a scan, to be taken once and in order.

    Parameters
    ----------
    slabs
        Probabilities of all classes; each slab holds until the next is asked for.
    tiling
        The tiles.
    seconds
        Spent in the networks so far.
    notes
        As in `Prediction`.
    """

    slabs: Iterator[Slab]
    tiling: Tiling
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class Predictor:
    """A task, the networks that do it, and the settings; call it with scans.

    Parameters
    ----------
    task
        From the bundle.
    backends
        One network, or several whose probabilities are averaged.
    settings
        How to run.
    costs
        What the networks take; None takes what was measured with 16 filters.
    doubting
        How to compare the networks, where the settings ask for it; None: all of them make the mask.
    remarks
        What else belongs in the JSON of each case.

    Raises
    ------
    InputError
        If a comparison is asked for and there is one network.
    """

    def __init__(
        self,
        task: Task,
        backends: Sequence[Backend],
        settings: Settings | None = None,
        costs: Costs | None = None,
        doubting: Doubting | None = None,
        remarks: Mapping[str, Any] | None = None,
    ) -> None:
        self.task, self.backends = task, tuple(backends)
        self.settings = (settings or Settings()).for_task(task)
        self.costs = costs or costs_of(self.backends[0].name, [MEASURED_FILTERS] * len(self.backends))
        self.remarks = dict(remarks or {})
        self.doubting = doubting or Doubting(leading=len(self.backends))
        if self.settings.uncertainty and len(self.backends) < 2:
            raise InputError("doubt is the difference of two networks, and there is one")

    @property
    def overlap(self) -> float | None:
        """What the settings ask for, else what the task does by default."""
        return self.settings.overlap

    def record(self) -> dict[str, Any]:
        """What decides the masks, for the JSON of each case: runtime, device, precision, settings."""
        where = {**facts(self.backends[0]), "networks": self.doubting.leading}
        return {**where, **self.settings.record(), **self.remarks}

    def __call__(self, scan: Volume, progress: Progress | None = None) -> Prediction:
        """Segment one scan.

        Parameters
        ----------
        scan
            On its own grid, any orientation and spacing.
        progress
            Called with (tiles done, all tiles).
        """
        prepared = self.prepare(scan)
        return self.restore(prepared, self.network(prepared, progress))

    def prepare(self, scan: Volume) -> Prepared:
        """First step: orient, resample and scale.

        Raises
        ------
        GeometryError
            If the model's grid has far too many voxels for a scan.
        InputError
            If nothing is left in it for a network to see, or its grey values are not what float32 holds.
        MemoryLimitError
            If the model's grid has more than the free memory holds.
        """
        started = time.perf_counter()
        voxels = int(np.prod(self.task.recipe.grid(scan.geometry).shape, dtype=np.int64))
        needed, free = RESAMPLING * voxels, available_memory()
        if free is not None and needed > free:
            what = f"at the model's spacing this scan takes {needed / 1e9:.1f} GB"
            raise MemoryLimitError(f"{what}, and {free / 1e9:.1f} GB are free", where=scan.source.path)
        prepared = self.task.recipe.to_model(scan)
        refuse_flat(scan, prepared)
        return Prepared(prepared.array, scan.geometry, scan.source, time.perf_counter() - started)

    def network(self, prepared: Prepared, progress: Progress | None = None) -> Answer:
        """Second step, which runs as its slabs are taken: the networks, tile by tile."""
        answer = Answer(iter(()), self._tiling(prepared))
        answer.notes += chain.from_iterable(notes(backend) for backend in self.backends)
        answer.slabs = self._slabs(prepared.array, answer, progress)
        return answer

    def restore(self, prepared: Prepared, answer: Answer) -> Prediction:
        """Third step: takes the slabs, and makes of them a mask on the scan's grid."""
        started = time.perf_counter()
        grid = prepared.geometry
        mask = np.zeros(grid.shape, dtype=np.uint8)
        compared = DoubtMap(self.task, grid.shape, len(self.backends)) if self.settings.uncertainty else None
        kept = self._fill(mask, prepared, answer, compared)
        tidied = self._tidy(mask, grid)
        doubt = None if compared is None else self._doubt(compared, grid)
        seconds = time.perf_counter() - started - answer.seconds
        counts = _counts(mask)
        return Prediction(
            mask=grid.volume(mask, prepared.source),
            volume_ml={x.name: float(counts[x.value] * grid.voxel_ml) for x in self.task.labels},
            seconds={"prepare": prepared.seconds, "network": answer.seconds, "restore": seconds},
            tiles=len(answer.tiling),
            probabilities={name: grid.volume(p, prepared.source) for name, p in kept.items()},
            tile=answer.tiling.tile,
            tidied=tidied,
            notes=tuple(answer.notes + [note for note in (doubt and doubt.note(),) if note]),
            doubt=doubt,
        )

    def _tiling(self, prepared: Prepared) -> Tiling:
        settings, patch, shape = self.settings, self.task.patch, prepared.shape
        if settings.stride is not None:
            return Tiling.stepping(shape, patch, settings.stride)
        overlap = 0.5 if settings.overlap is None else settings.overlap
        whole = Tiling.whole(shape, MULTIPLE)
        fits = np.prod(whole.shape, dtype=np.int64) <= WHOLE_LIMIT
        if settings.memory_bytes is not None:
            budget = self._budget(prepared, settings.memory_bytes)
            # Tiles of the training size that were asked for stay that size: they are checked, not grown.
            most = patch if settings.overlap is not None else whole.shape
            return budget.largest(shape, most, patch, overlap)
        return whole if settings.overlap is None and fits else Tiling.overlapping(shape, patch, overlap)

    def _budget(self, prepared: Prepared, limit: int) -> Budget:
        voxels = int(np.prod(prepared.geometry.shape, dtype=np.int64))
        channels = self.task.classes * (len(self.backends) if self.settings.uncertainty else 1)
        return Budget(limit, self.costs, channels, voxels, prepared.array.size)

    def _slabs(self, array: FloatArray, answer: Answer, progress: Progress | None) -> Iterator[Slab]:
        """The stitched slabs. Out of memory before the first of them: smaller tiles, once."""
        given = 0
        try:
            for slab in self._timed(array, answer, progress):
                given += 1
                yield slab
            return
        except MemoryLimitError as error:
            x, y, z = array.shape
            tiling = smaller(answer.tiling, self.task.patch, (x, y, z))
            if given or tiling is None:
                raise
            answer.notes.append(f"{error.what}; went on with tiles of {_times(tiling.tile)}")
            answer.tiling = tiling
        yield from self._timed(array, answer, progress)

    def _timed(self, array: FloatArray, answer: Answer, progress: Progress | None) -> Iterator[Slab]:
        """Count the seconds that it takes to make the slabs."""
        slabs = stream(
            array, answer.tiling, self._network, weighting=self.settings.weighting, progress=progress
        )
        while True:
            started = time.perf_counter()
            try:
                slab = next(slabs, None)
            except MemoryError as error:
                raise MemoryLimitError("memory was full while tiles were stitched") from error
            answer.seconds += time.perf_counter() - started
            if slab is None:
                return
            yield slab

    def _network(self, patches: FloatArray) -> FloatArray:
        """(1, 1, x, y, z) -> mean probabilities (1, C, x, y, z) over the networks and the flips.

        Where doubt is wanted, the networks stay apart: (1, networks x C, x, y, z).
        """
        answers = (self._flipped(backend, patches) for backend in self.backends)
        if self.settings.uncertainty:
            return np.concatenate(list(answers), axis=1)
        return mean(answers, len(self.backends))

    def _flipped(self, backend: Backend, patches: FloatArray) -> FloatArray:
        """Probabilities of one network, averaged over the mirrored views."""
        flips = self.settings.flips
        views = list(chain.from_iterable(combinations(flips, n) for n in range(len(flips) + 1)))

        def one(view: tuple[int, ...]) -> FloatArray:
            axes = tuple(axis + 2 for axis in view)
            mirrored = np.ascontiguousarray(np.flip(patches, axes))
            return np.flip(softmax(run(backend, mirrored, self.task.classes)), axes)

        return mean((one(view) for view in views), len(views))

    def _fill(
        self, mask: Labels, prepared: Prepared, answer: Answer, compared: DoubtMap | None
    ) -> dict[str, FloatArray]:
        """Write the most probable label of each voxel; give the probabilities that are to be kept."""
        keep = self.settings.probabilities
        kept = {x.name: np.zeros(mask.shape, np.float32) for x in self.task.labels} if keep else {}
        goal = orient(mask, prepared.geometry)
        wanted = [orient(array, prepared.geometry) for array in kept.values()]
        x, y, z = goal.shape
        everything = keep or compared is not None
        restorer = Restorer(prepared.shape, (x, y, z), self.task.classes, all_of_it=everything)
        for block in restorer(answer.slabs):
            self._decide(block, goal[block.where], [array[block.where] for array in wanted])
            if compared is not None:
                compared.add(block, prepared.geometry)
        return kept

    def _decide(self, block: Block, mask: Labels, kept: list[FloatArray]) -> None:
        """The most probable class of each voxel of a block; of equal ones the first, as argmax has it."""
        best = self._class(block, 0).copy()
        for number, label in enumerate(self.task.labels, start=1):
            found = self._class(block, number)
            mask[found > best] = label.value
            np.maximum(best, found, out=best)
            if kept:
                kept[number - 1][...] = found

    def _class(self, block: Block, number: int) -> FloatArray:
        """The probability of a class: of the networks that make the mask, where they were kept apart."""
        if not self.settings.uncertainty or self.doubting.leading == 1:
            return block.channel(number)
        classes, count = self.task.classes, self.doubting.leading
        return mean((block.channel(n * classes + number) for n in range(count)), count)

    def _doubt(self, compared: DoubtMap, grid: Geometry) -> Doubt:
        for mask in compared.masks:
            self._tidy(mask, grid)
        return compared.finish(grid, self.doubting)

    def _tidy(self, mask: Labels, grid: Geometry) -> dict[str, dict[str, float]]:
        wanted = self.settings.tidying(self.task)
        done = {x.name: tidy(mask, x.value, wanted, grid.voxel_ml) for x in self.task.labels}
        return {name: facts for name, facts in done.items() if facts}


def _times(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)


def _counts(mask: Labels) -> NDArray[np.int64]:
    """Voxels of each value; plane by plane, because bincount makes 8 bytes of each voxel."""
    return np.asarray(sum(np.bincount(plane.ravel(), minlength=256) for plane in mask))
