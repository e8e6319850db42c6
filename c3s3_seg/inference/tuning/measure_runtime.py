"""Measure one runtime with one tile size in a process of its own, which `measured` starts; it prints JSON.

Each measurement has its own process, because peak memory belongs to a process and runtimes slow each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import MissingError, shown
from c3s3_seg.inference.backends.graph import read_graph
from c3s3_seg.inference.backends.select import BackendRequest, describe, open_backend
from c3s3_seg.inference.tiling import Shape
from c3s3_seg.system.choices import CpuRuntime
from c3s3_seg.system.libraries import import_openvino
from c3s3_seg.system.memory import peak_memory
from c3s3_seg.system.process_pool import follow_parent

MATRIX = 2048  # side of the matrix product that the network is compared with
REPEATS = 3


@dataclass(frozen=True)
class Measurement:
    """The measurements of one process.

    Parameters
    ----------
    runtime, device, precision
        Runtime, device and precision that really ran.
    threads
        Requested threads; None left them to the runtime.
    tile
        Voxels (x, y, z) of the tile.
    open_s, first_s, seconds
        Seconds for loading, for the first tile, and the median for the following tiles.
    gflop
        10^9 operations for a tile: two for each multiplication of a convolution.
    matrix_gflop_s
        Speed of a single precision matrix product in the same process.
    peak_bytes
        Largest resident memory of the process.
    """

    runtime: str
    device: str
    precision: str
    threads: int | None
    tile: Shape
    open_s: float
    first_s: float
    seconds: float
    gflop: float
    matrix_gflop_s: float
    peak_bytes: int

    @property
    def voxels(self) -> int:
        """The number of voxels of the tile."""
        return int(np.prod(self.tile))

    @property
    def gflop_s(self) -> float:
        """The speed of the network, in 10^9 operations per second."""
        return self.gflop / self.seconds


def measured(bundle: ModelBundle, runtime: CpuRuntime, threads: int | None, tile: Shape) -> Measurement:
    """Measure the bundle's first network on a tile of noise, in a process that is started for it.

    Raises
    ------
    MissingError
        If that process failed; the message has its last line.
    """
    words = [str(bundle.folder.resolve()), runtime, str(threads or 0), *map(str, tile)]
    counted = {} if threads is None else {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS")}
    finished = subprocess.run(
        [sys.executable, "-m", "c3s3_seg.inference.tuning.measure_runtime", *words],
        env={**os.environ, **counted},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1]
        raise MissingError(f"the runtime '{runtime}' failed on tiles of {shown(tile)}: {last}")
    found = json.loads(finished.stdout.splitlines()[-1])
    return Measurement(**{**found, "tile": tuple(found["tile"])})


def measure(bundle: ModelBundle, request: BackendRequest, tile: Shape) -> Measurement:
    """Measure in this process."""
    patch = np.random.default_rng(0).normal(size=(1, 1, *tile)).astype(np.float32)
    started = time.perf_counter()
    backend = open_backend(bundle, bundle.networks[0], request)
    opened = time.perf_counter()
    backend(patch)
    first = time.perf_counter() - opened
    seconds = median(_timed(lambda: backend(patch)) for _ in range(REPEATS))
    peak = peak_memory()
    where = describe(backend)
    return Measurement(
        runtime=where["backend"],
        device=where["device"],
        precision=where["precision"],
        threads=request.threads,
        tile=tile,
        open_s=opened - started,
        first_s=first,
        seconds=seconds,
        gflop=_gflop(bundle, tile),
        matrix_gflop_s=_matrix_speed(),
        peak_bytes=peak,
    )


def _gflop(bundle: ModelBundle, tile: Shape) -> float:
    """Return `gflop` of the first network; 0 if it has no graph. A file that no hash covers is not read."""
    graph, hashes = bundle.networks[0].graph, bundle.manifest.files
    return gflop(bundle.folder / graph, tile, hashes) if bundle.has(graph) else 0.0


def gflop(graph: Path, tile: Shape, hashes: Mapping[str, str] | None = None) -> float:
    """Return the 10^9 operations of a graph's convolutions on one tile; for `hashes` see `read_graph`."""
    model = import_openvino().Core().read_model(read_graph(graph, hashes))
    model.reshape([1, 1, *tile])
    total = 0.0
    for node in model.get_ops():
        if "Convolution" in node.get_type_name():
            kernel = np.prod([int(n) for n in node.input(1).get_shape()])
            # A kernel is used once for each voxel: of its output, or of its input if it is transposed.
            transposed = "Backprop" in node.get_type_name()
            shape = node.input(0).get_shape() if transposed else node.output(0).get_shape()
            total += 2.0 * float(kernel) * float(np.prod([int(n) for n in list(shape)[2:]]))
    return total / 1e9


def _timed(run: object) -> float:
    started = time.perf_counter()
    run()  # type: ignore[operator]
    return time.perf_counter() - started


def _matrix_speed() -> float:
    matrix = np.random.default_rng(0).normal(size=(MATRIX, MATRIX)).astype(np.float32)
    seconds = min(_timed(lambda: matrix @ matrix) for _ in range(REPEATS + 1))
    return 2 * MATRIX**3 / seconds / 1e9


def main(words: list[str]) -> None:
    """Run the child process; its arguments are FOLDER RUNTIME THREADS X Y Z."""
    follow_parent()
    folder, runtime, threads, x, y, z = words
    bundle = ModelBundle.load(Path(folder))
    request = BackendRequest(runtime, "cpu", threads=int(threads) or None)  # type: ignore[arg-type]
    sys.stdout.write(json.dumps(asdict(measure(bundle, request, (int(x), int(y), int(z))))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
