"""The masks of a picture with their names and colours: each label its own, and the truth always the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io.dicom_objects.codes import LABEL_COLOURS

Colour = tuple[int, int, int]

# The labels as in DICOM SEG, and the last colour of Okabe and Ito that stands out from grey.
LABELS: tuple[Colour, ...] = LABEL_COLOURS
TRUTH: Colour = (86, 180, 233)
COLOURS = (LABELS[0], TRUTH, *LABELS[1:])


@dataclass(frozen=True, eq=False)
class LabelOutline:
    """One outline: its name in the legend, the mask (i, j, k) bool and its colour."""

    name: str
    mask: NDArray[np.bool_]
    colour: Colour


def label_colours(labels: Mapping[str, int]) -> dict[str, Colour]:
    """Name of the label -> its colour; beyond five labels they repeat."""
    return {name: LABELS[n % len(LABELS)] for n, name in enumerate(labels)}


def outlines(mask: Volume, labels: Mapping[str, int], truth: Volume | None = None) -> list[LabelOutline]:
    """An outline for each label of the prediction, then for each of the truth.

    Parameters
    ----------
    mask, truth
        Label values (i, j, k) on one grid.
    labels
        Name -> value.
    """
    colours = label_colours(labels)
    found = [LabelOutline(name, mask.array == value, colours[name]) for name, value in labels.items()]
    if truth is not None:
        found += [LabelOutline("truth", truth.array == value, TRUTH) for value in labels.values()]
    return found
