"""Compare the configuration with the data set: errors and warnings before the first step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from c3s3_seg.bundle import ModelBundle, Task
from c3s3_seg.dataset import INDEX, DataSet
from c3s3_seg.dataset.check.case_faults import values_in
from c3s3_seg.errors import InputError
from c3s3_seg.io.modality import CODES, modality_code
from c3s3_seg.training.config import TrainConfig

if TYPE_CHECKING:  # `cases` needs torch, which `calibrate` does without
    from c3s3_seg.training.cases import TrainingCase, ValidationCase

AIR_HU = -500  # only scans in Hounsfield units have values below this


def check_index(config: TrainConfig, data: DataSet) -> None:
    """Raise an error if the configuration does not match the index of the data set.

    Raises
    ------
    InputError
        If the modality differs, or a label has another name or value than in the index.
    """
    check_data(config.task, data, f"Write task.labels with the names and values of {INDEX}")


def check_data(task: Task, data: DataSet, todo: str) -> None:
    """Raise an error if data do not match the task of a configuration or a bundle.

    Parameters
    ----------
    task
        Task that the data must match.
    data
        Data set with its index; a property that the index does not state is not compared.
    todo
        Advice for the case that labels differ.

    Raises
    ------
    InputError
        If the modality differs, or a label has another name or value than in the index.
    """
    found, wanted = modality_code(data.modality), modality_code(task.modality)
    if found != wanted and {found, wanted} <= set(CODES):
        what = f"the data's modality is {found}, and task.modality is {wanted}"
        other = "Give the data of that task, or correct either"
        raise InputError(what, where=data.folder / INDEX, todo=other)
    if data.labels:
        _check_labels(task, data, todo)


def check_task(ours: Task, bundle: ModelBundle) -> None:
    """Raise an error if a bundle to begin from, or to be taught by, is for other scans or labels than a run.

    Raises
    ------
    InputError
        If modality, labels or recipe differ.
    """
    theirs = bundle.task
    if modality_code(ours.modality) != modality_code(theirs.modality):
        what = f"task.modality: the bundle has {theirs.modality}, the configuration {ours.modality}"
        raise InputError(what, where=bundle.folder, todo="Take a bundle of the same modality")
    todo = "Copy task.labels and task.recipe from the bundle's manifest.json into the configuration"
    if list(ours.label_values.items()) != list(theirs.label_values.items()):  # classes follow this order
        what = f"task.labels: the bundle has {theirs.label_values}, the configuration {ours.label_values}"
        raise InputError(what, where=bundle.folder, todo=todo)
    if ours.recipe != theirs.recipe:
        what = f"task.recipe: the bundle has {theirs.recipe}, the configuration {ours.recipe}"
        raise InputError(what, where=bundle.folder, todo=todo)


def _check_labels(task: Task, data: DataSet, todo: str) -> None:
    ours, theirs = task.label_values, dict(data.labels)
    for name, value in ours.items():
        called = [other for other, known in theirs.items() if known == value]
        if not called:
            what = f"task.labels has {name} = {value}, and the data have {_listed(theirs)}"
        elif _same(name) not in map(_same, called):
            what = f"task.labels calls the value {value} {name!r}, and the data call it {called[0]!r}"
        else:
            continue
        raise InputError(what, where=data.folder / INDEX, todo=todo)


def _same(name: str) -> str:
    """Normalise a name, so that Left_Atrium and `left atrium` are equal."""
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _listed(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


def check_cases(
    config: TrainConfig,
    data: DataSet,
    trained_on: Sequence[TrainingCase],
    validation: Sequence[ValidationCase],
) -> list[str]:
    """Check the scans and masks once all are read.

    Returns
    -------
    Warnings of classes without a voxel or too thin for the model's grid, values learnt as background, and
    intensities of another modality.

    Raises
    ------
    InputError
        If the index has no labels, and some value of the configuration occurs in no mask; or if the best
        weights are to be chosen by validation cases that have no label.
    """
    labelled = {value for case in trained_on for value in case.values}
    truths = {value for case in validation for value in values_in(case.truth.array)}
    if not data.labels:
        check_values(config, data, labelled | truths)
    if validation and truths.isdisjoint(config.task.label_values.values()):
        _check_choice(config, data)
    warnings = []
    for name, value in config.task.label_values.items():
        if value not in labelled:
            warnings.append(f"no labelled case has a voxel of {name} ({value}): it cannot be learnt")
        if validation and value not in truths:
            warnings.append(
                f"no validation case has a voxel of {name} ({value}): only a false alarm is scored"
            )
    warnings += _left_out(config, data, labelled | truths)
    return warnings + _too_thin(config.task, trained_on) + _intensities(config, data, trained_on)


def check_values(config: TrainConfig, data: DataSet, there: set[int]) -> None:
    """Raise an error if a label of the configuration has a value that is not among those of the masks.

    Raises
    ------
    InputError
        If there is one.
    """
    for name, value in config.task.label_values.items():
        if value not in there:
            found = ", ".join(map(str, sorted(there))) or "none"
            what = f"task.labels has {name} = {value}, and the masks hold the values {found}"
            raise InputError(what, where=data.folder, todo="Write task.labels with the values of the masks")


def _check_choice(config: TrainConfig, data: DataSet) -> None:
    """Raise an error if validation cases without any label were to choose weights or to end the run."""
    wants = {"run.keep = 'best'": config.run.keep == "best", "run.patience": config.run.patience > 0}
    for key in (key for key, wanted in wants.items() if wanted):
        what = f"{key} needs a validation case with a label, and the masks of all are empty"
        raise InputError(what, where=data.folder, todo=f"Add cases with a label to the validation in {INDEX}")


def _left_out(config: TrainConfig, data: DataSet, there: set[int]) -> list[str]:
    names = {value: f"{name} ({value})" for name, value in data.labels.items()}
    others = sorted(there - set(config.task.label_values.values()))
    words = ", ".join(names.get(value, f"the value {value}") for value in others)
    return [f"the masks hold {words}, which task.labels lacks: learnt as background"] if others else []


def _too_thin(task: Task, trained_on: Sequence[TrainingCase]) -> list[str]:
    """Warn of labels that fill no voxel of the model's grid by more than half in any case that has them."""
    warnings = []
    for number, label in enumerate(task.labels):
        cases = [case for case in trained_on if label.name in case.by_label]
        # The stack begins with the scan and the background.
        if cases and all(case.stack[2 + number].max() <= 0.5 for case in cases):
            what = f"no voxel of the model's grid is more than half {label.name} ({label.value})"
            warnings.append(f"{what}: task.recipe.spacing_mm is too coarse for it")
    return warnings


def _intensities(config: TrainConfig, data: DataSet, trained_on: Sequence[TrainingCase]) -> list[str]:
    """Warn, if the index states no modality, of odd intensities: only Hounsfield units reach down to air."""
    wanted, middle = modality_code(config.task.modality), median(case.lowest for case in trained_on)
    if modality_code(data.modality) in CODES:
        return []
    if wanted == "MR" and middle < AIR_HU:
        return [f"half of the scans reach down to {middle:.0f} or below, as CT does, and task.modality is MR"]
    if wanted == "CT" and middle >= 0:
        what = f"half of the scans have no value below {middle:.0f}, unlike Hounsfield units"
        return [f"{what}, and task.modality is CT"]
    return []
