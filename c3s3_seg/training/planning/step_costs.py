"""Collect the measured cost of a run's steps as it arrives, and assume the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import inf, prod
from statistics import fmean, median
from typing import Any

from c3s3_seg.system.memory import peak_memory
from c3s3_seg.training.config import TrainConfig, warm_up
from c3s3_seg.training.planning.trial import READ, STEPS

# Seconds of a warm-up step per unit of `cost`: both nets of 16 filters on two crops of 64 x 64 x 48 take
# 3.7 s on two cores with AVX2 (benchmarks/training-log.md).
VOXEL_S = 6e-7
# Ratio of the time of a step of the method itself to that of a warm-up step. MCF's take the same time: both
# pass one view of a step's crops through both nets.
LONGER = {"c3s3": 2.3, "mcf": 1.0, "bcp": 1.4, "sdcl": 1.3}
LOAD_S = 1.0  # seconds to read a case
WHOLE = 4  # assumed size of a scan, in crops


@dataclass(frozen=True)
class Timing:
    """The measured cost of a run's steps and cases.

    Parameters
    ----------
    warm_s, full_s
        Seconds of a warm-up step, and of a step of the method itself.
    validate_s
        Seconds to validate one case with all nets.
    load_s, case_bytes
        Seconds to read a training case, and bytes to keep it in memory.
    peak_bytes
        Peak resident size of the process or, if larger, peak GPU memory, with `READ` cases of each kind; inf
        if the system ended the process.
    waited
        Share of the steps' time, over all threads, in which they were ready but other programs had the
        processors: 0 to 1. 0 if the system does not report it.
    precision, precision_why
        Precision that `run.precision` became, and the reason; empty if unknown in time.
    assumed
        Values not measured for lack of time, in words, with fields of this class in place of numbers, so
        that the numbers stay true in a scaled timing.
    guessed
        Whether no step at all was finished.
    validation_bytes
        Bytes to keep a validation case in memory, as it is on disk.
    """

    warm_s: float
    full_s: float
    validate_s: float
    load_s: float
    case_bytes: int
    peak_bytes: float
    waited: float = 0.0
    precision: str = ""
    precision_why: str = ""
    assumed: tuple[str, ...] = ()
    guessed: bool = False
    validation_bytes: int = 0

    @property
    def assumptions(self) -> tuple[str, ...]:
        """The assumptions, in words and numbers."""
        return tuple(words.format_map(vars(self)) for words in self.assumed)

    def needs_bytes(self, cases: int, validation: int = 0) -> float:
        """Return the bytes that a run needs with all training and validation cases in memory."""
        more = self.case_bytes * max(0, cases - READ) + self.validation_bytes * max(0, validation - 1)
        return self.peak_bytes + more

    def mean_s(self, share: float) -> float:
        """Return the mean seconds of a step if `share` of the steps are the warm-up's."""
        return share * self.warm_s + (1 - share) * self.full_s


