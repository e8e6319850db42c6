"""Scan in, mask out: recipe, tiles, runtime, stitching, and the way back to the scan's grid.

The three steps can be run apart, and each by a thread of its own: `prepare` scan n + 1 and `restore`
scan n - 1 while the `network` works on scan n. Nothing in a `Predictor` changes while it is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle import Task
from c3s3_seg.inference.backends import Backend
from c3s3_seg.inference.window import Tiling, softmax, stitch
from c3s3_seg.volume import Geometry, Source, Volume

FloatArray = NDArray[np.float32]
Progress = Callable[[int, int], None]

MULTIPLE = 16  # four downsamplings
WHOLE_LIMIT = 1_500_000  # voxels of a single tile: about 1 GB in single precision at 16 filters


@dataclass(frozen=True)
class Settings:
    """How to run.

    Parameters
    ----------
    overlap
        As in `Task.overlap`, from 0 to below 1; None leaves it to the task.
    probabilities
        Whether the prediction keeps the probability of each label on the scan's grid.
    """

    overlap: float | None = None
    probabilities: bool = False


@dataclass(frozen=True)
class Prediction:
    """What was found in one scan.

    Parameters
    ----------
    mask
        Label values in the scan's own geometry, uint8.
    volume_ml
        Label name -> volume in millilitres.
    seconds
        Of wall clock, per step: prepare, network, restore.
    tiles
        How many tiles the network saw.
    probabilities
        Label name -> float32 volume in the scan's geometry; empty unless asked for.
    """

    mask: Volume
    volume_ml: dict[str, float]
    seconds: dict[str, float]
    tiles: int
    probabilities: dict[str, Volume]


@dataclass(frozen=True)
class Prepared:
    """A scan as the network wants it.

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


@dataclass(frozen=True)
class Answer:
    """What the networks say about a scan: (C, x, y, z) float32 probabilities, their tiles and seconds."""

    probability: FloatArray
    tiles: int
    seconds: float


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
    """

    def __init__(self, task: Task, backends: Sequence[Backend], settings: Settings | None = None) -> None:
        self.task, self.backends = task, tuple(backends)
        self.settings = settings or Settings()

    @property
    def overlap(self) -> float | None:
        """What the settings ask for, else what the task does by default."""
        return self.task.overlap if self.settings.overlap is None else self.settings.overlap

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
        """First step: orient, resample and scale."""
        started = time.perf_counter()
        array = self.task.recipe.to_model(scan).array
        return Prepared(array, scan.geometry, scan.source, time.perf_counter() - started)

    def network(self, prepared: Prepared, progress: Progress | None = None) -> Answer:
        """Second step: the networks, tile by tile."""
        started = time.perf_counter()
        tiling = self._tiling(prepared.array.shape)
        probability = stitch(prepared.array, tiling, self._network, progress)
        return Answer(probability, len(tiling), time.perf_counter() - started)

    def restore(self, prepared: Prepared, answer: Answer) -> Prediction:
        """Third step: a mask on the scan's grid."""
        started = time.perf_counter()
        grid, source = prepared.geometry, prepared.source
        mask, kept = self._to_scan(answer.probability, grid)
        counts = np.bincount(mask.ravel(), minlength=256)
        seconds = time.perf_counter() - started
        return Prediction(
            mask=grid.volume(mask, source),
            volume_ml={x.name: float(counts[x.value] * grid.voxel_ml) for x in self.task.labels},
            seconds={"prepare": prepared.seconds, "network": answer.seconds, "restore": seconds},
            tiles=answer.tiles,
            probabilities={name: grid.volume(p, source) for name, p in kept.items()},
        )

    def _tiling(self, shape: tuple[int, ...]) -> Tiling:
        x, y, z = shape
        whole = Tiling.whole((x, y, z), MULTIPLE)
        if self.overlap is None and np.prod(whole.shape, dtype=np.int64) <= WHOLE_LIMIT:
            return whole
        return Tiling.overlapping((x, y, z), self.task.patch, 0.5 if self.overlap is None else self.overlap)

    def _network(self, patches: FloatArray) -> FloatArray:
        answers = [softmax(backend(patches)) for backend in self.backends]
        return answers[0] if len(answers) == 1 else np.mean(answers, axis=0, dtype=np.float32)

    def _to_scan(
        self, probability: FloatArray, grid: Geometry
    ) -> tuple[NDArray[np.uint8], dict[str, FloatArray]]:
        """The most probable label of each voxel; one class at a time, so never all at full size."""
        best = self.task.recipe.to_scan(probability[0], grid)
        mask = np.zeros(grid.shape, dtype=np.uint8)
        kept: dict[str, FloatArray] = {}
        for label, channel in zip(self.task.labels, probability[1:], strict=True):
            restored = self.task.recipe.to_scan(channel, grid)
            wins = restored > best
            mask[wins] = label.value
            np.maximum(best, restored, out=best)
            if self.settings.probabilities:
                kept[label.name] = restored
        if self.task.keep_largest:
            for label in self.task.labels:
                _keep_largest(mask, label.value)
        return mask, kept


def _keep_largest(mask: NDArray[np.uint8], value: int) -> None:
    """Set all but the largest 6-connected component of `value` to background, in place."""
    from scipy import ndimage

    here = mask == value
    boxes = ndimage.find_objects(here.view(np.uint8))
    if not boxes:
        return
    components, count = ndimage.label(here[boxes[0]])
    if count > 1:
        sizes = np.bincount(components.ravel())[1:]
        mask[boxes[0]][(components > 0) & (components != sizes.argmax() + 1)] = 0
