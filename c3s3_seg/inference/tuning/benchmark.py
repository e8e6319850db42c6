"""Measure runtimes, numbers of threads and tiles on this machine, each in a process of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import MissingError
from c3s3_seg.inference.backends.select import PACKAGES
from c3s3_seg.inference.tiling import Shape
from c3s3_seg.inference.tuning.measure_runtime import Measurement, measured
from c3s3_seg.inference.tuning.profile import Best, Machine
from c3s3_seg.system.choices import CpuRuntime
from c3s3_seg.system.progress import Progress

RUNTIMES: tuple[CpuRuntime, ...] = get_args(CpuRuntime)


@dataclass(frozen=True)
class Survey:
    """The measurements, and the failures as (runtime, reason)."""

    found: tuple[Measurement, ...]
    failed: tuple[tuple[str, str], ...]

    def best(self) -> Best:
        """Return the fastest per voxel, with the memory that its runtime took over tiles of several sizes.

        Raises
        ------
        MissingError
            If no runtime could be measured.
        """
        if not self.found:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.failed)
            raise MissingError(f"no runtime could be measured ({why})")
        fastest = min(self.found, key=lambda m: m.seconds / m.voxels)
        same = [m for m in self.found if m.runtime == fastest.runtime]
        voxels, peaks = np.array([(m.voxels, m.peak_bytes) for m in same], dtype=np.float64).T
        slope = float(np.polyfit(voxels, peaks, 1)[0]) if len(set(voxels)) > 1 else peaks.max() / voxels.max()
        slope = max(slope, 0.0)
        return Best(
            runtime=fastest.runtime,  # type: ignore[arg-type]
            threads=fastest.threads or Machine.here().cores,
            seconds_per_mvoxel=fastest.seconds / fastest.voxels * 1e6,
            gflop_s=fastest.gflop_s,
            matrix_gflop_s=fastest.matrix_gflop_s,
            base_bytes=max(0, int((peaks - slope * voxels).max())),
            bytes_per_voxel=slope,
        )


def survey(
    bundle: ModelBundle,
    report: Progress | None = None,
    runtimes: Sequence[CpuRuntime] = RUNTIMES,
) -> Survey:
    """Measure every installed runtime on the bundle's tiles; the fastest also with other tiles and threads.

    Parameters
    ----------
    bundle
        Bundle whose first network is measured.
    report
        Called with a description before each measurement.
    runtimes
        Runtimes to try.
    """
    found: list[Measurement] = []
    failed: list[tuple[str, str]] = []

    def attempt(runtime: CpuRuntime, threads: int | None, tile: Shape) -> None:
        if report is not None:
            report(f"{runtime}, {threads or 'all'} threads, tiles of {tile}")
        try:
            found.append(measured(bundle, runtime, threads, tile))
        except MissingError as error:
            failed.append((runtime, error.what))

    sizes = tiles(bundle.task.patch, bundle.task.multiple)
    cores = Machine.here().cores
    for runtime in runtimes:
        if runtime != "torch" and not bundle.has(bundle.networks[0].graph):
            failed.append((runtime, "the bundle has no ONNX graph"))
        elif importlib.util.find_spec(PACKAGES[runtime][0]) is None:
            failed.append((runtime, "not installed"))
        else:
            attempt(runtime, None, sizes[0])
    if found:
        fastest: CpuRuntime = min(found, key=lambda m: m.seconds).runtime  # type: ignore[assignment]
        for threads in other_threads(cores):
            attempt(fastest, threads, sizes[0])
        for tile in sizes[1:]:
            attempt(fastest, None, tile)
    return Survey(tuple(found), tuple(failed))


def tiles(patch: Shape, multiple: Shape) -> Sequence[Shape]:
    """Return the training size and two larger ones: for 112 x 112 x 80, with 1.7 and 2.9 times its voxels."""
    x, y, z = (int(side * 1.25) // n * n + n for side, n in zip(patch, multiple, strict=True))
    return patch, (x, y, patch[2]), (x + multiple[0], y + multiple[1], z)


def other_threads(cores: int) -> list[int]:
    """Return the numbers of threads to try besides all: one, and half of the cores (no hyper-threads)."""
    return sorted({1, cores // 2} - {0, cores})
