"""Time the drafts of a plan, within the time that planning itself may take."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from math import inf

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.system.progress import Progress
from c3s3_seg.training.config import TrainConfig, warm_up
from c3s3_seg.training.networks import SLOTS
from c3s3_seg.training.planning.builder import ConfigBuilder
from c3s3_seg.training.planning.step_costs import scaled
from c3s3_seg.training.planning.timing import MOST, STEPS, Timing, time_steps

OWN, OWN_S = 0.1, 60.0  # limits of planning itself: share of the budget, and seconds
EACH = 0.6  # share of the remaining planning time for the steps of one level; the last level has all
WORTH_S = 5.0  # seconds; in less, a process starts and reports nothing
WARM = 0.5  # share of the iterations that learn from labels alone, as in the shipped bundles
COMPETING = ("c3s3", "mcf")  # methods whose warm-up a plan chooses


@dataclass(frozen=True)
class Constraints:
    """Limits of a run: wall clock and memory (of the process, or of the GPU); and the bundle it begins from.

    Planning itself takes a tenth of the budget and a minute at most, from `began_s` on (time.monotonic).
    """

    budget_s: float
    memory_bytes: float = inf
    start: ModelBundle | None = None
    began_s: float = field(default_factory=time.monotonic)

    @property
    def own_s(self) -> float:
        """The seconds that planning itself may take."""
        return min(OWN_S, OWN * self.budget_s)

    @property
    def left_s(self) -> float:
        """The seconds left for planning; 0 if they are spent."""
        return max(0.0, self.began_s + self.own_s - time.monotonic())


class DraftTimer:
    """A timer of drafts: it times no configuration twice, and scales an earlier timing when time is short."""

    def __init__(self, builder: ConfigBuilder, constraints: Constraints, report: Progress) -> None:
        self._builder, self._constraints, self._report = builder, constraints, report
        self._done: list[tuple[TrainConfig, Timing]] = []

    def __call__(self, *, last: bool) -> Timing:
        """Return the timing of the current draft; with `last`, it may use all the planning time left."""
        limit_s = self._constraints.left_s * (1.0 if last else EACH)
        config = self._config()
        known = next((timing for before, timing in self._done if before == config), None)
        if known is None and self._done and (limit_s < WORTH_S or self._done[-1][1].guessed):
            before, measured = self._done[-1]
            known = scaled(measured, before, config)
        timing = self._time(config, limit_s) if known is None else known
        if not self._builder.is_set("run.precision"):
            self._put_precision(timing)
        return timing

    def _config(self, **more: object) -> TrainConfig:
        chosen = self._builder["method"] in COMPETING and warm_up_share(self._builder, self._constraints)
        warm = {"c3s3__warm_up": STEPS + 1} if chosen else {}
        return self._builder.config(run__iterations=MOST, **warm, **more)

    def _time(self, config: TrainConfig, limit_s: float) -> Timing:
        crop = " x ".join(map(str, config.task.patch))
        spacing = " x ".join(f"{s:g}" for s in config.task.recipe.spacing_mm)

        def report(what: str, done: int = 0, total: int = 0) -> None:
            self._report(f"crops of {crop} at {spacing} mm: {what}", done, total)

        try:
            timing = time_steps(config, self._constraints.start, limit_s, report)
        except InputError:
            if config.run.precision != "auto":
                raise
            # The loss may be not finite in bfloat16 only; a fault of the data is raised in float32 again.
            config = self._config(run__precision="float32")
            timing = time_steps(config, self._constraints.start, limit_s, report)
            self._builder.put("run.precision", "float32", "steps in bfloat16 failed")
        self._done.append((config, timing))
        return timing

    def _put_precision(self, timing: Timing) -> None:
        if "run.precision" in self._builder and self._builder["run.precision"] == "float32":
            return
        why = "the faster of float32 and bfloat16, on the machine that trains"
        if timing.precision:
            why = f"{why}; on this one {timing.precision}: {timing.precision_why}"
        self._builder.put("run.precision", "auto", why)


def warm_up_share(builder: ConfigBuilder, constraints: Constraints) -> float:
    """Return the warm-up's share of the iterations: 0 if both networks can teach from the beginning."""
    if builder["method"] not in COMPETING:
        return warm_up(builder.config(run__iterations=MOST)) / MOST
    if builder.is_set("c3s3.warm_up"):
        return float(builder["c3s3.warm_up"] > 0)  # `_fixed` holds their number
    both = Counter(builder[f"networks.{slot}.architecture"] for slot in SLOTS)
    start = constraints.start
    able = start is not None and both <= Counter(network.architecture for _, network in start.members())
    return 0.0 if able else WARM
