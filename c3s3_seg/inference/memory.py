"""Estimate the memory that a tile takes, and choose the largest tiles that a given memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c3s3_seg.bundle import Network
from c3s3_seg.errors import NO_MEMORY, MemoryLimitError, shown
from c3s3_seg.inference.tiling import Shape, Tiling
from c3s3_seg.system.hardware import is_memory_error

FLOAT = 4
RESAMPLING = 12  # bytes per voxel of the model's grid, while a scan is resampled to it
# Where networks are compared: bytes per voxel of the scan (two masks, a map, and the arrays that keep the map
# near the boundaries), and bytes per voxel of those whose distance to a boundary is computed at a time.
COMPARED, LOOKED_UP = 13, 46
PART = 4_000_000  # voxels whose distance is computed at a time


@dataclass(frozen=True)
class Costs:
    """The memory of a process, in bytes.

    Parameters
    ----------
    base
        Memory with the runtime and a network loaded, before the first tile.
    per_voxel
        Memory per voxel of the tile, for the maps of all networks.
    """

    base: int
    per_voxel: float


# Least-squares fits of the peak memory of processes with networks of 16 filters, tiles of 0.2 to 2 million
# voxels, rounded up; `benchmarks/memory.py --tiles`. VNet and ResVNet share the larger slope and base of the
# two; the values of ResEncUNet are above every measured peak. Maps grow with the filters; the base is mostly
# libraries.
VNETS = {
    "openvino": Costs(350_000_000, 230.0),
    "onnx": Costs(250_000_000, 560.0),
    "torch": Costs(650_000_000, 400.0),
}
MEASURED = {
    "vnet": VNETS,
    "resvnet": VNETS,
    "resencunet": {
        "openvino": Costs(350_000_000, 285.0),
        "onnx": Costs(450_000_000, 560.0),
        "torch": Costs(650_000_000, 420.0),
    },
}
LARGEST = "resencunet"  # stands for an architecture that was not measured
MEASURED_FILTERS = 16
ASSUMED = Network("model", "vnet", MEASURED_FILTERS)  # where the network is not known


def costs_of(runtime: str, networks: Sequence[Network]) -> Costs:
    """Return the costs of these networks, all in one runtime; the highest for what was not measured."""
    costs = [_costs(runtime, network) for network in networks]
    return Costs(max(one.base for one in costs), sum(one.per_voxel for one in costs))


def _costs(runtime: str, network: Network) -> Costs:
    measured = MEASURED.get(network.architecture, MEASURED[LARGEST])
    one = measured.get(runtime, max(measured.values(), key=lambda costs: costs.per_voxel))
    return Costs(one.base, one.per_voxel * network.filters / MEASURED_FILTERS)


def extras(labels: int, compared: bool, scan_voxels: int) -> int:
    """Return the bytes that a prediction takes besides the mask.

    Parameters
    ----------
    labels
        Number of labels whose probability is kept.
    compared
        Whether networks are compared.
    scan_voxels
        Voxels of the scan, or of the part that is segmented.
    """
    probabilities = FLOAT * labels * scan_voxels
    comparison = COMPARED * scan_voxels + LOOKED_UP * min(PART, scan_voxels)
    return probabilities + (comparison if compared else 0)


@dataclass(frozen=True)
class Budget:
    """A memory limit, and the memory that is taken whatever the tiles are.

    Parameters
    ----------
    limit
        Bytes that this process may take.
    costs
        Costs of the runtime.
    channels
        Probabilities per voxel.
    scan_voxels, model_voxels
        Voxels of the two grids.
    multiple
        Numbers of which the sides of a tile are multiples.
    kept
        Bytes that a prediction takes besides the mask: see `extras`.
    """

    limit: int
    costs: Costs
    channels: int
    scan_voxels: int
    model_voxels: int
    multiple: Shape
    kept: int = 0

    def needed(self, tiling: Tiling) -> int:
        """Return the peak memory in bytes: the runtime's measured costs, and the arrays of this package."""
        tile = int(np.prod(tiling.tile))
        ours = 2 * FLOAT * self.channels * tile  # logits, and temporary arrays of the softmax
        if len(tiling) > 1:
            ours += FLOAT * self.channels * tiling.buffered
        scan = self.kept + (FLOAT + 1) * self.scan_voxels + 2 * FLOAT * self.model_voxels
        return int(self.costs.base + self.costs.per_voxel * tile + ours + scan)

    def largest(self, shape: Shape, most: Shape, patch: Shape, overlap: float) -> Tiling:
        """Return the largest tiles from `most` down that fit; never smaller than `patch`, those of training.

        If `most` covers `shape`, the first candidate is the whole volume at once.

        Raises
        ------
        MemoryLimitError
            If even the smallest tiles do not fit.
        """
        for tile in _shrinking(most, patch, self.multiple):
            tiling = Tiling.overlapping(shape, tile, overlap)
            if self.needed(tiling) <= self.limit:
                return tiling
        return self.checked(tiling)

    def checked(self, tiling: Tiling) -> Tiling:
        """Return these tiles if they fit.

        Raises
        ------
        MemoryLimitError
            If the tiles do not fit.
        """
        if self.needed(tiling) <= self.limit:
            return tiling
        raise MemoryLimitError(
            f"a memory of {self.limit / 1e9:.2f} GB was allowed, and this scan needs"
            f" {self.needed(tiling) / 1e9:.2f} GB with the smallest tiles {shown(tiling.tile)}",
            todo="Allow more with --max-memory",
        )


