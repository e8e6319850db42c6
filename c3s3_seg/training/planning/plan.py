"""Plan a configuration from a data set, a time budget and a memory limit, every value with its reason.

The rules of thumb come from experiments (benchmarks/training-log.md); the time and memory of a step are
measured with real steps on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

from c3s3_seg.bundle.manifest import ReadStrides
from c3s3_seg.dataset import INDEX, DataSet, Splits
from c3s3_seg.errors import ConfigError
from c3s3_seg.io.modality import modality_code
from c3s3_seg.models.strides import EVEN, Strides, multiple_of, strides_of
from c3s3_seg.system.progress import Progress
from c3s3_seg.system.schema import parse
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.planning.budget import fit
from c3s3_seg.training.planning.builder import Choice, ConfigBuilder
from c3s3_seg.training.planning.draft_timer import Constraints
from c3s3_seg.training.planning.from_bundle import from_bundle
from c3s3_seg.training.planning.statistics import DataStatistics, Triple, measure
from c3s3_seg.training.settings import DataConfig

FINEST = 35  # voxels across an organ: 1.25 mm at an atrium of 43 mm, which costs 0.009 Dice at most
MARGIN = 1.25  # side of a crop relative to the organ's
SMALLEST = 2  # least voxels along a side of the coarsest feature map
CROP = 200_000  # most voxels of a crop: 64 x 64 x 48, with which both nets learn on two cores
READING = 0.3  # share of the planning time for measuring cases
BESIDE = 0.5  # share of the foreground's span that a window adds on either side
ROUND = 5  # Hounsfield units: step to which a window is rounded, and its least margin
NONE_UNLABELLED = "there are no unlabelled cases"
THICK = 3.0  # ratio to the next spacing above which nnU-Net too augments slice by slice


def make_plan(
    folder: Path, constraints: Constraints, overrides: Sequence[str], report: Progress
) -> list[Choice]:
    """Measure a data set and some steps, and choose the configuration.

    Parameters
    ----------
    folder
        Folder with the index, scans and masks.
    constraints
        Time, memory, and a bundle to begin from.
    overrides
        `key=value` settings that replace choices.
    report
        Called with the current activity.

    Raises
    ------
    InputError
        If there is no labelled case, one cannot be read, the bundle does not fit the data, or the budget or
        the memory is too small.
    ConfigError
        If a set value is not allowed, conflicts with the choices, or names a teacher.
    """
    builder = ConfigBuilder(overrides)
    if any(builder.is_set(f"teacher.{key}") for key in ("bundle", "masks")):
        what = "teacher: a plan measures steps without a teacher"
        raise ConfigError(what, todo="Leave it out here, and give it to train with --set")
    builder.put("data.folder", folder.as_posix(), "relative to where `train` is run")
    data, splits = read_splits(_data_config(builder))
    regrid = None
    if constraints.start is None:
        measured = measure(data, splits, report, READING * constraints.left_s)
        from_data(builder, data, splits, measured)
        regrid = partial(_grid, builder, measured)
    else:
        from_bundle(builder, data, splits, constraints.start)
    fit(builder, splits, constraints, report, regrid)
    builder.config()  # checks the configuration as `train` will
    return builder.choices()


def _data_config(builder: ConfigBuilder) -> DataConfig:
    """Return the `data` table as known so far; every other key has its default."""
    names = DataConfig.__dataclass_fields__
    known = {name: builder[f"data.{name}"] for name in names if f"data.{name}" in builder}
    return parse(DataConfig, known, "--set data")


def from_data(builder: ConfigBuilder, data: DataSet, splits: Splits, measured: DataStatistics) -> None:
    """Choose all settings that depend on the scans."""
    _task(builder, data, measured)
    _intensity(builder, measured)
    _grid(builder, measured)
    _method(builder, splits)


def _task(builder: ConfigBuilder, data: DataSet, measured: DataStatistics) -> None:
    name = re.sub("[^a-z0-9]+", "-", (data.name or data.folder.resolve().name).lower()).strip("-")
    builder.put("task.name", name or "task", "the data set's name")
    known = f"{INDEX} says so" if data.modality else "the scans say so"
    builder.put(
        "task.modality", measured.modality or "MR", known if measured.modality else "not known: MR is assumed"
    )
    labels = [{"name": name, "value": value} for name, value in measured.labels.items()]
    builder.put(
        "task.labels", labels, f"of {INDEX}" if data.labels else "values found in the masks; give them names"
    )
    pieces = (
        "in every mask read each label is one piece" if measured.one_piece else "labels have several pieces"
    )
    builder.put("task.keep_largest", measured.one_piece, pieces)


def _intensity(builder: ConfigBuilder, measured: DataStatistics) -> None:
    if modality_code(builder["task.modality"]) != "CT":
        builder.put("task.recipe.intensity.rule", "zscore", "intensities of MR have no unit")
        return
    if (
        builder.put("task.recipe.intensity.rule", "window", "intensities of CT are Hounsfield units")
        != "window"
    ):
        return
    low, high = window(*measured.grey)
    seen = f"{measured.grey[0]:.0f} to {measured.grey[1]:.0f} HU hold 99 % of the foreground"
    builder.put("task.recipe.intensity.low", low, f"{seen}; half of that span is shown below it too")
    builder.put("task.recipe.intensity.high", high, f"{seen}; half of that span is shown above it too")


def window(low: float, high: float) -> tuple[float, float]:
    """Return the intensity window for the foreground's range, in whole multiples of 5 HU.

    >>> window(-30, 170)
    (-130.0, 270.0)
    """
    beside = max(BESIDE * (high - low), ROUND)
    return ROUND * float((low - beside) // ROUND), -ROUND * float(-(high + beside) // ROUND)


def _grid(builder: ConfigBuilder, measured: DataStatistics, coarser: float = 1.0) -> None:
    fine = coarser * measured.diameter_mm / FINEST
    why = f"the scans' own, median of {measured.read}"
    if measured.skipped:
        why += f" (for {measured.skipped} more there was no time)"
    if fine > min(measured.spacing_mm):
        across = f"{FINEST} voxels across {_mm(measured.diameter_mm)} mm"
        why += f"; not below {rounded_mm(fine):g}: {across} cost 0.01 Dice"
    if coarser > 1 and fine > min(measured.spacing_mm):
        why += f", and {coarser:g} times coarser saves time that the budget lacks"
    wanted = [rounded_mm(max(own, fine)) for own in measured.spacing_mm]
    spacing = builder.put("task.recipe.spacing_mm", wanted, why)
    builder.put("augment.elastic_mm", rounded_mm(2 * min(spacing)), "two voxels, as at the atrium")
    _slices(builder, spacing)
    reach = [f / s for f, s in zip(measured.fov_mm, spacing, strict=True)]
    strides = strides_of(tuple(spacing), reach)
    if strides != EVEN:
        why = f"an axis of {max(spacing):g} mm is halved where the others are as coarse, down to 4 voxels"
        builder.put("task.strides", [list(level) for level in strides], why)
    elif "task.strides" in builder and not builder.is_set("task.strides"):
        builder.put("task.strides", [list(level) for level in strides], "spacings are even enough")
    sides = crop(tuple(spacing), measured, multiple_of(_strides(builder)))
    held = " x ".join(map(_mm, measured.organ_mm))
    builder.put(
        "task.patch", list(sides), f"holds an organ of {held} mm and a quarter more, as far as scans reach"
    )


def rounded_mm(length: float) -> float:
    """Round to 0.01 mm, but below 0.1 mm (micro-CT) to three digits, since it would become 0.

    >>> rounded_mm(1.2345), rounded_mm(0.0034567)
    (1.23, 0.00346)
    """
    return round(length, 2) if length >= 0.1 else float(f"{length:.3g}")


def _mm(length: float) -> str:
    return f"{length:.0f}" if length >= 10 else f"{length:.2g}"


def _slices(builder: ConfigBuilder, spacing: Sequence[float]) -> None:
    """Choose whether augmentation stays within slices."""
    ratio = max(spacing) / sorted(spacing)[1]
    if ratio > THICK:
        why = (
            f"slices are {ratio:.1f} times as thick as their pixels are wide: no voxel is to be a mean of two"
        )
        builder.put("augment.slice_axis", list(spacing).index(max(spacing)), why)
    elif "augment.slice_axis" in builder and not builder.is_set("augment.slice_axis"):
        builder.remove("augment.slice_axis")


def _strides(builder: ConfigBuilder) -> Strides:
    """Return the strides in effect, chosen or set by a person; else `EVEN`."""
    if "task.strides" not in builder:
        return EVEN
    strides: Strides = parse(cast(Any, ReadStrides), builder["task.strides"], "task.strides")
    return strides


def crop(spacing_mm: Triple, measured: DataStatistics, multiple: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the sides of a crop in voxels, multiples of `multiple` and at least `SMALLEST` times it.

    The crop holds the organ and a margin, limited by the field of view and by `CROP` voxels.
    """
    wanted = [
        min(MARGIN * o, f) / s for o, f, s in zip(measured.organ_mm, measured.fov_mm, spacing_mm, strict=True)
    ]
    smallest = [SMALLEST * n for n in multiple]
    sides = [max(s, n * round(side / n)) for side, n, s in zip(wanted, multiple, smallest, strict=True)]
    while prod(sides) > CROP and sides != smallest:
        above = [side if side > least else 0 for side, least in zip(sides, smallest, strict=True)]
        axis = above.index(max(above))
        sides[axis] -= multiple[axis]
    return tuple(sides)


def _method(builder: ConfigBuilder, splits: Splits) -> None:
    why = "unlabelled cases have brought nothing in so little time" if splits.unlabelled else NONE_UNLABELLED
    builder.put("method", "supervised", why)
    several = len(builder["task.labels"]) > 1
    if several:
        why = "a small label is seen as often as a large one"
        builder.put("data.foreground_by", "label", why)
    alpha, where = (0.5, "pancreas and hippocampus") if several else (0.8, "the left atrium")
    builder.put("c3s3.alpha", alpha, f"as at {where}")
