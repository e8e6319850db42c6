"""How much memory a tile takes, and the largest tiles that a given memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c3s3_seg.errors import MemoryLimitError, shown
from c3s3_seg.inference.tiling import Shape, Tiling

FLOAT = 4
RESAMPLING = 12  # bytes for each voxel of the model's grid, while a scan is brought to it
# Where networks are compared, bytes for each voxel of the scan: two masks, a map, and what it takes to keep
# the map near the boundaries; and for each of the voxels whose distance to one is looked up at a time.
COMPARED, LOOKED_UP = 13, 46
PART = 4_000_000  # of those voxels


@dataclass(frozen=True)
class Costs:
    """What a process takes, in bytes.

    Parameters
    ----------
    base
        With its runtime loaded and a network in it, before the first tile.
    per_voxel
        Of the tile, for the maps of all networks.
    """

    base: int
    per_voxel: float


# Peak memory of processes with VNet and ResVNet of 16 filters over tiles of 0.2 to 2 million voxels, least
# squares, the larger slope and the larger base of the two, rounded up; `benchmarks/memory.py --tiles`.
# Maps grow with the filters; the base is mostly libraries.
MEASURED = {
    "openvino": Costs(350_000_000, 230.0),
    "onnx": Costs(250_000_000, 560.0),
    "torch": Costs(650_000_000, 400.0),
}
MEASURED_FILTERS = 16


def costs_of(runtime: str, filters: Sequence[int]) -> Costs:
    """The measured costs of networks with so many filters each, all in one runtime."""
    one = MEASURED.get(runtime, max(MEASURED.values(), key=lambda costs: costs.per_voxel))
    return Costs(one.base, one.per_voxel * sum(filters) / MEASURED_FILTERS)


def extras(labels: int, compared: bool, scan_voxels: int) -> int:
    """Bytes that a prediction takes beside the mask, on a scan of so many voxels.

    Parameters
    ----------
    labels
        Of how many the probability is kept.
    compared
        Whether networks are compared.
    scan_voxels
        Of the scan, or of the part that is segmented.
    """
    probabilities = FLOAT * labels * scan_voxels
    comparison = COMPARED * scan_voxels + LOOKED_UP * min(PART, scan_voxels)
    return probabilities + (comparison if compared else 0)


@dataclass(frozen=True)
class Budget:
    """A limit, and what is taken whatever the tiles are.

    Parameters
    ----------
    limit
        Bytes that this process may take.
    costs
        Of the runtime.
    channels
        Probabilities a voxel.
    scan_voxels, model_voxels
        Of the two grids.
    multiple
        What the sides of a tile are multiples of.
    kept
        Bytes that a prediction takes beside the mask: see `extras`.
    """

    limit: int
    costs: Costs
    channels: int
    scan_voxels: int
    model_voxels: int
    multiple: Shape
    kept: int = 0

    def needed(self, tiling: Tiling) -> int:
        """Peak memory of the process, in bytes: what was measured of the runtime, and our own arrays."""
        tile = int(np.prod(tiling.tile))
        ours = 2 * FLOAT * self.channels * tile  # logits, and what softmax makes of them on the way
        if len(tiling) > 1:
            ours += FLOAT * self.channels * tiling.buffered
        scan = self.kept + (FLOAT + 1) * self.scan_voxels + 2 * FLOAT * self.model_voxels
        return int(self.costs.base + self.costs.per_voxel * tile + ours + scan)

    def largest(self, shape: Shape, most: Shape, patch: Shape, overlap: float) -> Tiling:
        """The largest tiles from `most` down that fit; never smaller than `patch`, those of training.

        Where `most` is all of `shape`, that is the whole volume at once.

        Raises
        ------
        MemoryLimitError
            If even those do not fit.
        """
        for tile in _shrinking(most, patch, self.multiple):
            tiling = Tiling.overlapping(shape, tile, overlap)
            if self.needed(tiling) <= self.limit:
                return tiling
        return self.checked(tiling)

    def checked(self, tiling: Tiling) -> Tiling:
        """These tiles, if they fit.

        Raises
        ------
        MemoryLimitError
            If they do not.
        """
        if self.needed(tiling) <= self.limit:
            return tiling
        raise MemoryLimitError(
            f"a memory of {self.limit / 1e9:.2f} GB was allowed, and this scan needs"
            f" {self.needed(tiling) / 1e9:.2f} GB with the smallest tiles {shown(tiling.tile)}",
            todo="Allow more with --max-memory",
        )


def check_free_memory(voxels: int, free: int | None, processes: int, where: Path | None) -> None:
    """Refuse a scan that the host's memory does not hold while it is brought to the model's grid.

    Parameters
    ----------
    voxels
        Of the model's grid.
    free
        Bytes that the processes may take together; None: not known, and nothing is refused.
    processes
        How many share them.
    where
        The scan's file, for the message.

    Raises
    ------
    MemoryLimitError
        If it does not fit into the share of one process.
    """
    needed = RESAMPLING * voxels
    if free is None or needed <= free / processes:
        return
    shares = f" for {processes} workers" if processes > 1 else ""
    what = f"at the model's spacing this scan takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    todo = "Give fewer --workers" if processes > 1 else None
    raise MemoryLimitError(f"{what}{shares}", where=where, todo=todo)


def _shrinking(tile: Shape, patch: Shape, multiple: Shape) -> Iterator[Shape]:
    """From a tile down to the training size: the side that exceeds it most becomes shorter by a multiple."""
    sides = list(tile)
    while True:
        yield sides[0], sides[1], sides[2]
        excess = [n / p if n - m >= p else 0.0 for n, p, m in zip(sides, patch, multiple, strict=True)]
        if not max(excess):
            return
        axis = excess.index(max(excess))
        sides[axis] -= multiple[axis]


def smaller(tiling: Tiling, patch: Shape, shape: Shape, multiple: Shape) -> Tiling | None:
    """What to try when memory was full: tiles of the training size, or half of those; None if tiny."""
    tile = tiling.tile
    low = [min(t, p) for t, p in zip(tile, patch, strict=True)]
    if tuple(low) == tile:
        longest = low.index(max(low))
        low[longest] = low[longest] // 2 // multiple[longest] * multiple[longest]
        if not low[longest]:
            return None
    return Tiling.overlapping(shape, (low[0], low[1], low[2]), 0.5)
