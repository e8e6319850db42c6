"""The networks over one scan on the model's grid, tile by tile: probabilities in, slab by slab out."""

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
from c3s3_seg.inference.place import give_back, memory_limit
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.streaming import Slab, stream
from c3s3_seg.inference.tiling import Array, Shape, Tiling, mean
from c3s3_seg.system.hardware import is_memory_error
from c3s3_seg.system.progress import Progress

WHOLE_LIMIT = 1_500_000  # voxels of a single tile: 0.35 GB in OpenVINO, 0.8 GB in ONNX Runtime


@dataclass
class Probabilities:
    """Probabilities of one scan on the model's grid, to be taken once and in order.

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
    prepare_s
        Spent on bringing the scan to the model's grid, where that is done with the network.
    """

    slabs: Iterator[Slab]
    tiling: Tiling
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    prepare_s: float = 0.0


@dataclass(frozen=True)
class TiledNetwork:
    """One network, or the mean of several, over tiles.

    Parameters
    ----------
    task
        Its classes and the size of its tiles.
    backends
        The networks.
    settings
        How to tile.
    costs
        The memory that the networks take.
    """

    task: Task
    backends: tuple[Backend, ...]
    settings: Settings
    costs: Costs

    def __call__(self, array: Array, scan_voxels: int, progress: Progress | None = None) -> Probabilities:
        """The networks run as the slabs are taken.

        Parameters
        ----------
        array
            (x, y, z) float32 on the model's grid. Where it lies, all is done.
        scan_voxels
            Of the grid to which the probabilities will be resampled, which takes memory too.
        progress
            Called after each tile.
        """
        found = Probabilities(iter(()), self._tiling(array, scan_voxels))
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
            # Tiles of the training size that were asked for stay that size: they are checked, not grown.
            most = patch if settings.overlap is not None else self._taken(whole.shape)
            return self._shared(lambda: budget.largest((x, y, z), most, patch, overlap))
        fits = self._taken(whole.shape) == whole.shape and np.prod(whole.shape, dtype=np.int64) <= WHOLE_LIMIT
        usual = whole if settings.overlap is None and fits else Tiling.overlapping((x, y, z), patch, overlap)
        if limit is None or budget.needed(usual) <= limit:
            return usual
        return self._shared(lambda: budget.largest((x, y, z), usual.tile, patch, overlap))

    def _make_room(self, array: Array, scan_voxels: int, tiling: Tiling) -> None:
        """Where the tiles might not fit beside what the networks keep, that goes: no tile depends on it."""
        left = memory_limit(self.settings, arrays_of(array), self.backends)
        if left is not None and self._budget(left, array, scan_voxels).needed(tiling) > left:
            give_back(self.backends)

    def _taken(self, tile: Shape) -> Shape:
        """A tile, or what of it the networks take at once."""
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
            kept = 0  # it is kept on the host
        return Budget(limit, self.costs, channels, scan_voxels, voxels, task.multiple, kept)

    def _shared(self, choose: Callable[[], Tiling]) -> Tiling:
        """Tiles that fit into this process's share of the memory; else the error says who shares it."""
        processes = self.settings.processes
        try:
            return choose()
        except MemoryLimitError as error:
            if processes == 1:
                raise
            what = f"{error.what}; {processes} workers share the memory"
            raise MemoryLimitError(what, todo=f"{error.todo}, or give fewer --workers") from None

    def _slabs(self, array: Array, found: Probabilities, progress: Progress | None) -> Iterator[Slab]:
        """The stitched slabs. Out of memory before the first of them: smaller tiles, once."""
        given, known = 0, self._notes()
        try:
            for slab in self._timed(array, found, progress):
                given += 1
                yield slab
        except MemoryLimitError as error:
            x, y, z = array.shape
            tiling = smaller(found.tiling, self.task.patch, (x, y, z), self.task.multiple)
            if given or tiling is None:
                raise
            found.notes.append(f"{error.what}; went on with tiles of {_times(tiling.tile)}")
            found.tiling = tiling
        if not given:
            give_back(self.backends)  # not in the `except`, whose traceback holds memory
            yield from self._timed(array, found, progress)
        found.notes += [note for note in self._notes() if note not in known]

    def _notes(self) -> list[str]:
        """What the runtimes say, once each; one may find out while it runs."""
        return list(dict.fromkeys(chain.from_iterable(notes(backend) for backend in self.backends)))

    def _timed(self, array: Array, found: Probabilities, progress: Progress | None) -> Iterator[Slab]:
        """Count the seconds that it takes to make the slabs."""
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
        """(1, 1, x, y, z) -> mean probabilities (1, C, x, y, z) over the networks and the mirrored views.

        Where uncertainty is wanted, the networks stay apart: (1, networks x C, x, y, z).
        """
        each = (self._mirrored(backend, patches) for backend in self.backends)
        if self.settings.uncertainty:
            return arrays_of(patches).concatenate(list(each), axis=1)
        return mean(each, len(self.backends))

    def _mirrored(self, backend: Backend, patches: Array) -> Array:
        """Probabilities of one network, averaged over the mirrored views."""
        mirroring, arrays = self.settings.mirroring, arrays_of(patches)
        views = list(chain.from_iterable(combinations(mirroring, n) for n in range(len(mirroring) + 1)))

        def one(view: tuple[int, ...]) -> Array:
            axes = tuple(axis + 2 for axis in view)
            mirrored = arrays.dense(arrays.flip(patches, axes))
            return arrays.flip(arrays.softmax(run(backend, mirrored, self.task.classes)), axes)

        return mean((one(view) for view in views), len(views))


def _times(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)
