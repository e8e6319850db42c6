"""Tiles over a volume, and the stitching of what the network says about each. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of one volume lie.

    Parameters
    ----------
    shape
        Voxels of the padded volume (x, y, z): at least one tile.
    tile
        Voxels of a tile.
    starts
        Per axis, the first index of each tile.
    """

    shape: Shape
    tile: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def whole(cls, shape: Shape, multiple: int) -> Tiling:
        """One tile: the whole volume, each side rounded up to a multiple."""
        x, y, z = (-(-n // multiple) * multiple for n in shape)
        return cls((x, y, z), (x, y, z), ((0,), (0,), (0,)))

    @classmethod
    def overlapping(cls, shape: Shape, tile: Shape, overlap: float) -> Tiling:
        """Tiles that share at least `overlap` (0 to below 1) of a side with the next; the last is flush."""
        x, y, z = (max(n, t) for n, t in zip(shape, tile, strict=True))
        a, b, c = (
            _starts(n, t, max(1, int(t * (1 - overlap)))) for n, t in zip((x, y, z), tile, strict=True)
        )
        return cls((x, y, z), tile, (a, b, c))

    def __len__(self) -> int:
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    def slices(self) -> Iterator[tuple[slice, slice, slice]]:
        """The tiles, z fastest."""
        for corner in product(*self.starts):
            x, y, z = (slice(c, c + t) for c, t in zip(corner, self.tile, strict=True))
            yield x, y, z


def _starts(size: int, tile: int, step: int) -> tuple[int, ...]:
    last = size - tile
    return (*range(0, last, step), last)


def stitch(
    volume: FloatArray,
    tiling: Tiling,
    network: Callable[[FloatArray], FloatArray],
    progress: Callable[[int, int], None] | None = None,
) -> FloatArray:
    """Run the network tile by tile and average the probabilities where tiles overlap.

    Parameters
    ----------
    volume
        (X, Y, Z) float32 network input; padded with zeros, the mean grey value, to the tiling's shape.
    tiling
        The tiles.
    network
        (1, 1, x, y, z) -> probabilities (1, C, x, y, z).
    progress
        Called with (done, all) after each tile.

    Returns
    -------
    (C, X, Y, Z) float32 probabilities of the volume without its padding.
    """
    before = [(n - m) // 2 for n, m in zip(tiling.shape, volume.shape, strict=True)]
    pads = [(b, n - m - b) for b, n, m in zip(before, tiling.shape, volume.shape, strict=True)]
    padded = np.pad(volume, pads)
    inner = tuple(slice(b, b + m) for b, m in zip(before, volume.shape, strict=True))
    total: FloatArray | None = None
    count = np.zeros(tiling.shape, dtype=np.float32)
    for done, tile in enumerate(tiling.slices(), start=1):
        answer = network(np.ascontiguousarray(padded[tile])[None, None])[0]
        if progress is not None:
            progress(done, len(tiling))
        if len(tiling) == 1:
            return np.asarray(answer[:, *inner])
        if total is None:
            total = np.zeros((len(answer), *tiling.shape), dtype=np.float32)
        total[:, *tile] += answer
        count[tile] += 1
    if total is None:  # a tiling has at least one tile
        raise ValueError("no tiles")
    np.divide(total, count, out=total)
    return np.asarray(total[:, *inner])


def softmax(logits: FloatArray) -> FloatArray:
    """(N, C, X, Y, Z) logits -> probabilities over C."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)
