"""Make a plan fit a time budget and a memory limit by measured steps: networks, batches, length."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, isinf, prod

from c3s3_seg.dataset import Splits
from c3s3_seg.errors import InputError
from c3s3_seg.system.hardware import cuda_devices
from c3s3_seg.system.progress import Progress
from c3s3_seg.training.networks import SLOTS, NetworksConfig
from c3s3_seg.training.planning.builder import ConfigBuilder
from c3s3_seg.training.planning.draft_timer import COMPETING, Constraints, DraftTimer, warm_up_share
from c3s3_seg.training.planning.timing import BUSY, MOST, SPARE, FixedRhythm, Length, Timing, length

ENOUGH = 1000  # iterations; where fewer fit, smaller networks or a coarser grid are tried
SMALL = 100_000  # voxels of a crop up to which narrow networks learn better in few iterations
WIDE = MOST // 2  # iterations of wide networks that must fit, where narrow networks have all that help
# Filters of both networks, and how much coarser than the organ needs the grid may be.
NARROW = 8
LEVELS = ((16, 1.0), (NARROW, 1.0), (NARROW, 1.25), (NARROW, 1.6))
BUSY_WORDS = (
    "other programs had the processors for {:.0%} of the time of these steps:"
    " plan again when it is quiet, or set run.threads=1"
)
SMALLER = "--set run.activation_checkpointing=true, a smaller task.patch or fewer filters"
# C3S3 is chosen if so many of its iterations fit: with 5,000 it was as good as labels alone at equal steps
# (left atrium), and in equal time it was behind with 5, 10 and 20 labelled cases (hippocampus).
TEACHING = 5000
COSTS = 5.0  # supervised steps in the time of a C3S3 step, with half of these warm-up (docs/training.md)
TABLE = "docs/results.md, What C3S3 brings"
Regrid = Callable[[float], None]


class DoesNotFitError(InputError):
    """The error for a run that does not fit into the time or the memory, in which smaller networks might."""


def fit(
    builder: ConfigBuilder, splits: Splits, constraints: Constraints, report: Progress, regrid: Regrid | None
) -> None:
    """Choose everything that depends on time and memory.

    Parameters
    ----------
    builder
        Builder with all choices that depend on the data or the bundle.
    regrid
        Called with a factor to choose a coarser spacing and the crop again; None if a bundle fixes the grid
        and the networks.

    Raises
    ------
    InputError
        If not even the smallest networks on the coarsest grid fit, or a step fails, as of a damaged scan.
    """
    _device(builder)
    timer = DraftTimer(builder, constraints, report)
    timing, found = _search(builder, splits, constraints, timer, regrid)
    if splits.unlabelled and regrid is not None and not builder.is_set("method"):
        timing, found = _choose_method(builder, splits, constraints, timer, (timing, found), regrid)
    if regrid is not None and found.iterations == MOST and builder["networks.a.filters"] == NARROW:
        timing, found = _widened(builder, splits, constraints, timer, (timing, found))
    _run(builder, splits, constraints, timing, found)
    if constraints.start is not None and splits.validation:
        builder.put("run.keep", "best", "on validation never worse than what it begins from")


def _choose_method(
    builder: ConfigBuilder,
    splits: Splits,
    constraints: Constraints,
    timer: DraftTimer,
    supervised: tuple[Timing, Length],
    regrid: Regrid,
) -> tuple[Timing, Length]:
    """Choose C3S3 if enough of its iterations fit, else labels alone."""
    count = len(splits.unlabelled)
    fit_in = int(SPARE * constraints.budget_s / supervised[0].full_s / COSTS)
    if fit_in >= TEACHING:
        builder.put("method", "c3s3", f"{count} unlabelled cases can teach: {TABLE}")
        try:
            timing, found = _search(builder, splits, constraints, timer, regrid)
        except DoesNotFitError as error:
            why = f"C3S3, which learns from the {count} unlabelled cases too, does not fit: {error.what}"
            builder.put("method", "supervised", why)
            return _search(builder, splits, constraints, timer, regrid)
        if found.iterations >= TEACHING:
            return timing, found
        fit_in = found.iterations
    why = (
        f"{fit_in} iterations of C3S3, which learns from the {count} unlabelled cases too, would fit;"
        f" below {TEACHING}, labels alone were better in equal time ({TABLE})"
    )
    builder.put("method", "supervised", why)
    return _search(builder, splits, constraints, timer, regrid)


def _search(
    builder: ConfigBuilder,
    splits: Splits,
    constraints: Constraints,
    timer: DraftTimer,
    regrid: Regrid | None,
) -> tuple[Timing, Length]:
    """Choose the largest networks on the finest grid with enough iterations, or else the last level."""
    levels: tuple[tuple[int, float], ...] = LEVELS[1:] if prod(builder["task.patch"]) <= SMALL else LEVELS
    if regrid is None:
        levels = LEVELS[-1:]  # one pass: the bundle fixes filters and grid
    for level in levels:
        if regrid is not None:
            _networks(builder, level[0])
            regrid(level[1])
        _batches(builder)
        last = level == levels[-1]
        timing = timer(last=last)
        try:
            found = _length(builder, splits, constraints, timing)
        except DoesNotFitError:
            if last:
                raise
            continue
        if found.iterations >= ENOUGH:
            break
    return timing, found


def _widened(
    builder: ConfigBuilder,
    splits: Splits,
    constraints: Constraints,
    timer: DraftTimer,
    narrow: tuple[Timing, Length],
) -> tuple[Timing, Length]:
    """Choose wide networks if enough iterations fit, since narrow ones would leave budget unused."""
    _networks(builder, LEVELS[0][0])
    timing = timer(last=True)
    try:
        found = _length(builder, splits, constraints, timing)
    except DoesNotFitError:
        found = Length(0, 0)
    # C3S3 was chosen because so many of its iterations fit; wide networks may not undo this.
    if found.iterations >= (TEACHING if builder["method"] == "c3s3" else WIDE):
        return timing, found
    _networks(builder, NARROW)
    return narrow


def _device(builder: ConfigBuilder) -> None:
    if not cuda_devices():  # torch takes seconds to load, and would find none
        return
    import torch

    if torch.cuda.is_available():
        builder.put("run.device", "cuda", f"torch finds {torch.cuda.get_device_name()}")


def _networks(builder: ConfigBuilder, filters: int) -> None:
    narrow = filters < 16
    why = "narrow networks: small crops or a short budget" if narrow else "the published width"
    for slot in SLOTS:
        architecture = NetworksConfig().backbone(slot).architecture
        builder.put(f"networks.{slot}.architecture", architecture, f"backbone {slot.upper()} of the paper")
        builder.put(f"networks.{slot}.filters", filters, why)
    why = "networks learn faster without: 0.95 against 0.83 Dice on phantoms, 0.89 against 0.85 on atria"
    builder.put("networks.dropout", 0.0, why)
    lr, organs = (0.05, "phantoms and hippocampi") if narrow else (0.03, "atria")
    builder.put("optimiser.lr", lr, f"without dropout {lr:g} did well on {organs}, and 0.01 was slower")


def _batches(builder: ConfigBuilder) -> None:
    crops = 2 if prod(builder["task.patch"]) <= SMALL else 1
    why = "small crops" if crops == 2 else "large crops, one of each kind"
    if builder["method"] == "supervised":
        builder.put("run.labelled_batch", 2 * crops, why)
        return
    builder.put("run.labelled_batch", crops, why)
    builder.put("run.unlabelled_batch", crops, "as many as labelled ones")
    builder.put("run.warm_batch", 2 * crops, "as many crops in a step as later")


def _length(builder: ConfigBuilder, splits: Splits, constraints: Constraints, timing: Timing) -> Length:
    """Return the length that fits time and memory.

    Raises
    ------
    DoesNotFitError
        If none does.
    """
    trained_on = len(splits.labelled) + (0 if builder["method"] == "supervised" else len(splits.unlabelled))
    need = timing.needs_bytes(trained_on, len(splits.validation))
    if isinf(need):
        what = "the system ended a process that took some steps, as it does when memory runs out"
        todo = f"Give it more memory, or {SMALLER}"
        raise DoesNotFitError(what, todo=todo)
    if need > constraints.memory_bytes:
        what = f"this run needs {need / 1e9:.1f} GB, and {constraints.memory_bytes / 1e9:.1f} GB are allowed"
        todo = f"Give more --max-memory, or {SMALLER}"
        raise DoesNotFitError(what, todo=todo)
    cases, begun = (trained_on, len(splits.validation)), constraints.start is not None
    share, fixed = warm_up_share(builder, constraints), _fixed(builder)
    try:
        return length(timing, constraints.budget_s, cases, share, begun=begun, fixed=fixed)
    except InputError as error:
        raise DoesNotFitError(f"{error.what}{_assumed(timing, constraints)}", todo=error.todo) from None


def _assumed(timing: Timing, constraints: Constraints) -> str:
    """Return a clause on the values that were not measured, and why not; empty if all were."""
    if not timing.assumed:
        return ""
    return (
        f"; not measured in the {round(constraints.own_s, 1):g} s that a plan may take, but assumed: "
        + "; ".join(timing.assumptions)
    )


def _fixed(builder: ConfigBuilder) -> FixedRhythm:
    """Return the rhythm that a person set; the warm-up only if the method is in `COMPETING`."""
    keys = ["run.validate_every", *(["c3s3.warm_up"] if builder["method"] in COMPETING else [])]
    return FixedRhythm(**{key.split(".")[1]: builder[key] for key in keys if builder.is_set(key)})


def _run(
    builder: ConfigBuilder, splits: Splits, constraints: Constraints, timing: Timing, found: Length
) -> None:
    share = warm_up_share(builder, constraints)
    steps = f"{timing.full_s:.2f} s a step"
    if share:
        steps = f"{timing.warm_s:.2f} s a step of the warm-up, {timing.full_s:.2f} s then"
    once_s = timing.validate_s * len(splits.validation)
    judging = f"{found.validations} validations of {once_s:.{0 if once_s >= 10 else 1}f} s"
    judging = judging if splits.validation else "no validation cases"
    why = f"{constraints.budget_s / 60:.0f} min: {steps}; {judging}"
    if found.iterations == MOST:
        why = f"the published number; {why}"
    why = f"{why}{_assumed(timing, constraints)}"
    if timing.waited > BUSY:
        why = f"{why}; {BUSY_WORDS.format(timing.waited)}"
    iterations = builder.put("run.iterations", found.iterations, why)
    if builder["method"] in COMPETING:
        warm = int(share * iterations)
        why = f"{share:.0%} of the iterations learn from labels alone"
        builder.put("c3s3.warm_up", warm, why if share else "the bundle's networks can teach at once")
    every = Length(iterations, found.validations).every  # a person may have set another length
    builder.put("run.validate_every", every, f"{ceil(iterations / every)} times in all")
    builder.put(
        "run.checkpoint_every", max(10, iterations // 20), "what a kill costs at most, 5 % of the run"
    )
