"""Tiles in, finished planes out: what overlapping tiles say is averaged in a ring of planes.

Along one axis only as many planes are kept as a tile is deep. A plane that no later tile reaches is
handed on and its place is used again, so memory does not depend on how long that axis is.
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
        Along which (0, 1 or 2) the planes follow each other.
    start
        Index of the first plane.
    values
        (K, x, y, z) float32: the planes along `axis`, the whole volume along the others. A view that
        holds only until the next slab is asked for; copy what must last longer.
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
    """Run the network tile by tile and give the averages of what it says, plane by finished plane.

    Parameters
    ----------
    volume
        (X, Y, Z) float32 network input; padded with zeros, the mean intensity, to the tiling's shape. Where
        it lies, all is done.
    tiling
        The tiles.
    network
        (1, 1, x, y, z) -> (1, K, x, y, z) float32: probabilities, as a rule.
    weighting
        How tiles are averaged.
    axis
        Along which to stream; None leaves it to the tiling.
    progress
        Called after each tile.

    Yields
    ------
    Slab
        In rising order, together the volume without its padding.
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
    """Voxels put before each axis, and the volume with them; half of the padding goes before."""
    before = [(n - m) // 2 for n, m in zip(tiling.shape, volume.shape, strict=True)]
    pads = [(b, n - m - b) for b, n, m in zip(before, tiling.shape, volume.shape, strict=True)]
    return before, arrays.pad(volume, pads) if any(map(any, pads)) else volume


class _Ring:
    """Sums of as many planes as a tile is deep; plane n lies at n modulo that depth."""

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
        """Add what the network said about a tile."""
        values = self._arrays.moveaxis(output, 1 + self._axis, 1)
        if self._weights is not None:
            values = values * self._weights
        first, *across = self._split(tile)
        for ring, part in _arcs(first.start, first.stop, self._depth):
            sums = self._sums[:, ring, *across]
            sums += values[:, part]

    def finish(self, start: int, stop: int, inside: list[slice]) -> Iterator[Slab]:
        """Hand on the planes from `start` to before `stop`, then clear them for those that follow."""
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
        """(planes, ...): the sum of the weights with which the tiles counted in these planes."""
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
        """Shape, tile and starts with the streamed axis first."""
        tiling = self._tiling
        return self._split(tiling.shape), self._split(tiling.tile), self._split(tiling.starts)

    def _split(self, axes: Sequence[T]) -> list[T]:
        """Three things, one for each axis: the streamed axis first, the others in their order."""
        return [axes[self._axis], *(item for n, item in enumerate(axes) if n != self._axis)]


def _arcs(start: int, stop: int, depth: int) -> Iterator[tuple[slice, slice]]:
    """Where planes `start` to `stop` lie in a ring: one or two (place in the ring, place among them)."""
    first = start % depth
    count = min(stop - start, depth - first)
    yield slice(first, first + count), slice(0, count)
    if count < stop - start:
        yield slice(0, stop - start - count), slice(count, stop - start)


def _coverage(size: int, tile: int, starts: tuple[int, ...]) -> FloatArray:
    """(size,) float32: how many tiles cover each index of an axis."""
    counts = np.zeros(size, dtype=np.float32)
    for start in starts:
        counts[start : start + tile] += 1
    return counts
