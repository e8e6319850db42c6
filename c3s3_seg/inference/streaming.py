"""Run the network tile by tile (sliding window), and average overlapping tiles in a ring of planes.

Along one axis only as many planes are kept as a tile is deep. A plane that no later tile reaches is
yielded and its place is reused, so memory does not depend on the length of that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from c3s3_seg.inference.arrays import ArrayOperations, arrays_of
from c3s3_seg.inference.tiling import Array, FloatArray, Tiling, importance
from c3s3_seg.system.choices import Weighting
from c3s3_seg.system.progress import Progress

T = TypeVar("T")
Network = Callable[[Array], Array]


@dataclass(frozen=True)
class Slab:
    """Finished planes of a volume.

    Parameters
    ----------
    axis
        Axis (0, 1 or 2) along which the planes follow each other.
    start
        Index of the first plane.
    values
        (K, x, y, z) float32: the planes along `axis`, the whole volume along the others. A view that
        is valid only until the next slab is requested; copy values that must last longer.
    """

    axis: int
    start: int
    values: Array

    @property
    def stop(self) -> int:
        """One more than the index of the last plane."""
        return int(self.start + self.values.shape[1 + self.axis])


def stream(
    volume: Array,
    tiling: Tiling,
    network: Network,
    *,
    weighting: Weighting = "constant",
    axis: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Slab]:
    """Run the network tile by tile and yield the averages of its outputs as planes are finished.

    Parameters
    ----------
    volume
        (X, Y, Z) float32 network input; padded with zeros (after z-scoring, the mean intensity) to the
        tiling's shape. All work is done on its device.
    tiling
        The tiles.
    network
        Function (1, 1, x, y, z) -> (1, K, x, y, z) float32, usually probabilities.
    weighting
        Weighting of overlapping tiles.
    axis
        Axis along which to stream; None leaves it to the tiling.
    progress
        Called after each tile.

    Yields
    ------
    Slab
        Slabs in rising order, together the volume without its padding.
    """
    along = tiling.axis if axis is None else axis
    arrays = arrays_of(volume)
    before, padded = _pad(volume, tiling, arrays)
    inside = [slice(b, b + n) for b, n in zip(before, volume.shape, strict=True)]
    ring: _Ring | None = None
    done, layers = 0, tiling.starts[along]
    for start, following in zip(layers, (*layers[1:], tiling.shape[along]), strict=True):
        for tile in tiling.layer(start, along):
            output = network(arrays.dense(padded[tile])[None, None])[0]
            done += 1
            if progress is not None:
                progress("tiles", done, len(tiling))
            if len(tiling) == 1:
                yield Slab(along, 0, output[:, *inside])
                return
            ring = ring or _Ring(len(output), tiling, weighting, along, arrays)
            ring.add(tile, output)
            del output
        if ring is not None:
            yield from ring.finish(start, following, inside)


def _pad(volume: Array, tiling: Tiling, arrays: ArrayOperations) -> tuple[list[int], Array]:
    """Return the voxels put before each axis, and the padded volume; half of the padding goes before."""
    before = [(n - m) // 2 for n, m in zip(tiling.shape, volume.shape, strict=True)]
    pads = [(b, n - m - b) for b, n, m in zip(before, tiling.shape, volume.shape, strict=True)]
    return before, arrays.pad(volume, pads) if any(map(any, pads)) else volume


class _Ring:
    """Sums of as many planes as a tile is deep; plane n is stored at n modulo that depth."""

    def __init__(
        self, channels: int, tiling: Tiling, weighting: Weighting, axis: int, arrays: ArrayOperations
    ) -> None:
        self._tiling, self._axis, self._depth, self._arrays = tiling, axis, tiling.tile[axis], arrays
        planes = [n for other, n in enumerate(tiling.shape) if other != axis]
        self._sums = arrays.zeros((channels, self._depth, *planes))
        weights = importance(tiling.tile, weighting)
        self._weights = None if weights is None else arrays.of(np.moveaxis(weights, axis, 0))
        self._counts = [arrays.of(_coverage(n, t, s)) for n, t, s in zip(*self._sides(), strict=True)]

    def add(self, tile: tuple[slice, slice, slice], output: Array) -> None:
        """Add the network's output for a tile."""
        values = self._arrays.moveaxis(output, 1 + self._axis, 1)
        if self._weights is not None:
            values = values * self._weights
        first, *across = self._split(tile)
        for ring, part in _arcs(first.start, first.stop, self._depth):
            sums = self._sums[:, ring, *across]
            sums += values[:, part]

    def finish(self, start: int, stop: int, inside: list[slice]) -> Iterator[Slab]:
        """Yield the planes from `start` to before `stop`, then clear them for the planes that follow."""
        kept, *across = self._split(inside)
        for ring, part in _arcs(start, stop, self._depth):
            sums = self._sums[:, ring]
            low = start + part.start
            sums /= self._total_weight(low, start + part.stop)
            first, last = max(low, kept.start), min(start + part.stop, kept.stop)
            if first < last:
                values = sums[:, first - low : last - low, *across]
                yield Slab(self._axis, first - kept.start, self._arrays.moveaxis(values, 1, 1 + self._axis))
            sums[...] = 0

    def _total_weight(self, start: int, stop: int) -> Array:
        """Return the sum of the weights of the tiles in these planes: (planes, ...)."""
        if self._weights is None:
            first, second, third = self._counts
            return first[start:stop, None, None] * second[:, None] * third
        total = self._arrays.zeros((stop - start, *self._sums.shape[2:]))
        for first in self._tiling.starts[self._axis]:
            low, high = max(start, first), min(stop, first + self._depth)
            if low < high:
                for tile in self._tiling.layer(first, self._axis):
                    _, *across = self._split(tile)
                    part = total[low - start : high - start, *across]
                    part += self._weights[low - first : high - first]
        return total

    def _sides(self) -> tuple[list[int], list[int], list[tuple[int, ...]]]:
        """Return shape, tile and starts with the streamed axis first."""
        tiling = self._tiling
        return self._split(tiling.shape), self._split(tiling.tile), self._split(tiling.starts)

    def _split(self, axes: Sequence[T]) -> list[T]:
        """Return three items, one for each axis: the streamed axis first, the others in their order."""
        return [axes[self._axis], *(item for n, item in enumerate(axes) if n != self._axis)]


def _arcs(start: int, stop: int, depth: int) -> Iterator[tuple[slice, slice]]:
    """Yield where planes `start` to `stop` lie in a ring: one or two (slice of the ring, slice of them)."""
    first = start % depth
    count = min(stop - start, depth - first)
    yield slice(first, first + count), slice(0, count)
    if count < stop - start:
        yield slice(0, stop - start - count), slice(count, stop - start)


def _coverage(size: int, tile: int, starts: tuple[int, ...]) -> FloatArray:
    """Return how many tiles cover each index of an axis: (size,) float32."""
    counts = np.zeros(size, dtype=np.float32)
    for start in starts:
        counts[start : start + tile] += 1
    return counts
