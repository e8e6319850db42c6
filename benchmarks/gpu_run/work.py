"""One process of the run, `python -m gpu_run.work KIND ...`, started by `plan.py`; rows go to a file."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from c3s3_seg.errors import C3S3Error
from gpu_run import patches, scans
from gpu_run.job import Job, parsed
from gpu_run.requirements import ROOT
from gpu_run.rows import Row


def machine(job: Job) -> None:
    """Report the GPU, the driver, the processor, and the versions of the runtimes.

    Raises
    ------
    RuntimeError
        If torch does not run on CUDA and this is not a rehearsal.
    """
    import torch

    from c3s3_seg.system.hardware import available_processors, processor_name, runtime_versions

    versions = ", ".join(f"{name} {version}" for name, version in runtime_versions().items())
    host = f"{processor_name()}, {available_processors()} processors, {platform.system()}"
    if job.rehearse:
        job.tell(Row("card", result="none: a rehearsal on the CPU", remark=host))
    elif not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU; `gpu.sh --rehearse` runs without one")
    else:
        facts = torch.cuda.get_device_properties(0)
        memory = f"{facts.total_memory / 2**30:.0f} GiB, driver {_driver()}"
        job.tell(Row("card", result=facts.name, remark=f"{memory}; {host}"))
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        versions += f"; CUDA {torch.version.cuda}, cuDNN {cudnn}"
    job.tell(Row("versions", result=versions))


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.splitlines()[0].strip() if answer.strip() else "unknown"


def training(job: Job) -> None:
    """Measure a step of C3S3 with its two networks, as `benchmarks/training.py` does."""
    from training import measure

    size, steps = list(job.crop), job.scale.steps
    options = argparse.Namespace(size=size, steps=steps, device=job.device)
    found = measure("c3s3", job.precision, options)
    what = f"training step, crops of {' x '.join(map(str, size))}"
    told, memory = f"{found['seconds']:.3f} s", f"{found['mb']:.0f} MB"
    job.tell(Row(what, "torch, C3S3", job.precision, told, remark=f"median of {steps}; {memory}"))


def tests(job: Job) -> None:
    """Run `tests/gpu` in several processes, as most of their time is spent outside the GPU."""
    report = job.out / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "-p", "no:cacheprovider"]
    # TensorRT tests run in one process, whose folder keeps the engines: building one takes minutes.
    command += ["--dist", "loadgroup", f"--junitxml={report}", "tests/gpu"]
    started = time.perf_counter()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    taken = f"{time.perf_counter() - started:.0f} s"
    counts, failed = told_by_junit(report)
    bad = code != 0 or (counts.startswith("0 passed") and not job.rehearse)  # with a GPU, torch's tests run
    job.tell(
        Row(
            "tests/gpu",
            result=f"failed: {counts}" if bad else counts,
            remark=", ".join([taken, *failed[:3]]),
        )
    )


def told_by_junit(report: Path) -> tuple[str, list[str]]:
    """Return the counts of passed, failed and skipped tests as text, and the names of failed tests.

    Raises
    ------
    RuntimeError
        If pytest ended before it wrote its report.
    """
    if not report.is_file():
        raise RuntimeError("pytest wrote no report")
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name", "") for case in cases if {"failure", "error"} & {part.tag for part in case}]
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return f"{len(cases) - len(failed) - skipped} passed, {len(failed)} failed, {skipped} skipped", failed


def only_with_tensorrt(measure: Callable[[Job], None]) -> Callable[[Job], None]:
    """Wrap a measurement: without the optional TensorRT, a row states the reason and nothing fails."""

    def run(job: Job) -> None:
        missing = patches.without_tensorrt() or ("a rehearsal has no GPU" if job.rehearse else None)
        if job.runtime == "tensorrt" and missing:
            job.tell(replace(job.row, what=measure.__name__, result="left out", remark=missing))
        else:
            measure(job)

    return run


KINDS: dict[str, Callable[[Job], None]] = {
    "machine": machine,
    "prepare": scans.prepare,
    "reference": lambda job: scans.latency(job.on_cpu()),
    "latency": only_with_tensorrt(scans.latency),
    "reference-batch": lambda job: scans.reference_batch(job.on_cpu()),
    "batch": scans.batch,
    "training": training,
    "tests": tests,
    "export": only_with_tensorrt(patches.export),
    "patches": only_with_tensorrt(patches.patches),
}


def main() -> int:
    """Run one kind of work; return 1 after an error of this package or a contender, with a line on stderr."""
    kind, job = parsed()
    try:
        KINDS[kind](job)
    except (C3S3Error, RuntimeError) as error:
        traceback.print_exc()
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
