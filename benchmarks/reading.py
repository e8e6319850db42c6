"""Reading a DICOM series of hundreds of slices: this package, with all checks, and SimpleITK's own reader.

    python benchmarks/reading.py [--slices 400] [--runs 5]

A phantom is repeated to 512 x 512 x N and written as a series, plain and compressed. Both readers read
the same files in turn; the first reading of each is not counted, so that the disk is not measured. Times
are processor seconds, children included, as wall seconds mean little on a busy machine.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pydicom
import SimpleITK
from pydicom.uid import JPEGLSLossless

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import load
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.phantom import simulate


def write(folder: Path, slices: int) -> list[Path]:
    """Write a phantom, repeated until it is as large as a chest CT, as a series; return its files."""
    scan = simulate(0).scan
    array = scan.array.astype(np.uint16)
    times = [-(-n // m) for n, m in zip((512, 512, slices), array.shape, strict=True)]
    array = np.tile(array, times)[:512, :512, :slices]
    grid = Geometry.build(array.shape, (0.7, 0.7, 1.0), (-180, -180, 0))
    return save_series(grid.volume(array), folder, description="reading", seed_uid="reading")


def ours(folder: Path) -> int:
    return int(load(folder).array[100, 200, 3])


def theirs(folder: Path) -> int:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return int(reader.Execute()[100, 200, 3])


def timed(read: Callable[[Path], int], folder: Path) -> float:
    before = os.times()
    read(folder)
    return sum(os.times()[:4]) - sum(before[:4])


def compare(folder: Path, runs: int) -> tuple[float, float]:
    """Return the median seconds of both readers, run in turn."""
    if ours(folder) != theirs(folder):
        raise SystemExit("the two readers differ")
    pairs = [(timed(ours, folder), timed(theirs, folder)) for _ in range(runs)]
    return median(p[0] for p in pairs), median(p[1] for p in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--runs", type=int, default=5)
    words = parser.parse_args()
    print(f"| 512 x 512 x {words.slices} | c3s3-seg (s) | SimpleITK (s) | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "series"
        files = write(folder, words.slices)
        a, b = compare(folder, words.runs)
        print(f"| plain | {a:.2f} | {b:.2f} | {a / b:.2f} |", flush=True)
        for path in files:
            data = pydicom.dcmread(path)
            data.compress(JPEGLSLossless, generate_instance_uid=False)
            data.save_as(path)
        a, b = compare(folder, min(words.runs, 3))
        print(f"| JPEG-LS | {a:.2f} | {b:.2f} | {a / b:.2f} |")


if __name__ == "__main__":
    main()
