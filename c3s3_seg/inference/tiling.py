"""Tiles over a volume, the weights of their voxels where tiles overlap, and probabilities of logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.system.choices import Weighting

FloatArray = NDArray[np.float32]
Array = Any  # FloatArray on the host; where `Settings.on_device` holds, a torch.Tensor of the same numbers
Shape = tuple[int, int, int]

SIGMA = 0.125  # sigma of the Gaussian, as a share of a tile's side: MONAI's and nnU-Net's value
LEAST_WEIGHT = 1e-3  # MONAI's value: no voxel of a tile has weight 0


@dataclass(frozen=True)
class Tiling:
    """The positions of the tiles of one volume.

    Parameters
    ----------
    shape
        Voxels of the padded volume (x, y, z): at least one tile.
    tile
        Voxels of a tile.
    starts
        Per axis, the first index of each tile, rising.
    """

    shape: Shape
    tile: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def whole(cls, shape: Shape, multiple: Shape) -> Tiling:
        """Return one tile: the whole volume, each side rounded up to a multiple."""
        x, y, z = (-(-n // m) * m for n, m in zip(shape, multiple, strict=True))
        return cls((x, y, z), (x, y, z), ((0,), (0,), (0,)))

    @classmethod
    def overlapping(cls, shape: Shape, tile: Shape, overlap: float) -> Tiling:
        """Return tiles that share at least `overlap` (0 to below 1) of a side; the last is flush."""
        x, y, z = (max(1, int(t * (1 - overlap))) for t in tile)
        return cls.stepping(shape, tile, (x, y, z))

    @classmethod
    def stepping(cls, shape: Shape, tile: Shape, stride: Shape) -> Tiling:
        """Return tiles every `stride` voxels; the last is flush with the volume's end."""
        x, y, z = (max(n, t) for n, t in zip(shape, tile, strict=True))
        a, b, c = (_starts(n, t, s) for n, t, s in zip((x, y, z), tile, stride, strict=True))
        return cls((x, y, z), tile, (a, b, c))

    def __len__(self) -> int:
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    @property
    def axis(self) -> int:
        """The axis along which the output is streamed: 0, unless another axis buffers at most half as much.

        Along the first axis, every sum is formed in the same order as in MONAI.
        """
        shares = [t / n for t, n in zip(self.tile, self.shape, strict=True)]
        return shares.index(min(shares)) if min(shares) <= shares[0] / 2 else 0

    @property
    def buffered(self) -> int:
        """Voxels of one class that are kept at a time while the tiles are streamed along `axis`."""
        return int(np.prod(self.shape)) // self.shape[self.axis] * self.tile[self.axis]

    def layer(self, start: int, axis: int) -> Iterator[tuple[slice, slice, slice]]:
        """Yield the tiles that begin at `start` along `axis`; the other axes in order, the last fastest."""
        starts = [(start,) if n == axis else places for n, places in enumerate(self.starts)]
        for corner in product(*starts):
            x, y, z = (slice(c, c + t) for c, t in zip(corner, self.tile, strict=True))
            yield x, y, z

    def slices(self) -> Iterator[tuple[slice, slice, slice]]:
        """Yield the tiles, z fastest."""
        for start in self.starts[0]:
            yield from self.layer(start, 0)


def _starts(size: int, tile: int, step: int) -> tuple[int, ...]:
    last = size - tile
    return (*range(0, last, step), last)


def importance(tile: Shape, weighting: Weighting) -> FloatArray | None:
    """Return the weights of a tile's voxels: (x, y, z) float32, or None if all weights are the same.

    `gaussian` is MONAI's map: the product of three Gaussians, never below a thousandth. As in MONAI
    itself, the map is not separable because of that bound.
    """
    if weighting == "constant":
        return None
    x, y, z = (_gaussian(side) for side in tile)
    return np.asarray(np.maximum(x[:, None, None] * y[:, None] * z, LEAST_WEIGHT), dtype=np.float32)


def softmax(logits: FloatArray) -> FloatArray:
    """Return probabilities over K of logits (N, K, X, Y, Z), in place if these are writable float32."""
    out = logits if logits.flags.writeable and logits.dtype == np.float32 else logits.astype(np.float32)
    out -= out.max(axis=1, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
    return out


def mean(arrays: Iterator[Array], count: int) -> Array:
    """Return the mean of `count` float32 arrays of one shape, not all needed at once; of one, itself."""
    total = next(arrays)
    if count == 1:
        return total
    total = total + next(arrays)  # new memory: the first may be a view
    for array in arrays:
        total += array
    total /= count
    return total


def _gaussian(side: int) -> FloatArray:
    distance = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    return np.asarray(np.exp(distance**2 / np.float32(-2 * (side * SIGMA) ** 2)), dtype=np.float32)
