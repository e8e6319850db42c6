"""Resample probabilities from the model's grid to the scan's grid, a few planes at a time.

Probabilities are interpolated linearly (box averages where the scan's voxels are larger), never masks. No
class exists at full size here: planes are interpolated as they arrive, and compared to find each label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.resample import AxisWeights, axis_weights
from c3s3_seg.inference.arrays import ArrayOperations, arrays_of
from c3s3_seg.inference.streaming import Slab
from c3s3_seg.inference.tiling import Array, Shape


@dataclass(frozen=True)
class Block:
    """A box of voxels on the scan's grid, along the patient's axes, with the data to interpolate it from.

    Parameters
    ----------
    where
        Position of the box (x, y, z).
    source
        (K, x, y, z) float32: the voxels of the model's grid that the box depends on.
    weights
        Per axis, weights from voxels of `source` to voxels of the box; None where both are the same.
    axis
        The streamed axis, which is interpolated last because it has few planes.
    """

    where: tuple[slice, slice, slice]
    source: Array
    weights: tuple[AxisWeights | None, ...]
    axis: int

    @property
    def arrays(self) -> ArrayOperations:
        """The array operations for `source`."""
        return arrays_of(self.source)

    def channel(self, number: int) -> Array:
        """Return one class, interpolated: (x, y, z) float32. May be a view."""
        array, arrays = self.source[number], self.arrays
        for axis in sorted(range(3), key=lambda n: (n == self.axis, -n)):
            weights = self.weights[axis]
            if weights is not None:
                array = arrays.along(weights, array, axis)
        return array


class ScanGridResampler:
    """A resampler of one volume's slabs as they arrive.

    Parameters
    ----------
    shape, goal
        Voxels (x, y, z) of the model's grid and of the scan's grid, both along the patient's axes.
    classes
        Number of classes, background included. Further channels hold the same classes of further networks.
    all_of_it
        Whether blocks cover the whole scan; otherwise only the part where a foreground class can win.
    """

    def __init__(self, shape: Shape, goal: Shape, classes: int, *, all_of_it: bool = False) -> None:
        self._shape, self._goal, self._classes = shape, goal, classes
        self._axes = [_GridAxis(n, m) for n, m in zip(shape, goal, strict=True)]
        # The most probable of K classes has at least 1 / K; 1e-4 allows for rounding.
        self._least = -1.0 if all_of_it else 1 / classes - 1e-4

    def __call__(self, slabs: Iterable[Slab]) -> Iterator[Block]:
        """Yield blocks that do not overlap, in rising order; each is valid until the next is requested.

        Raises
        ------
        InputError
            If slabs are missing: a mask of the others would have no label where they were.
        """
        done, held = 0, _Held()
        for slab in self._complete(slabs):
            axis, n, block = self._axes[slab.axis], slab.axis, arrays_of(slab.values).block
            held = held.with_slab(slab)
            ready = axis.ready(slab.stop)
            step = max(1, block * self._goal[n] // int(np.prod(self._goal)))
            for low in range(done, ready, step):
                high = min(low + step, ready)
                yield from self._block(held, slice(low, high), n)
            done = max(done, ready)
            held = held.tail(int(axis.first[done]) if done < self._goal[n] else slab.stop)

    def _complete(self, slabs: Iterable[Slab]) -> Iterator[Slab]:
        """Yield the slabs; raise unless they follow each other from the first plane to the last."""
        done, axis = 0, 0
        for slab in slabs:
            axis = slab.axis
            if slab.start != done:
                raise _incomplete(f"planes from {slab.start} on, wanted those from {done} on")
            done = slab.stop
            yield slab
        if done != self._shape[axis]:
            raise _incomplete(f"{done} planes, wanted {self._shape[axis]}")

    def _block(self, held: _Held, planes: slice, n: int) -> Iterator[Block]:
        """Yield the block of some planes of the scan's grid; nothing where no foreground class can win."""
        along = self._axes[n]
        used = slice(int(along.first[planes].min()), int(along.last[planes].max()) + 1)
        source = held.take(used)
        where, inner = [planes] * 3, [slice(None)] * 3
        weights: list[AxisWeights | None] = [along.weights(planes, used)] * 3
        for other, ends in _box(source, n, self._classes, self._least).items():
            if ends.start == ends.stop:
                return
            where[other], inner[other] = self._axes[other].reached_from(ends)
            weights[other] = self._axes[other].weights(where[other], inner[other])
        x, y, z = where
        yield Block((x, y, z), source[:, *inner], tuple(weights), n)


