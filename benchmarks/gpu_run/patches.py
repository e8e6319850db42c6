"""The network alone, on patches of a phantom: torch, and exported files in ONNX Runtime and TensorRT.

Copies to and from the GPU are part of the time. torch in float32 runs first and writes its labels; the others
are compared with them.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_run.job import Job
from gpu_run.rows import agreement

BATCH = 4
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def export(job: Job) -> None:
    """Export the network for a runtime and a precision; `export` checks its parity with torch."""
    target = {"onnx": "onnx", "tensorrt": "tensorrt"}[job.runtime]
    command = [sys.executable, "-m", "c3s3_seg", "export", job.bundle, "--to", target]
    command += ["--precision", job.precision, "-o", str(job.out / f"{job.runtime}-{job.precision}")]
    command += ["--batch", str(BATCH)] if job.runtime == "tensorrt" else []
    started = time.perf_counter()
    subprocess.run(command, check=True)
    taken = f"{time.perf_counter() - started:.1f} s"
    remark = "within the parity limits"
    job.tell(replace(job.row, what="export", how=job.runtime, result=taken, remark=remark))


def patches(job: Job) -> None:
    """Measure the median of one patch and patches/s in fours; compare the labels with torch in float32."""
    from c3s3_seg import ModelBundle
    from c3s3_seg.phantom import simulate

    bundle = ModelBundle.find(job.bundle)
    scan = bundle.task.recipe.to_model(simulate(0).scan).array
    pads = [(0, max(0, n - m)) for n, m in zip(bundle.task.patch, scan.shape, strict=True)]
    cut = tuple(slice(0, n) for n in bundle.task.patch)
    patch = np.ascontiguousarray(np.pad(scan, pads)[cut])[None, None]
    network = _network(job, bundle)
    labels, reference = network(patch).argmax(1), job.out / "patch.npy"
    row = replace(job.row, what=f"one patch, {' x '.join(map(str, bundle.task.patch))}", how=job.runtime)
    if (job.runtime, job.precision) == ("torch", "float32"):
        np.save(reference, labels)
    elif reference.is_file():
        row = replace(row, **agreement(labels, np.load(reference)))
    alone = _median_s(network, patch, job.scale.patches)
    rate = BATCH / _median_s(network, np.repeat(patch, BATCH, axis=0), job.scale.patches)
    told = f"{1000 * alone:.1f} ms; {rate:.1f} patches/s in batches of {BATCH}"
    job.tell(replace(row, result=told, remark="" if reference.is_file() else "no labels of torch"))


def without_tensorrt() -> str | None:
    """Return the reason why TensorRT cannot be used; None if its packages are installed."""
    for package in ("cuda", "tensorrt", "onnx"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return None


def _network(job: Job, bundle: Any) -> Network:
    if job.runtime == "torch":
        from c3s3_seg.inference.backends.runtimes import open_torch

        return open_torch(bundle, bundle.networks[0], None, job.device, job.precision)
    ending = {"onnx": "onnx", "tensorrt": "engine"}[job.runtime]
    (path,) = (job.out / f"{job.runtime}-{job.precision}").glob(f"*.{ending}")
    if job.runtime == "tensorrt":
        from c3s3_seg.inference.backends.tensorrt import TensorRtBackend

        return TensorRtBackend(path.read_bytes())
    return _onnx(str(path), job.device)


def _onnx(path: str, device: str) -> Network:
    import onnxruntime

    from c3s3_seg.inference.backends.onnxruntime import CPU, CUDA, CUDA_OPTIONS

    getattr(onnxruntime, "preload_dlls", lambda: None)()
    wanted: Any = CPU if device == "cpu" else (CUDA, CUDA_OPTIONS)
    session = onnxruntime.InferenceSession(path, providers=[wanted])
    if session.get_providers()[0] != (CPU if device == "cpu" else CUDA):  # it falls back silently
        raise RuntimeError("ONNX Runtime does not run on the GPU here")
    return lambda given: np.asarray(session.run(None, {"scan": given})[0])


def _median_s(network: Network, given: NDArray[np.float32], runs: int) -> float:
    for _ in range(min(10, runs)):  # torch records a CUDA graph at the ninth
        network(given)
    seconds: list[float] = []
    for _ in range(runs):
        started = time.perf_counter()
        network(given)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
