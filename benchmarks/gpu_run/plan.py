"""The parts of a run in order, each with its time limit: the most important first, TensorRT last."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpu_run.job import FULL, REHEARSAL
from gpu_run.rows import Row
from gpu_run.runner import Part

# (runtime, way, precision): the old way, with which the others are compared, comes first. A batch leaves out
# the first two, torch in single precision, which nobody uses on a GPU.
WAYS = [("torch", way, precision) for precision in ("float32", "float16") for way in ("host", "device")]
WAYS += [("onnx", "host", "float32"), ("onnx", "device", "float32")]
GRAPHS = ("torch", "device-without-graphs", "float16")  # shows the gain by CUDA graphs
TRAINING = ("float32", "float16", "bfloat16")
CARD = "machine"  # the first part; without a GPU no other part runs
HALVES = ("float32", "float16")
GROUPS = ("scans", "batch", "training", "tests", "patches", "tensorrt")
SLOWER = 4  # factor of a rehearsal: few processors, half precision in software


@dataclass(frozen=True)
class Plan:
    """The settings shared by all parts.

    Parameters
    ----------
    out
        Folder of the run.
    bundle
        Name or folder of the bundle.
    scan
        Scan of the user; None for a phantom.
    rehearse
        Whether this is a rehearsal: tiny sizes on the CPU.
    """

    out: Path
    bundle: str
    scan: Path | None
    rehearse: bool

    def parts(self, groups: Collection[str] = GROUPS) -> Iterator[Part]:
        """Yield the parts of some groups; each has a time limit, besides the time left to the whole run."""
        yield self._part(CARD, 60, Row("card"))
        if {"scans", "batch", "tensorrt"} & set(groups):
            yield self._part("prepare", 90, Row("scans"))
        of = {"scans": self._scans, "batch": self._batch, "training": self._training}
        of |= {"tests": self._tests, "patches": self._patches, "tensorrt": self._tensorrt}
        for name in GROUPS:
            if name in groups:
                yield from of[name]()

    def _scans(self) -> Iterator[Part]:
        yield self._part("reference", 120, self._row("scans on the CPU", "openvino", "host", "float32"))
        for way in [*WAYS, GRAPHS]:
            yield self._measured("latency", 60, *way)

    def _batch(self) -> Iterator[Part]:
        yield self._part("reference-batch", 60, self._row("batch", "openvino", "host", "float32"))
        for way in WAYS[2:]:
            yield self._measured("batch", 60, *way)

    def _tests(self) -> Iterator[Part]:
        yield self._part("tests", 120, Row("tests/gpu"))

    def _patches(self) -> Iterator[Part]:
        yield from self._network("torch", "onnx")

    def _tensorrt(self) -> Iterator[Part]:
        yield from self._network("tensorrt")
        yield self._measured("latency", 180, "tensorrt", "host", "float32")

    def _training(self) -> Iterator[Part]:
        for crop in (REHEARSAL if self.rehearse else FULL).crops:
            size = tuple(map(str, crop))
            for precision in TRAINING:
                row = Row(f"training step, crops of {' x '.join(size)}", "torch, C3S3", precision)
                more = ("--precision", precision, "--crop", *size)
                yield self._part("training", 60, row, *more)

    def _network(self, *runtimes: str) -> Iterator[Part]:
        for runtime in runtimes:
            for precision in HALVES:
                if runtime != "torch":
                    yield self._measured("export", 90, runtime, "host", precision)
                yield self._measured("patches", 40, runtime, "host", precision)

    def _measured(self, kind: str, limit_s: float, runtime: str, way: str, precision: str) -> Part:
        more = ("--runtime", runtime, "--way", way, "--precision", precision)
        return self._part(kind, limit_s, self._row(kind, runtime, way, precision), *more)

    def _part(self, kind: str, limit_s: float, row: Row, *more: str) -> Part:
        command = [sys.executable, "-m", "gpu_run.work", kind, "--out", str(self.out)]
        command += ["--bundle", self.bundle, *(["--scan", str(self.scan)] if self.scan else [])]
        command += ["--rehearse"] if self.rehearse else []
        name = "-".join([kind, *(word for word in more if word[:2] != "--")])
        return Part(name, row, (*command, *more), limit_s * (SLOWER if self.rehearse else 1))

    @staticmethod
    def _row(what: str, runtime: str, way: str, precision: str) -> Row:
        return Row(what, f"{runtime}, {way}", precision)
