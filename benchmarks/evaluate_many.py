"""A folder of 300 cases evaluated in one run: seconds, and memory from the first case to the last.

    python benchmarks/evaluate_many.py [CASES]     default 300

Masks of 96 x 96 x 64 voxels are simulated, written, and measured by `c3s3-seg evaluate` with one and with
two processes. One of the cases is damaged: it must be reported as a failure with its reason. Memory is that
of all processes together, sampled ten times a second: the median of each quarter of the run, and the peak.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import save

GRID = Geometry.build((96, 96, 64), (1, 1, 1.5))


def write_cases(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    indices = np.indices(GRID.shape, dtype=np.float32)
    for name in ("predictions", "truth"):
        (folder / name).mkdir()
    for n in range(count):
        centre = np.array(GRID.shape)[:, None, None, None] / 2 + rng.uniform(-8, 8, (3, 1, 1, 1))
        apart = np.linalg.norm(indices - centre, axis=0)
        for name, radius in (("predictions", rng.uniform(17, 23)), ("truth", 20)):
            mask = (apart < radius).astype(np.uint8)
            save(GRID.volume(mask), folder / name / f"case-{n:03}.nii.gz")
    damaged = folder / "predictions" / "case-007.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:1000])


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    direct = [int(word) for word in path.read_text().split()] if path.exists() else []
    return direct + [grandchild for child in direct for grandchild in children(child)]


def memory_mb(process: int) -> float:
    """Return the proportional set size (MB) of a process and its descendants: shared pages count once."""
    total = 0.0
    for number in [process, *children(process)]:
        try:
            text = Path(f"/proc/{number}/smaps_rollup").read_text()
        except OSError:  # the process has just ended
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024
    return total


def evaluate(folder: Path, workers: int) -> tuple[float, list[float]]:
    words = ["evaluate", "predictions", "truth", "-o", f"report-{workers}", "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    started, samples = time.perf_counter(), []
    with subprocess.Popen(
        [sys.executable, "-m", "c3s3_seg", *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    ) as run:
        while run.poll() is None:
            samples.append(memory_mb(run.pid))
            time.sleep(0.1)
    if run.returncode != 1:  # 1: some cases failed
        raise SystemExit(f"exit code {run.returncode}, wanted 1 for the damaged case")
    return time.perf_counter() - started, samples


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_cases(folder, count)
        print("| processes | s | s a case | MB, 1st quarter | 2nd | 3rd | 4th | peak | failures |")
        print("|---|---|---|---|---|---|---|---|---|")
        for workers in (1, 2):
            seconds, samples = evaluate(folder, workers)
            quarters = [float(np.median(part)) for part in np.array_split(samples, 4)]
            report = json.loads((folder / f"report-{workers}" / "report.json").read_text())
            failed = [failure["case"] for failure in report["failures"]]
            cells = [
                f"{seconds:.1f}",
                f"{seconds / count:.3f}",
                *(f"{m:.0f}" for m in (*quarters, max(samples))),
            ]
            print(f"| {workers} | {' | '.join(cells)} | {', '.join(failed)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
