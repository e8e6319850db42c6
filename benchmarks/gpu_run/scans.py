"""Masks of whole scans: time of one mask, masks per second, and agreement with the masks of the CPU."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpu_run.job import Job
from gpu_run.rows import Row, agreement

if TYPE_CHECKING:
    from c3s3_seg import Predictor, Volume

SEED = 20_264  # no shipped bundle has seen this phantom
SCANS, BATCH, ONE, COMPARED = "scans", "batch", "one", "compared"
REFERENCE = "compared-on-the-cpu"


def prepare(job: Job) -> None:
    """Write the scan, the same scan alone in a folder, and a batch of the scan with different noise."""
    from c3s3_seg import save

    scan, scale = _small(job), job.scale
    for folder in (SCANS, BATCH, ONE, COMPARED):
        (job.out / folder).mkdir()
    save(scan, job.out / SCANS / "small.nii.gz")
    save(scan, job.out / ONE / "case-00.nii.gz")
    spread = 0.005 * float(np.ptp(scan.array))
    for number in range(scale.batch):
        noise = np.random.default_rng(number).normal(0, spread, scan.array.shape)
        case = scan.geometry.volume(_as_stored(scan.array + noise, scan.array.dtype), scan.source)
        name = f"case-{number:02}.nii.gz"
        save(case, job.out / BATCH / name)
        if number < scale.compared:
            (job.out / COMPARED / name).hardlink_to(job.out / BATCH / name)
    origin = "a scan of the user" if job.scan else "a phantom"
    job.tell(
        Row("scans", result=f"{_shape(scan.array)} and {_shape(_large(scan, job).array)}", remark=origin)
    )


def latency(job: Job) -> None:
    """Measure the warm seconds from a scan in memory to its mask; masks of the CPU become the reference."""
    from c3s3_seg import load

    predictor = _opened(job)
    small = load(job.out / SCANS / "small.nii.gz")
    for name, scan, repeats in zip(
        ("one atrium", "large scan"), (small, _large(small, job)), job.scale.repeats, strict=True
    ):
        reference = job.out / f"{name.replace(' ', '-')}.npy"
        mask, row = _timed(predictor, scan, 0 if _is_reference(job) else repeats, job)
        row = replace(row, what=f"{name}, {_shape(scan.array)}")
        if _is_reference(job):
            np.save(reference, mask)
        elif reference.is_file():
            row = replace(row, **agreement(mask, np.load(reference)))
        else:
            row = replace(row, flipped="no mask of the CPU")
        job.tell(row)


def batch(job: Job) -> None:
    """Measure scans/s of `predict` over a folder, and one scan alone, each in a process of its own."""
    name = "-".join((job.runtime, job.way, job.precision))
    alone_s = _predict(job, job.out / ONE, job.out / f"{ONE}-{name}")
    masks = job.out / f"{BATCH}-{name}"
    taken_s, count = _predict(job, job.out / BATCH, masks), job.scale.batch
    row = replace(
        job.row,
        what=f"batch of {count}",
        result=f"{count / taken_s:.2f} scans/s ({taken_s:.1f} s)",
        remark=f"one scan alone, a fresh process: {alone_s:.1f} s",
    )
    reference = job.out / REFERENCE
    if reference.is_dir():
        names = sorted(path.name for path in reference.glob("*.nii.gz"))
        row = replace(row, **agreement(_masks(masks, names), _masks(reference, names)))
    job.tell(row)


def reference_batch(job: Job) -> None:
    """Segment the first scans of the batch on the CPU."""
    taken_s, count = _predict(job, job.out / COMPARED, job.out / REFERENCE), job.scale.compared
    row = replace(job.row, what=f"the first {count} of the batch", result=f"{taken_s:.1f} s")
    job.tell(replace(row, remark="a fresh process"))


def _is_reference(job: Job) -> bool:
    return job.runtime == "openvino"


def _timed(predictor: Predictor, scan: Volume, repeats: int, job: Job) -> tuple[NDArray[Any], Row]:
    """Return the mask and a row with medians; if `repeats` is 0, with the time of the first and only call.

    A graph is recorded after some tiles of a shape, and an atrium may be a single tile: the calls up to the
    recording are not counted.
    """
    from c3s3_seg.inference.backends.select import notes
    from c3s3_seg.inference.device.cuda_graphs import WORTH

    _reset_peak(job)
    roi = ",".join(f"0:{n}" for n in scan.array.shape)  # the whole scan, so that no search comes first
    seconds: list[float] = []
    network: list[float] = []
    first = WORTH + 1 if job.cuda_graphs and repeats > 1 else min(1, repeats)
    for _ in range(first + max(1, repeats)):
        started = time.perf_counter()
        found = predictor(scan, roi=roi, allow_out_of_domain=True)
        seconds.append(time.perf_counter() - started)
        network.append(found.seconds["network"])
    warm = slice(first, None)
    told = f"{statistics.median(seconds[warm]):.3f} s"
    remark = f"network {statistics.median(network[warm]):.3f} s, {found.tiles} tiles of {found.tile}"
    remark += _peak(job) if repeats else "; one call, its first"
    remark = "; ".join([remark, *notes(predictor.backends[0])])
    return np.asarray(found.mask.array), replace(job.row, result=told, remark=remark)


def _predict(job: Job, scans: Path, out: Path) -> float:
    """Run `predict` and return its wall seconds.

    Raises
    ------
    RuntimeError
        If the command fails; the message holds its last line.
    """
    command = [sys.executable, "-m", "c3s3_seg", "predict", str(scans), "-o", str(out), "--quiet"]
    command += ["--model", job.bundle, "--allow-out-of-domain", "--backend", job.runtime]
    command += ["--device", job.device, "--precision", job.precision]
    for key, on in {"on_device": job.on_device, "cuda_graphs": job.cuda_graphs}.items():
        command += ["--set", f"network.{key}={str(on).lower()}"]
    started = time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    taken_s = time.perf_counter() - started
    if answer.returncode:
        lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines() or ["it wrote nothing"]
        raise RuntimeError(f"predict ended with exit code {answer.returncode}: {lines[-1]}")
    return taken_s


def _opened(job: Job) -> Predictor:
    """Return the opened predictor of a job: its runtime, and where the steps around the network run."""
    from c3s3_seg import ModelBundle, Settings, open_predictor
    from c3s3_seg.inference import BackendRequest

    request = BackendRequest(job.runtime, job.device, job.precision, cuda_graphs=job.cuda_graphs)
    settings = Settings(on_device=job.on_device)
    return open_predictor(ModelBundle.find(job.bundle), backend=request, settings=settings)


def _small(job: Job) -> Volume:
    from c3s3_seg import load
    from c3s3_seg.phantom import Simulator, simulate

    if job.scan is not None:
        return load(job.scan)
    spacing = job.scale.spacing_mm
    return simulate(SEED, Simulator(job.scale.atrium, (spacing,) * 3, spacing_spread=0)).scan


def _large(small: Volume, job: Job) -> Volume:
    """Return the small scan repeated along each axis: the cost of a tile does not depend on its content."""
    large = job.scale.large
    pads = [(0, max(0, n - m)) for n, m in zip(large, small.array.shape, strict=True)]
    array = np.pad(small.array, pads, mode="wrap")[tuple(slice(0, n) for n in large)]
    return small.geometry.build(large, small.geometry.spacing_mm).volume(array, small.source)


def _as_stored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return values in the type of the scan: integer types are rounded and clipped to their range."""
    if np.issubdtype(dtype, np.integer):
        values = np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return values.astype(dtype)


def _masks(folder: Path, names: list[str]) -> NDArray[Any]:
    """Return some masks of a batch, concatenated along the first axis."""
    from c3s3_seg import load_mask

    return np.concatenate([load_mask(folder / name).array for name in names])


def _reset_peak(job: Job) -> None:
    if job.device == "cuda" and job.runtime == "torch":
        import torch

        torch.cuda.reset_peak_memory_stats()


def _peak(job: Job) -> str:
    """Return the GPU memory of torch as text; ONNX Runtime and TensorRT allocate without torch."""
    if job.device != "cuda" or job.runtime != "torch":
        return ""
    import torch

    return f", {torch.cuda.max_memory_allocated() / 1e6:.0f} MB of the GPU"


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape))
