"""Classify DICOM images: slices by their SOP class, slices by modality and place, and other objects.

Some files have a SOP class that is blank, private or that of a secondary capture, and are slices all the
same: they state CT, MR or PT and the place of each pixel. A series of slices may hold other objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from c3s3_seg.io.dicom.header import FRAME_CLASSES, PLACE_MM, SLICE_CLASSES, Slice

MODALITIES = ("CT", "MR", "PT")
PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
SAME_COSINE = 0.01
# Slices that are alone in their series: fewer than this are views that were planned one by one.
FEWEST_ALONE = 5


def has_slice_class(item: Slice) -> bool:
    """Return whether the SOP class of an item is one of CT, MR or PET."""
    return item.sop_class in SLICE_CLASSES | FRAME_CLASSES


def is_slice(item: Slice) -> bool:
    """Return whether an item is a slice, by its class or by its modality and place in the patient."""
    return has_slice_class(item) or (
        item.text("Modality") in MODALITIES
        and all(item.numbers(keyword, count) is not None for keyword, count in PLACE.items())
        and item.number("NumberOfFrames", 1) == 1
        and item.text("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    )


def class_name(item: Slice) -> str:
    """Return the SOP class of an item in words."""
    return UID(item.sop_class).name if item.sop_class else "no SOP class"


def of_one_kind(items: Sequence[Slice]) -> tuple[list[Slice], tuple[Slice, ...]]:
    """Separate the slices of a series from the objects of other kinds among them.

    Beside two or more slices by class, a slice by place alone has to fit them, since it may be a picture
    made from one of them. If there are fewer than two slices, nothing is separated.
    """
    slices = [item for item in items if is_slice(item)]
    by_class = [item for item in slices if has_slice_class(item)]
    if 1 < len(by_class) < len(slices):
        points = [item.numbers("ImagePositionPatient", 3) for item in by_class]
        taken = np.array([point for point in points if point is not None]).reshape(-1, 3)
        slices = [item for item in slices if has_slice_class(item) or _fits(item, by_class[0], taken)]
    if len(slices) < 2:
        return list(items), ()
    kept = {id(item) for item in slices}
    return slices, tuple(item for item in items if id(item) not in kept)


def alone_in_series(singles: Iterable[Slice]) -> int:
    """Count the slices, each the only one of its series, that lie side by side like those of one volume.

    De-identification may give each file a SeriesInstanceUID of its own, and some scanners make a
    series of each slice.

    Parameters
    ----------
    singles
        The image of each series that has only one.

    Returns
    -------
    int
        Most slices of one modality, size and direction at different places; 0 if below `FEWEST_ALONE`.
    """
    heights: dict[tuple[str, ...], set[float]] = defaultdict(set)
    for item in singles:
        cosines, point = item.numbers("ImageOrientationPatient", 6), item.numbers("ImagePositionPatient", 3)
        if is_slice(item) and not item.is_localizer and cosines is not None and point is not None:
            texts = [item.text(k) for k in ("Modality", "Rows", "Columns", "ImageOrientationPatient")]
            normal = np.cross(cosines[:3], cosines[3:])
            heights[*texts].add(round(float(point @ normal), 2))
    most = max(map(len, heights.values()), default=0)
    return most if most >= FEWEST_ALONE else 0


def _fits(item: Slice, first: Slice, taken: NDArray[np.float64]) -> bool:
    """Return whether an item has size, modality and direction of a slice, at no place of `taken` (n, 3)."""
    point = item.numbers("ImagePositionPatient", 3)
    cosines, own = (s.numbers("ImageOrientationPatient", 6) for s in (first, item))
    if any(item.text(k) != first.text(k) for k in ("Rows", "Columns", "Modality")):
        return False
    if cosines is None or own is None or point is None or np.abs(cosines - own).max() > SAME_COSINE:
        return False
    normal = np.cross(cosines[:3], cosines[3:])
    return bool((np.abs((taken - point) @ normal) > PLACE_MM).all())
