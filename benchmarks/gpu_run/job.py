"""The settings of a process of the run: sizes, device, runtime, and the file for its rows."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from c3s3_seg.system.choices import BackendName, Precision
from gpu_run.rows import Row, add

Shape = tuple[int, int, int]
Way = Literal["host", "device", "device-without-graphs"]


@dataclass(frozen=True)
class Scale:
    """The sizes and numbers of the measurements.

    Parameters
    ----------
    atrium, spacing_mm
        Voxels of the small scan, and the spacing of both scans.
    large
        Voxels of the large scan.
    repeats
        Repeats of the small and of the large scan, after one that is not counted; medians are reported.
    batch, compared
        Number of scans in the batch, and the number of them that the CPU processes too.
    crops
        Crop sizes of the training steps.
    steps
        Number of training steps after the first.
    patches
        Number of runs of a patch.
    """

    atrium: Shape = (192, 141, 88)
    spacing_mm: float = 0.625
    large: Shape = (512, 512, 300)
    repeats: tuple[int, int] = (10, 1)
    batch: int = 20
    compared: int = 4
    crops: tuple[Shape, ...] = ((64, 64, 48), (112, 112, 80))
    steps: int = 10
    patches: int = 50


FULL = Scale()
REHEARSAL = Scale((40, 32, 24), 2.5, (48, 40, 32), (1, 1), 3, 2, ((16, 16, 16),), 1, 2)


@dataclass(frozen=True)
class Job:
    """One process of the run, as given by its command line.

    Parameters
    ----------
    out
        Folder of the run.
    rows
        File for the rows of this process.
    bundle
        Name or folder of the bundle.
    scan
        Scan of the user; None for a phantom.
    device
        `cuda`, or `cpu` in a rehearsal.
    rehearse
        Whether this is a rehearsal: tiny sizes on the CPU.
    runtime, way, precision
        Setting to be measured. `host`: only the network runs on the GPU, and tiles are copied to it and back;
        `device`: all arithmetic of the inference runs on the GPU, and torch replays CUDA graphs;
        `device-without-graphs`: the same without CUDA graphs.
    crop
        Crop size of a training step.
    """

    out: Path
    rows: Path
    bundle: str
    scan: Path | None
    device: str
    rehearse: bool
    runtime: BackendName
    way: Way
    precision: Precision
    crop: Shape

    @property
    def scale(self) -> Scale:
        """The sizes and numbers of the measurements."""
        return REHEARSAL if self.rehearse else FULL

    @property
    def row(self) -> Row:
        """A row with the cells for runtime, way and precision filled in."""
        return Row("", f"{self.runtime}, {self.way}", self.precision)

    @property
    def on_device(self) -> bool:
        """The setting `network.on_device`."""
        return self.way != "host"

    @property
    def cuda_graphs(self) -> bool:
        """The setting `network.cuda_graphs`."""
        return self.way == "device"

    def tell(self, row: Row) -> None:
        """Add a row to those of this process."""
        add(self.rows, row)

    def on_cpu(self) -> Job:
        """Return the job of the reference: OpenVINO in single precision on the host."""
        return replace(self, device="cpu", runtime="openvino", way="host", precision="float32")


def parser() -> argparse.ArgumentParser:
    """Return the parser of a process's command line; `words` writes the arguments that it reads."""
    made = argparse.ArgumentParser()
    made.add_argument("kind")
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--rows", type=Path, required=True)
    made.add_argument("--bundle", required=True)
    made.add_argument("--scan", type=Path)
    made.add_argument("--rehearse", action="store_true")
    made.add_argument("--runtime", choices=get_args(BackendName), default="torch")
    made.add_argument("--way", choices=get_args(Way), default="host")
    made.add_argument("--precision", choices=get_args(Precision), default="float32")
    made.add_argument("--crop", nargs=3, type=int, default=(0, 0, 0))
    return made


def parsed() -> tuple[str, Job]:
    """Return the kind of work and its job, from the command line."""
    given = vars(parser().parse_args())
    kind, crop = given.pop("kind"), cast(Shape, tuple(given.pop("crop")))
    return kind, Job(**given, crop=crop, device="cpu" if given["rehearse"] else "cuda")
