"""One row of `gpu.sh`: a runtime on patches of a phantom, times and flipped voxels.

    python benchmarks/gpu.py BUNDLE FOLDER torch|onnx|tensorrt float32|float16

FOLDER holds the exports that `gpu.sh` made. The first run, torch in float32, leaves its labels there; the
others are compared with them. Copies to and from the GPU are part of the time. Not run on a GPU so far.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg import ModelBundle
from c3s3_seg.phantom import simulate

RUNS, BATCH = 50, 4
Network = Callable[[np.ndarray], np.ndarray]


def torch_network(bundle: ModelBundle, half: bool) -> Network:
    from c3s3_seg.inference.backends.runtimes import open_torch

    return open_torch(bundle, bundle.networks[0], None, "cuda", "float16" if half else "float32")


def onnx_network(path: Path) -> Network:
    import onnxruntime

    from c3s3_seg.inference.backends.onnxruntime import CUDA, CUDA_OPTIONS

    getattr(onnxruntime, "preload_dlls", lambda: None)()
    session = onnxruntime.InferenceSession(str(path), providers=[(CUDA, CUDA_OPTIONS)])
    if session.get_providers()[0] != CUDA:  # it falls back without a word
        sys.exit("ONNX Runtime does not run on the GPU here")

    def run(patches: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"scan": patches})[0])

    return run


def open_network(bundle: ModelBundle, folder: Path, runtime: str, precision: str) -> Network:
    if runtime == "torch":
        return torch_network(bundle, precision == "float16")
    ending = {"onnx": "onnx", "tensorrt": "engine"}[runtime]
    (path,) = (folder / f"{runtime}-{precision}").glob(f"*.{ending}")
    if runtime == "onnx":
        return onnx_network(path)
    from c3s3_seg.inference.backends.tensorrt import TensorRtBackend

    return TensorRtBackend(path.read_bytes())


def median_ms(network: Network, patches: np.ndarray) -> float:
    for _ in range(5):
        network(patches)
    seconds: list[float] = []
    for _ in range(RUNS):
        started = time.perf_counter()
        network(patches)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def main(name: str, folder: Path, runtime: str, precision: str) -> None:
    bundle = ModelBundle.find(name)
    scan = bundle.task.recipe.to_model(simulate(0).scan).array
    cut = tuple(slice(0, n) for n in bundle.task.patch)
    pads = [(0, max(0, n - m)) for n, m in zip(bundle.task.patch, scan.shape, strict=True)]
    patch = np.ascontiguousarray(np.pad(scan, pads)[cut])[None, None]
    network: Any = open_network(bundle, folder, runtime, precision)
    labels = network(patch).argmax(1)
    reference = folder / "labels.npy"
    if (runtime, precision) == ("torch", "float32"):
        np.save(reference, labels)
    flipped = int((labels != np.load(reference)).sum())
    alone = median_ms(network, patch)
    rate = 1000 * BATCH / median_ms(network, np.repeat(patch, BATCH, axis=0))
    print(f"| {runtime} | {precision} | {alone:.1f} | {rate:.1f} | {flipped} of {labels.size} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
