"""What a process of the run is told: sizes, device, runtime; and where it leaves its rows."""

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
    """How much is measured.

    Parameters
    ----------
    atrium, spacing_mm
        Voxels of the small scan, and the spacing of both.
    large
        Voxels of the large scan.
    repeats
        Of the small and of the large scan, after one that is not counted; medians are told.
    batch, compared
        Scans of the batch, and how many of them the CPU does too.
    crops
        Sizes of the training steps.
    steps
        Training steps after the first.
    patches
        Runs of a patch.
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
    """One process of the run, as its command line says.

    Parameters
    ----------
    out
        The folder of the run.
    rows
        Where its rows go.
    bundle
        Name or folder.
    scan
        Of the user; None: a phantom.
    device
        `cuda`, in a rehearsal `cpu`.
    rehearse
        Whether next to nothing is measured, on the CPU.
    runtime, way, precision
        What is measured. `host`: the network alone runs on the GPU, its tiles go there and back; `device`:
        all arithmetic of the inference runs there, and torch plays CUDA graphs; `device-without-graphs`: it
        does not.
    crop
        Of a training step.
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
        """How much is measured."""
        return REHEARSAL if self.rehearse else FULL

    @property
    def row(self) -> Row:
        """With the cells that say how."""
        return Row("", f"{self.runtime}, {self.way}", self.precision)

    @property
    def on_device(self) -> bool:
        """`network.on_device`."""
        return self.way != "host"

    @property
    def cuda_graphs(self) -> bool:
        """`network.cuda_graphs`."""
        return self.way == "device"

    def tell(self, row: Row) -> None:
        """Add a row to those of this process."""
        add(self.rows, row)

    def on_cpu(self) -> Job:
        """The reference: OpenVINO in single precision on the host."""
        return replace(self, device="cpu", runtime="openvino", way="host", precision="float32")


def parser() -> argparse.ArgumentParser:
    """Of the command line of a process; `words` writes what it reads."""
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
    """What to do, and with what."""
    given = vars(parser().parse_args())
    kind, crop = given.pop("kind"), cast(Shape, tuple(given.pop("crop")))
    return kind, Job(**given, crop=crop, device="cpu" if given["rehearse"] else "cuda")
