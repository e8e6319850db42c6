"""Names and colours of the masks in a picture: a colour for each label, one for the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.io.dicom_objects.codes import LABEL_COLOURS

Colour = tuple[int, int, int]

# Labels have the colours of DICOM SEG; the truth has the last colour of Okabe and Ito that differs from grey.
LABELS: tuple[Colour, ...] = LABEL_COLOURS
TRUTH: Colour = (86, 180, 233)
COLOURS = (LABELS[0], TRUTH, *LABELS[1:])


@dataclass(frozen=True, eq=False)
class LabelOutline:
    """One outline: its name in the legend, label values (i, j, k), its colour, and its value.

    The array is that of the whole mask, shared by its outlines: a hundred labels need no hundred volumes.
    """

    name: str
    array: Array
    colour: Colour
    value: int = 1


def label_colours(labels: Mapping[str, int]) -> dict[str, Colour]:
    """Return a colour for each label name; beyond five labels the colours repeat."""
    return {name: LABELS[n % len(LABELS)] for n, name in enumerate(labels)}


def outlines(mask: Volume, labels: Mapping[str, int], truth: Volume | None = None) -> list[LabelOutline]:
    """Return an outline for each label of the prediction, then for each of the truth.

    Parameters
    ----------
    mask, truth
        Label values (i, j, k) on one grid.
    labels
        Name -> value.
    """
    colours = label_colours(labels)
    found = [LabelOutline(name, mask.array, colours[name], value) for name, value in labels.items()]
    if truth is not None:
        found += [LabelOutline("truth", truth.array, TRUTH, value) for value in labels.values()]
    return found


def layers(shown: Sequence[LabelOutline]) -> list[tuple[Array, list[int]]]:
    """Return each array of the outlines once, without values that are not shown, and its outlines.

    Returns
    -------
    list of tuple
        (i, j, k) label values, 0 where nothing is shown; and the indices of the outlines in `shown`.
    """
    places: dict[int, list[int]] = {}
    for place, outline in enumerate(shown):
        places.setdefault(id(outline.array), []).append(place)
    found = []
    for of_one in places.values():
        array, values = shown[of_one[0]].array, [shown[place].value for place in of_one]
        found.append((np.where(np.isin(array, values), array, np.zeros((), array.dtype)), of_one))
    return found
