"""Ways to run one network over one volume, each in a process of its own, for inference.py and memory.py.

A child prints one line of JSON and writes its labels; the parent compares them. The child runs the contender
once before the clock starts, so that neither imports nor first calls are timed.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Labels = np.ndarray


@dataclass(frozen=True)
class Result:
    """The seconds of one process, its peak memory, the part above what it held before, and its labels."""

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    above_mb: float
    labels: Labels


def apart(script: str, name: str, words: list[str]) -> Result | str:
    """Run `script --one NAME WORDS` in a process; return its result, or its last line if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "labels.npy"
        command = [sys.executable, script, "--one", name, str(target), *words]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            return (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        found = json.loads(answer.stdout.splitlines()[-1])
        return Result(name, labels=np.load(target), **found)


def watched(work: Callable[[], Labels], target: Path, warm_up: Callable[[], object] | None = None) -> None:
    """Run the work once, then measure its time and memory, in the child; write the labels and a line of JSON.

    `warm_up` replaces the first run of `work` if a whole run would blur the memory: the allocator keeps
    pages, which then count as held before.
    """
    (warm_up or work)()
    before = resident_mb()
    reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    labels = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_mb()
    np.save(target, labels.astype(np.uint8))
    facts = {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak, "above_mb": peak - before}
    print(json.dumps(facts))


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def reset_peak() -> None:
    """Reset the peak memory, so that it is that of the work and not that of loading."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