def _incomplete(found: str) -> InputError:
    what = f"these probabilities were already taken, in part or as a whole: found {found}"
    return InputError(what, todo="Run the network again: probabilities can be taken once, all of them")


class _GridAxis:
    """One axis of both grids: each index of the goal depends on the model's indices `first` to `last`."""

    def __init__(self, size: int, goal: int) -> None:
        self._weights = axis_weights(size, goal) if size != goal else None
        if self._weights is None:
            self.first = self.last = np.arange(goal)
        else:
            self.first, self.last = self._weights.first, self._weights.last

    def ready(self, stop: int) -> int:
        """Return how many indices of the goal depend only on the model's indices before `stop`."""
        return int(np.searchsorted(self.last, stop, side="left"))

    def reached_from(self, ends: slice) -> tuple[slice, slice]:
        """Return the indices of the goal that depend on any of `ends`, and all indices those depend on."""
        low = int(np.searchsorted(self.last, ends.start, side="left"))
        high = int(np.searchsorted(self.first, ends.stop, side="left"))
        return slice(low, high), slice(int(self.first[low]), int(self.last[high - 1]) + 1)

    def weights(self, goal: slice, used: slice) -> AxisWeights | None:
        """Return the weights from the model's indices `used` to those of the goal; None: the same grid."""
        return None if self._weights is None else self._weights.part(goal, used)


@dataclass(frozen=True)
class _Held:
    """Planes that are still needed: copies of a few earlier planes, and the slab that has just arrived."""

    slab: Slab | None = None
    early: tuple[Array, ...] = ()
    start: int = 0

    def with_slab(self, slab: Slab) -> _Held:
        return _Held(slab, self.early, self.start if self.early else slab.start)

    def take(self, planes: slice) -> Array:
        """Return planes of the model's grid: (K, x, y, z), a view where one slab holds them all."""
        if self.slab is None:
            raise ValueError("there is no slab yet")
        axis, begin = self.slab.axis, self.slab.start
        if planes.start >= begin:
            return _cut(self.slab.values, axis, slice(planes.start - begin, planes.stop - begin))
        parts = list(self.early[planes.start - self.start : planes.stop - self.start])
        if planes.stop > begin:
            parts.append(_cut(self.slab.values, axis, slice(0, planes.stop - begin)))
        return arrays_of(self.slab.values).concatenate(parts, axis=1 + axis)

    def tail(self, start: int) -> _Held:
        """Return copies of the planes from `start` on, because the slab itself will be overwritten."""
        if self.slab is None:
            return self
        numbers, arrays = range(start, self.slab.stop), arrays_of(self.slab.values)
        return _Held(None, tuple(arrays.copy(self.take(slice(n, n + 1))) for n in numbers), start)


def _cut(values: Array, axis: int, planes: slice) -> Array:
    return values[(slice(None),) * (1 + axis) + (planes,)]


def _box(source: Array, axis: int, classes: int, least: float) -> dict[int, slice]:
    """Return the range, on each axis other than `axis`, in which a foreground class has `least` or more."""
    others = [n for n in range(3) if n != axis]
    if least < 0:
        return {n: slice(0, source.shape[1 + n]) for n in others}
    hits = [(source[n] >= least).any(axis) for n in range(len(source)) if n % classes]
    found = np.logical_or.reduce([arrays_of(hit).host(hit) for hit in hits])
    return {n: _ends(np.asarray(found.any(axis=1 - place))) for place, n in enumerate(others)}


def _ends(found: NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(found)
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)