class Pieces:
    """The measurements that a trial has sent so far.

    Parameters
    ----------
    config
        Configuration of the trial.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.died = False
        self.complete = False
        self._found: dict[str, list[Any]] = {}
        self._said_s = time.monotonic()

    def take(self, name: str, value: Any) -> None:
        """Add one measurement.

        Raises
        ------
        C3S3Error
            If the trial failed: its error.
        """
        if name == "failed":
            raise value
        self.complete = name == "ended"
        self._found.setdefault(name, []).append(value)
        self._said_s = time.monotonic()

    @property
    def words(self) -> str:
        """The progress of the trial, in words."""
        if "loaded" not in self._found:
            return "starting a process to time steps in"
        steps = len(self._found.get("full_s", []))
        if "precision" not in self._found:
            return "timing steps: reading cases, and asking which precision is faster"
        return f"timing steps in {self._found['precision'][0].name}: {steps} of {STEPS + 1}"

    def timing(self) -> Timing:
        """Return the measured values, and assumptions for the others; inf if the trial died."""
        if self.died:
            return Timing(inf, inf, inf, 0.0, 0, inf)
        assumed: list[str] = []
        warm_s, full_s = self._steps_s(assumed)
        return Timing(
            warm_s=warm_s,
            full_s=full_s,
            validate_s=self._validate_s(warm_s, assumed),
            load_s=self._last("load_s", LOAD_S, assumed, "reading a case takes {load_s:g} s"),
            case_bytes=self._last("case_bytes", 0),
            # Without a step: the memory of this process, which a run takes in any case.
            peak_bytes=self._last("peak_bytes", float(peak_memory()), assumed, "the memory suffices"),
            waited=fmean(self._found.get("waited", [0.0])),
            precision=self._found["precision"][0].name if "precision" in self._found else "",
            precision_why=self._found["precision"][0].why if "precision" in self._found else "",
            assumed=tuple(assumed),
            guessed=not {"warm_s", "full_s"} & self._found.keys(),
            validation_bytes=self._last("validation_bytes", 0),
        )

    def _last(self, name: str, default: Any, assumed: list[str] | None = None, words: str = "") -> Any:
        if name in self._found:
            return self._found[name][-1]
        if assumed is not None:
            assumed.append(words)
        return default

    def _steps_s(self, assumed: list[str]) -> tuple[float, float]:
        """Return the seconds of a step in the warm-up and after it; equal if there is no warm-up."""
        config, going_s = self.config, time.monotonic() - self._said_s
        warm, full = (_typical(self._found.get(name, [])) for name in ("warm_s", "full_s"))
        longer = LONGER.get(config.method, 1.0) if warm_up(config) else 1.0
        if warm is None and full is None:
            begun_s = going_s if "precision" in self._found else 0.0  # the step that did not end in time
            warm = max(VOXEL_S * cost(config), begun_s)
            assumed.append("a step takes {warm_s:.2f} s, by the size of crops and networks alone")
            going_s = 0.0
        if full is None:
            full = max(longer * (warm or 0.0), going_s)
            if longer > 1:
                assumed.append("after the warm-up it takes {full_s:.2f} s")
        return (full / longer if warm is None else warm), full

    def _validate_s(self, warm_s: float, assumed: list[str]) -> float:
        """Return seconds to validate a case; assumed: a third of a step per forward pass over all of it."""
        if "validate_s" in self._found:
            return float(self._found["validate_s"][-1])
        crops = prod(self.config.task.patch) * _crops(self.config)
        voxels = self._last("voxels", WHOLE * prod(self.config.task.patch))
        seconds = warm_s / 3 * voxels / crops
        assumed.append("validating a case takes {validate_s:.2f} s")
        return float(seconds)


def _typical(seconds: list[float]) -> float | None:
    """Return the median, without the first step (slower, as it loads what it needs) if there are others."""
    return median(seconds[1:] or seconds) if seconds else None


def _crops(config: TrainConfig) -> int:
    return config.run.warm_batch if warm_up(config) else config.run.labelled_batch


def cost(config: TrainConfig) -> float:
    """Return the voxels of the crops of a first step, times half the filters of its nets."""
    filters = sum(network.filters for network in config.networks.trained(config.method).values())
    return _crops(config) * prod(config.task.patch) * filters / 2


def scaled(timing: Timing, before: TrainConfig, config: TrainConfig) -> Timing:
    """Return the timing of `config`, scaled in proportion to the timing of `before`.

    The peak memory is scaled upwards only, since a part of it is that of the libraries.
    """
    ratio = cost(config) / cost(before)
    # A step already guessed from the size of crops and networks needs no second sentence about it.
    measured = "steps take time and memory in proportion to crops and filters of others that were timed"
    words = () if timing.guessed else (measured,)
    finer = prod(before.task.recipe.spacing_mm) / prod(config.task.recipe.spacing_mm)
    return replace(
        timing,
        warm_s=ratio * timing.warm_s,
        full_s=ratio * timing.full_s,
        validate_s=ratio * timing.validate_s,
        case_bytes=int(finer * timing.case_bytes),
        peak_bytes=max(1.0, ratio) * timing.peak_bytes,
        assumed=(*timing.assumed, *words),
    )
