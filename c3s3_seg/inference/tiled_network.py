"""Run the networks over one scan on the model's grid, tile by tile, and yield slabs of probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import numpy as np

from c3s3_seg.bundle import Task
from c3s3_seg.errors import C3S3Error, MemoryLimitError
from c3s3_seg.inference.arrays import arrays_of
from c3s3_seg.inference.backends.execute import Backend, run
from c3s3_seg.inference.backends.select import notes
from c3s3_seg.inference.memory import Budget, Costs, extras, smaller
from c3s3_seg.inference.place import give_back, kept_memory, memory_limit
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.steps import PreparedScan
from c3s3_seg.inference.streaming import Slab, stream
from c3s3_seg.inference.tiling import Array, Shape, Tiling, mean
from c3s3_seg.system.hardware import is_memory_error
from c3s3_seg.system.progress import Progress

WHOLE_LIMIT = 1_500_000  # most voxels of a single tile: 0.35 GB in OpenVINO, 0.8 GB in ONNX Runtime


@dataclass
class Probabilities:
    """Probabilities of one scan on the model's grid, to be taken once and in order.

    Parameters
    ----------
    slabs
        Probabilities of all classes; each slab is valid until the next is requested.
    tiling
        The tiles.
    seconds
        Time spent in the networks so far.
    notes
        Sentences for `Prediction.notes`.
    prepare_s
        Time spent on resampling the scan to the model's grid, if the network's device does it.
    task
        Task of the networks; None: unknown.
    prepared
        The scan that `Predictor.network` was given; None: another caller ran the networks.
    """

    slabs: Iterator[Slab]
    tiling: Tiling
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    prepare_s: float = 0.0
    task: Task | None = field(default=None, repr=False)
    prepared: PreparedScan | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TiledNetwork:
    """One network, or the mean of several, over tiles.

    Parameters
    ----------
    task
        Task with the classes and the size of the tiles.
    backends
        The networks.
    settings
        Settings of the tiling.
    costs
        The memory that the networks take.
    """

    task: Task
    backends: tuple[Backend, ...]
    settings: Settings
    costs: Costs

    def __call__(self, array: Array, scan_voxels: int, progress: Progress | None = None) -> Probabilities:
        """Return the probabilities; the networks run as the slabs are taken.

        Parameters
        ----------
        array
            (x, y, z) float32 on the model's grid. All work is done on its device.
        scan_voxels
            Voxels of the grid to which the probabilities will be resampled, which takes memory too.
        progress
            Called after each tile.
        """
        found = Probabilities(iter(()), self._tiling(array, scan_voxels), task=self.task)
        self._make_room(array, scan_voxels, found.tiling)
        found.notes += self._notes()
        found.slabs = self._slabs(array, found, progress)
        return found

    def _tiling(self, array: Array, scan_voxels: int) -> Tiling:
        settings, patch = self.settings, self.task.patch
        x, y, z = array.shape
        limit = memory_limit(settings, arrays_of(array))
        budget = self._budget(limit or 0, array, scan_voxels)
        if settings.stride is not None:
            tiling = Tiling.stepping((x, y, z), patch, settings.stride)
            own = settings.own_memory_bytes
            return tiling if own is None else self._shared(lambda: budget.checked(tiling))
        overlap = 0.5 if settings.overlap is None else settings.overlap
        whole = Tiling.whole((x, y, z), self.task.multiple)
        if settings.own_memory_bytes is not None:
            # Requested tiles of the training size keep that size: they are checked, not enlarged.
            most = patch if settings.overlap is not None else self._taken(whole.shape)
            return self._shared(lambda: budget.largest((x, y, z), most, patch, overlap))
        fits = self._taken(whole.shape) == whole.shape and np.prod(whole.shape, dtype=np.int64) <= WHOLE_LIMIT
        usual = whole if settings.overlap is None and fits else Tiling.overlapping((x, y, z), patch, overlap)
        if limit is None or budget.needed(usual) <= limit:
            return usual
        return self._shared(lambda: budget.largest((x, y, z), usual.tile, patch, overlap))

    def _make_room(self, array: Array, scan_voxels: int, tiling: Tiling) -> None:
        """Release the memory that the networks keep, if the tiles might not fit: no tile depends on it."""
        left = memory_limit(self.settings, arrays_of(array), self.backends)
        if left is not None and self._budget(left, array, scan_voxels).needed(tiling) > left:
            give_back(self.backends)

    def _taken(self, tile: Shape) -> Shape:
        """Return the tile, cut to the largest size that all networks take."""
        x, y, z = tile
        for a, b, c in (getattr(backend, "largest_tile", tile) for backend in self.backends):
            x, y, z = min(x, a), min(y, b), min(z, c)
        return x, y, z

    def _budget(self, limit: int, array: Array, scan_voxels: int) -> Budget:
        settings, task = self.settings, self.task
        channels = task.classes * (len(self.backends) if settings.uncertainty else 1)
        voxels = int(np.prod(array.shape, dtype=np.int64))
        kept = extras(len(task.labels) if settings.probabilities else 0, settings.uncertainty, scan_voxels)
        if arrays_of(array).own_memory:
            kept = 0  # these arrays are on the host
        return Budget(limit, self.costs, channels, scan_voxels, voxels, task.multiple, kept)

    def _shared(self, choose: Callable[[], Tiling]) -> Tiling:
        """Return tiles that fit this process's share of the memory; an error states how many share it."""
        processes = self.settings.processes
        try:
            return choose()
        except MemoryLimitError as error:
            if processes == 1:
                raise
            what = f"{error.what}; {processes} workers share the memory"
            raise MemoryLimitError(what, todo=f"{error.todo}, or give fewer --workers") from None

    def _slabs(self, array: Array, found: Probabilities, progress: Progress | None) -> Iterator[Slab]:
        """Yield the stitched slabs. If memory is full before the first, retry once: see `_retried`."""
        given, known = 0, self._notes()
        try:
            for slab in self._timed(array, found, progress):
                given += 1
                yield slab
        except MemoryLimitError as error:
            if given:
                raise
            tiling = self._retried(error, found.tiling, array)
            same = tiling == found.tiling
            how = "the same tiles, after memory was released" if same else f"tiles of {_times(tiling.tile)}"
            found.notes.append(f"{error.what}; went on with {how}")
            found.tiling = tiling
        if not given:
            give_back(self.backends)  # not in the `except`, whose traceback holds memory
            yield from self._timed(array, found, progress)
        found.notes += [note for note in self._notes() if note not in known]

    def _retried(self, error: MemoryLimitError, tiling: Tiling, array: Array) -> Tiling:
        """Return the tiles to retry with: of the training size, or the same if memory can be released.

        Raises
        ------
        MemoryLimitError
            If neither is possible.
        """
        x, y, z = array.shape
        retried = smaller(tiling, self.task.patch, (x, y, z))
        if retried is None and not kept_memory(self.backends):
            what = f"{error.what}, and tiles are never smaller than in training"
            todo = "Give more memory, or fewer --workers"
            raise MemoryLimitError(what, where=error.where, todo=todo) from error
        return retried or tiling

    def _notes(self) -> list[str]:
        """Return the notes of the runtimes, each once; a runtime may add notes while it runs."""
        return list(dict.fromkeys(chain.from_iterable(notes(backend) for backend in self.backends)))

    def _timed(self, array: Array, found: Probabilities, progress: Progress | None) -> Iterator[Slab]:
        """Yield the slabs, and count the seconds that it takes to make them."""
        weighting = self.settings.weighting or "constant"
        slabs = stream(array, found.tiling, self._network, weighting=weighting, progress=progress)
        while True:
            started = time.perf_counter()
            try:
                slab = next(slabs, None)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, C3S3Error) or not is_memory_error(error):
                    raise
                raise MemoryLimitError("memory was full while tiles were stitched") from error
            found.seconds += time.perf_counter() - started
            if slab is None:
                return
            yield slab

    def _network(self, patches: Array) -> Array:
        """Return mean probabilities over networks and mirrored views: (1, 1, x, y, z) -> (1, C, x, y, z).

        If uncertainty is requested, the networks stay separate: (1, networks x C, x, y, z).
        """
        each = (self._mirrored(backend, patches) for backend in self.backends)
        if self.settings.uncertainty:
            return arrays_of(patches).concatenate(list(each), axis=1)
        return mean(each, len(self.backends))

    def _mirrored(self, backend: Backend, patches: Array) -> Array:
        """Return the probabilities of one network, averaged over the mirrored views."""
        mirroring, arrays = self.settings.mirroring, arrays_of(patches)
        views = list(chain.from_iterable(combinations(mirroring, n) for n in range(len(mirroring) + 1)))

        def one(view: tuple[int, ...]) -> Array:
            axes = tuple(axis + 2 for axis in view)
            mirrored = arrays.dense(arrays.flip(patches, axes))
            return arrays.flip(arrays.softmax(run(backend, mirrored, self.task.classes)), axes)

        return mean((one(view) for view in views), len(views))


def _times(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)
