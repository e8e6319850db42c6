"""Measure the properties of a data set that a training plan depends on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, pi

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.dataset import INDEX, DataSet, Splits
from c3s3_seg.dataset.check.case_faults import refuse_defects, values_in
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.resample import orient, oriented
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.system.progress import Progress

SAMPLE = 24  # labelled cases that are read, evenly spaced over the list
VALUES = 4096  # foreground intensities of each case, roughly, that count for the quantiles
LARGE = 95  # percentile over the cases of the organ's sides, which a crop must hold
WHOLE = 0.99  # share of a label in its largest component, from which it counts as one piece

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class DataStatistics:
    """Medians over the labelled cases that were read, along the patient's axes (x, y, z).

    Parameters
    ----------
    modality
        Modality from the index, or else from the first scan that states it; empty if none does.
    labels
        Name -> value in masks.
    spacing_mm, fov_mm
        Voxel spacing and field of view of the scans.
    organ_mm
        Sides of the box around all labels, 95 % quantile over the cases.
    diameter_mm
        Diameter of the ball with the volume of a case's smallest label.
    one_piece
        Whether in every mask each label is one connected piece (6-neighbours), but for 1 % of it.
    grey
        The foreground's 0.5 % and 99.5 % quantiles of intensities, in the scans' unit.
    read
        Number of cases measured: those read whose mask holds a label.
    skipped
        Number of cases that were not read for lack of time.
    """

    modality: str
    labels: Mapping[str, int]
    spacing_mm: Triple
    fov_mm: Triple
    organ_mm: Triple
    diameter_mm: float
    one_piece: bool
    grey: tuple[float, float]
    read: int
    skipped: int = 0


@dataclass(frozen=True)
class _Seen:
    """The measurements of one case; `diameters_mm` of the labels present, `grey` a sample of intensities."""

    spacing_mm: NDArray[np.float64]
    fov_mm: NDArray[np.float64]
    organ_mm: NDArray[np.float64]
    diameters_mm: list[float]
    one_piece: bool
    grey: NDArray[np.float64]


def measure(
    data: DataSet, splits: Splits, report: Progress | None = None, limit_s: float = inf
) -> DataStatistics:
    """Read some labelled cases and measure them.

    Parameters
    ----------
    data, splits
        Data set, and the names of its labelled cases.
    report
        Called with each case before it is read.
    limit_s
        Seconds after which no further case is read, once one with a label was.

    Raises
    ------
    InputError
        If a case cannot be read or has a defect for which `train` refuses it, or no mask holds a label.
    """
    names, until = _spread(splits.labelled), time.monotonic() + limit_s
    values: set[int] = set()
    modality, seen, read = data.modality, list[_Seen](), 0
    for name in names:
        if seen and time.monotonic() > until:
            break
        if report is not None:
            report(f"measuring {name} ({read + 1} of {len(names)})")
        scan = load(data.scan(name))
        mask = load_mask(data.mask(name), grid=scan.geometry)
        refuse_defects(scan, mask, data.labels, required=not data.empty_masks)  # as `train` does
        modality, read = modality or scan.source.modality or "", read + 1
        there = set(data.labels.values()) or set(values_in(mask.array))
        if np.isin(mask.array, list(there)).any():
            values |= there
            seen.append(_look(scan, mask, sorted(there)))
    if not seen:
        raise InputError("no mask that was read holds a label", where=data.folder / INDEX)
    labels = dict(data.labels) or {f"label-{value}": value for value in sorted(values)}
    return replace(_together(seen, modality, labels), skipped=len(names) - read)


def _spread(names: tuple[str, ...]) -> list[str]:
    """Return up to `SAMPLE` names evenly spaced over the list, ordered so that the first few are so too."""
    places = np.unique(np.linspace(0, len(names) - 1, min(SAMPLE, len(names))).round().astype(int))
    return [names[place] for step in (8, 4, 2, 1) for place in places[::step] if _first(place, places, step)]


def _first(place: int, places: NDArray[np.int_], step: int) -> bool:
    """Return whether no wider step already includes the place."""
    return step == 8 or place not in places[:: 2 * step]


def _look(scan: Volume, mask: Volume, labels: list[int]) -> _Seen:
    array, spacing_mm = orient(mask.array, scan.geometry), oriented(scan.geometry).spacing_mm
    fov_mm = np.asarray(array.shape) * spacing_mm
    inside = np.isin(array, labels)
    sides = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    voxels = np.asarray([found[-1] - found[0] + 1 for found in sides])
    organs = _organs(array, labels)
    counts = [np.count_nonzero(organ) for organ in organs]
    diameters = [float(6 * n * scan.geometry.voxel_ml * 1000 / pi) ** (1 / 3) for n in counts]
    grey = orient(scan.array, scan.geometry)[inside]
    return _Seen(
        spacing_mm,
        fov_mm,
        voxels * spacing_mm,
        diameters,
        all(map(_one_piece, organs)),
        np.asarray(grey[:: max(1, len(grey) // VALUES)], dtype=np.float64),
    )


def _organs(array: NDArray[np.integer], labels: list[int]) -> list[NDArray[np.bool_]]:
    """Return the voxels of each label present, within its bounding box; one pass finds the boxes of all."""
    from scipy import ndimage

    boxes = ndimage.find_objects(array, max_label=max(labels))
    found = ((value, boxes[value - 1]) for value in labels)
    return [array[box] == value for value, box in found if box is not None]


def _one_piece(inside: NDArray[np.bool_]) -> bool:
    from scipy import ndimage

    pieces, count = ndimage.label(inside)
    return count < 2 or bool(np.bincount(pieces.ravel())[1:].max() >= WHOLE * np.count_nonzero(inside))


def _together(seen: list[_Seen], modality: str, labels: Mapping[str, int]) -> DataStatistics:
    low, high = np.quantile(np.concatenate([case.grey for case in seen]), [0.005, 0.995])
    return DataStatistics(
        modality=modality,
        labels=labels,
        spacing_mm=_triple(np.median([case.spacing_mm for case in seen], axis=0)),
        fov_mm=_triple(np.median([case.fov_mm for case in seen], axis=0)),
        organ_mm=_triple(np.percentile([case.organ_mm for case in seen], LARGE, axis=0)),
        diameter_mm=float(np.median([min(case.diameters_mm) for case in seen])),
        one_piece=all(case.one_piece for case in seen),
        grey=(float(low), float(high)),
        read=len(seen),
    )


def _triple(values: NDArray[np.float64]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
