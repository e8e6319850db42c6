"""The configuration against the data set: what is refused before the first step, and what is warned of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from c3s3_seg.bundle import ModelBundle, Task
from c3s3_seg.dataset import INDEX, DataSet
from c3s3_seg.dataset.check.case_faults import values_in
from c3s3_seg.errors import InputError
from c3s3_seg.training.config import TrainConfig

if TYPE_CHECKING:  # they need torch, which `calibrate` does without
    from c3s3_seg.training.cases import TrainingCase, ValidationCase

SPELLINGS = {"MRI": "MR", "MRT": "MR", "PET": "PT"}  # of DICOM's own codes
CODES = ("CT", "MR", "PT", "NM", "US", "XA", "MG", "DX", "CR")
AIR_HU = -500  # below it a scan in Hounsfield units reaches, and no other


def check_index(config: TrainConfig, data: DataSet) -> None:
    """Refuse a configuration that is about other data than the index says.

    Raises
    ------
    InputError
        If the modality is another, a label has another name or value than in the index, or none of its
        values is there.
    """
    check_data(config.task, data, f"Write task.labels with the names and values of {INDEX}")


def check_data(task: Task, data: DataSet, todo: str) -> None:
    """Refuse data that are of another task: a configuration's, or a bundle's.

    Parameters
    ----------
    task
        What is wanted.
    data
        Its index says what there is; where that says nothing of a thing, it is not compared.
    todo
        What to do about other labels.

    Raises
    ------
    InputError
        If the modality is another, or a label has another name or value than in the index.
    """
    found, wanted = modality(data.modality), modality(task.modality)
    if found != wanted and {found, wanted} <= set(CODES):
        what = f"the data's modality is {found}, and task.modality is {wanted}"
        other = "Give the data of that task, or correct either"
        raise InputError(what, where=data.folder / INDEX, todo=other)
    if data.labels:
        _check_labels(task, data, todo)


def check_task(ours: Task, bundle: ModelBundle) -> None:
    """Refuse a bundle to begin from, or to be taught by, that is for other scans or labels than a run.

    Raises
    ------
    InputError
        If modality, labels or recipe are others.
    """
    theirs = bundle.task
    if modality(ours.modality) != modality(theirs.modality):
        what = f"task.modality: the bundle has {theirs.modality}, the configuration {ours.modality}"
        raise InputError(what, where=bundle.folder, todo="Take a bundle of the same modality")
    todo = "Copy task.labels and task.recipe from the bundle's manifest.json into the configuration"
    if list(ours.label_values.items()) != list(theirs.label_values.items()):  # classes have their order
        what = f"task.labels: the bundle has {theirs.label_values}, the configuration {ours.label_values}"
        raise InputError(what, where=bundle.folder, todo=todo)
    if ours.recipe != theirs.recipe:
        what = f"task.recipe: the bundle has {theirs.recipe}, the configuration {ours.recipe}"
        raise InputError(what, where=bundle.folder, todo=todo)


def modality(text: str) -> str:
    """The DICOM code of what an index calls it (`mri`, `{'0': 'MRI'}` -> MR); else as it is written."""
    words = [SPELLINGS.get(word, word) for word in re.findall("[A-Z]+", text.upper())]
    return next((word for word in words if word in CODES), text)


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
    """Left_Atrium and `left atrium` are one name."""
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _listed(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


def check_cases(
    config: TrainConfig,
    data: DataSet,
    trained_on: Sequence[TrainingCase],
    validation: Sequence[ValidationCase],
) -> list[str]:
    """What the scans and masks say, once all are read.

    Returns
    -------
    Warnings: classes without a voxel, values that are learnt as background, intensities of another modality.

    Raises
    ------
    InputError
        If the index has no labels, and no mask of the data holds a value of the configuration.
    """
    labelled = {value for case in trained_on for value in case.values}
    truths = {value for case in validation for value in values_in(case.truth.array)}
    if not data.labels:
        _check_values(config, data, labelled | truths)
    warnings = []
    for name, value in config.task.label_values.items():
        if value not in labelled:
            warnings.append(f"no labelled case has a voxel of {name} ({value}): it cannot be learnt")
        if validation and value not in truths:
            warnings.append(f"no validation case has a voxel of {name} ({value}): it is not scored")
    warnings += _left_out(config, data, labelled | truths)
    return warnings + _intensities(config, data, trained_on)


def _check_values(config: TrainConfig, data: DataSet, there: set[int]) -> None:
    for name, value in config.task.label_values.items():
        if value not in there:
            found = ", ".join(map(str, sorted(there))) or "none"
            what = f"task.labels has {name} = {value}, and the masks hold the values {found}"
            raise InputError(what, where=data.folder, todo="Write task.labels with the values of the masks")


def _left_out(config: TrainConfig, data: DataSet, there: set[int]) -> list[str]:
    names = {value: f"{name} ({value})" for name, value in data.labels.items()}
    others = sorted(there - set(config.task.label_values.values()))
    words = ", ".join(names.get(value, f"the value {value}") for value in others)
    return [f"the masks hold {words}, which task.labels lacks: learnt as background"] if others else []


def _intensities(config: TrainConfig, data: DataSet, trained_on: Sequence[TrainingCase]) -> list[str]:
    """Where the index does not say the modality: only Hounsfield units reach down to air."""
    wanted, lowest = modality(config.task.modality), median(case.lowest for case in trained_on)
    if modality(data.modality) in CODES:
        return []
    if wanted == "MR" and lowest < AIR_HU:
        return [f"the scans reach down to {lowest:.0f}, as CT does, and task.modality is MR"]
    if wanted == "CT" and lowest >= 0:
        return [f"no scan has a value below {lowest:.0f}, unlike Hounsfield units, and task.modality is CT"]
    return []
