"""Find the defects of a scan or mask by itself that make a case unfit for training.

The check of a data set and `training` use these functions, so that both refuse the same cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from c3s3_seg.bundle import Task
from c3s3_seg.bundle.preprocessing import intensity_defect
from c3s3_seg.dataset.index import INDEX, DataSet
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.io.scan_like import scan_words

SCALED = 255  # value of the foreground in a 0/1 mask that was scaled to 8 bits


@dataclass(frozen=True)
class CaseDefect:
    """An error of a case: the check that found it, the finding, the expectation and the remedy."""

    check: str
    found: str
    wanted: str
    todo: str


def scan_defect(scan: Volume) -> CaseDefect | None:
    """Return the defect of a scan that could be read; None if there is none."""
    defect = intensity_defect(scan.array)
    if defect:
        todo = "Export it with the values that it is meant to have, or leave the case out"
        return CaseDefect("grey-range", defect, "intensities that float32 holds", todo)
    if scan.array.max() > scan.array.min():
        return None
    value = f"all voxels are {scan.array.flat[0]:g}"
    return CaseDefect(
        "constant", value, "a scan with something to see", "Export it again, or leave the case out"
    )


def mask_defect(mask: Volume, labels: Mapping[str, int], *, required: bool = True) -> CaseDefect | None:
    """Return the defect of a mask that could be read; None if there is none.

    Parameters
    ----------
    mask
        Whole numbers (i, j, k).
    labels
        Name -> value that the mask may hold besides 0; if empty, any value is allowed.
    required
        Whether the mask must hold some label, as in a labelled case.
    """
    words = scan_words(mask.array)
    if words is not None:
        todo = "Put its mask in the place of this file"
        return CaseDefect("mask-values", words, "a mask", todo)
    there = values_in(mask.array)
    if required and not there:
        todo = f'Draw the mask, list the case as unlabelled, or set "empty_masks": true in {INDEX}'
        return CaseDefect("mask-empty", "the mask is empty", "at least one label in it", todo)
    unknown = [value for value in there if value not in labels.values()] if labels else []
    if not unknown:
        return None
    found = f"the mask holds the value{'s' * (len(unknown) > 1)} {_few(unknown)}"
    todo = "Name them in the labels of dataset.json, or set them to 0"
    if unknown == [255] == there and len(labels) == 1:
        todo = f"It looks like a mask of 0 and 255: write {next(iter(labels.values()))} for 255"
    known = ", ".join(f"{value} ({name})" for name, value in labels.items())
    return CaseDefect("mask-values", found, f"0 and {known}", todo)


def refuse_defects(
    scan: Volume, mask: Volume | None, labels: Mapping[str, int], *, required: bool = True
) -> None:
    """Raise an error for a defect that makes a case unfit for training.

    Parameters
    ----------
    scan
        Scan as read.
    mask
        Mask of the case, if a mask is required.
    labels, required
        Same as in `mask_defect`.

    Raises
    ------
    InputError
        If the scan is constant or exceeds float32, or the mask is empty or has other values; with the file.
    """
    defect, path = scan_defect(scan), scan.source.path
    if defect is None and mask is not None:
        defect, path = mask_defect(mask, labels, required=required), mask.source.path
    if defect is not None:
        raise InputError(f"{defect.found}; wanted {defect.wanted}", where=path, todo=defect.todo)


def refuse_scaled(mask: Volume, task: Task, data: DataSet) -> None:
    """Raise an error for a mask that holds 255 alone, if no label has this value: a scaled 0/1 mask.

    Raises
    ------
    InputError
        If it is one: its label would be learnt as background, and the first validation would refuse it.
    """
    known = {*task.label_values.values(), *data.labels.values()}
    if SCALED in known or values_in(mask.array) != [SCALED]:
        return
    wanted = ", ".join(f"{value} ({name})" for name, value in task.label_values.items())
    todo = f"It looks like a mask of 0 and 255: write a value of task.labels for 255, or name 255 in {INDEX}"
    raise InputError(
        f"the mask holds the value 255 alone; wanted {wanted}", where=mask.source.path, todo=todo
    )


def own_labels(mask: Volume, task: Task) -> Volume:
    """Return a mask with 0 for the values of other labels: the metrics take 255 alone for a scaled mask."""
    values = list(task.label_values.values())
    if set(values_in(mask.array)) <= set(values):
        return mask
    own = np.where(np.isin(mask.array, values), mask.array, 0).astype(mask.array.dtype)
    return mask.geometry.volume(own, mask.source)


def values_in(mask: Array) -> list[int]:
    """Return the values of a mask (i, j, k) except 0, in ascending order."""
    if mask.dtype.itemsize <= 2:  # counting is ten times faster than sorting
        return [int(value) for value in np.flatnonzero(np.bincount(mask.ravel())) if value]
    return [int(value) for value in np.unique(mask) if value]


def _few(values: list[int]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown
