"""The README's table: `left-atrium-72` on its 8 validation cases, each in a process of its own.

    python benchmarks/left_atrium.py [DATA]      DATA: the folder `la`, default ../shared/data/la

The cold start is included: wall seconds and peak memory are those of the whole `c3s3-seg predict` process.
Then all 8 cases run in one process, and the scores are printed in both protocols.
"""

import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = "left-atrium-72"  # `left-atrium` was trained on these cases too
CASES = 8  # the last of the unlabelled list: the validation cases of the shipped configuration


def run(*words: object) -> float:
    """Run one command and return its wall seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "c3s3_seg", *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def peak_mb() -> float:
    """Return the largest resident memory (MB) of any finished child so far."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def scores(report: Path) -> dict[str, dict[str, float]]:
    with (report / "cases.csv").open() as file:
        return {
            row["case"]: {k: float(v) for k, v in row.items() if k not in ("case", "label")}
            for row in csv.DictReader(file)
        }


def main(data: Path) -> None:
    names = json.loads((data / "dataset.json").read_text())["unlabelled"][-CASES:]
    with tempfile.TemporaryDirectory() as folder:
        out, truth = Path(folder) / "out", Path(folder) / "truth"
        truth.mkdir()
        seconds = []
        for name in names:
            (truth / f"{name}.nii.gz").symlink_to((data / "labelsTr" / f"{name}.nii.gz").resolve())
            scan = data / "imagesTr" / f"{name}.nii.gz"
            seconds.append(run("predict", scan, "-o", out, "--model", MODEL))
        memory = peak_mb()
        scans = [data / "imagesTr" / f"{name}.nii.gz" for name in names]
        together = run("predict", *scans, "-o", Path(folder) / "all", "--model", MODEL)
        for protocol in ("clinical", "paper"):
            run("evaluate", out, truth, "-o", Path(folder) / protocol, "--protocol", protocol)
        mm, voxels = scores(Path(folder) / "clinical"), scores(Path(folder) / "paper")
    print("| case | Dice | Jaccard | 95HD (voxel) | ASD (voxel) | 95HD (mm) | ASD (mm) | cold start (s) |")
    print("|---|---|---|---|---|---|---|---|")
    columns = [
        (voxels, "dice"),
        (voxels, "jaccard"),
        (voxels, "hd95_vox"),
        (voxels, "asd_vox"),
        (mm, "hd95_mm"),
        (mm, "asd_mm"),
    ]
    rows = [
        [table[name][key] for table, key in columns] + [s] for name, s in zip(names, seconds, strict=True)
    ]
    means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    for name, row in [*zip([n[:4] for n in names], rows, strict=True), ("**mean**", means)]:
        print(f"| {name} | {row[0]:.3f} | {row[1]:.3f} |" + "".join(f" {x:.2f} |" for x in row[2:]))
    print(f"\nPeak memory {memory:.0f} MB. All {CASES} in one process: {together / CASES:.2f} s a scan.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("../shared/data/la"))