@contextmanager
def reporting_full_memory(aim: str, where: Path | None) -> Iterator[None]:
    """Turn a lack of memory, which numpy and the runtimes report in their own ways, into one error.

    Parameters
    ----------
    aim
        What the memory was needed for, such as `make the mask`.
    where
        The scan's file, for the message.

    Raises
    ------
    MemoryLimitError
        Instead of a MemoryError, or of an error of a runtime that reports full memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        todo = "Give more memory, fewer --workers, or the region of the organ with --roi"
        raise MemoryLimitError(f"{NO_MEMORY} to {aim}", where=where, todo=todo) from error


def check_free_memory(voxels: int, free: int | None, processes: int, where: Path | None) -> None:
    """Refuse a scan that does not fit into the host's memory while it is resampled to the model's grid.

    Parameters
    ----------
    voxels
        Voxels of the model's grid.
    free
        Bytes that the processes may take together; None: unknown, and no scan is refused.
    processes
        Number of processes that share these bytes.
    where
        The scan's file, for the message.

    Raises
    ------
    MemoryLimitError
        If the scan does not fit into the share of one process.
    """
    needed = RESAMPLING * voxels
    if free is None or needed <= free / processes:
        return
    shares = f" for {processes} workers" if processes > 1 else ""
    what = f"at the model's spacing this scan takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    todo = "Give fewer --workers" if processes > 1 else None
    raise MemoryLimitError(f"{what}{shares}", where=where, todo=todo)


def _shrinking(tile: Shape, patch: Shape, multiple: Shape) -> Iterator[Shape]:
    """Yield tiles down to the training size; each step cuts a multiple off the side that exceeds it most."""
    sides = list(tile)
    while True:
        yield sides[0], sides[1], sides[2]
        excess = [n / p if n - m >= p else 0.0 for n, p, m in zip(sides, patch, multiple, strict=True)]
        if not max(excess):
            return
        axis = excess.index(max(excess))
        sides[axis] -= multiple[axis]


def smaller(tiling: Tiling, patch: Shape, shape: Shape) -> Tiling | None:
    """Return tiles of the training size `patch` to retry with; None if no side of the tiles is longer.

    Below that size a network sees less of the surroundings than in training, and its mask may be wrong.
    """
    x, y, z = (min(t, p) for t, p in zip(tiling.tile, patch, strict=True))
    return None if (x, y, z) == tiling.tile else Tiling.overlapping(shape, (x, y, z), 0.5)
