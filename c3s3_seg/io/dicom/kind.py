"""What kind of object a DICOM image is: a slice by its SOP class, by its modality and place, or none.

Files are met whose SOP class is blank, private or that of a secondary capture, and which are slices all the
same: they say CT, MR or PT and where each pixel lies. Objects of other kinds lie in the series of slices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from c3s3_seg.io.dicom.header import FRAME_CLASSES, SLICE_CLASSES, Slice

MODALITIES = ("CT", "MR", "PT")
PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
PLACE_MM, SAME_COSINE = 0.005, 0.01
# Of slices that are alone in their series: fewer are views that were planned one by one.
FEWEST_ALONE = 5


def has_slice_class(item: Slice) -> bool:
    """Whether its SOP class is one of CT, MR or PET."""
    return item.sop_class in SLICE_CLASSES | FRAME_CLASSES


def is_slice(item: Slice) -> bool:
    """Whether it is a slice: by its class, or by its modality and its place in the patient."""
    return has_slice_class(item) or (
        item.text("Modality") in MODALITIES
        and all(item.numbers(keyword, count) is not None for keyword, count in PLACE.items())
        and item.number("NumberOfFrames", 1) == 1
        and item.text("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    )


def class_name(item: Slice) -> str:
    """Its SOP class in words."""
    return UID(item.sop_class).name if item.sop_class else "no SOP class"


def of_one_kind(items: Sequence[Slice]) -> tuple[list[Slice], tuple[Slice, ...]]:
    """The slices of a series, and the objects of other kinds among them.

    One that is a slice by its place alone, beside slices by their class, has to fit to them: it may as well
    be a picture that was made of one. Where there are no two slices, nothing is taken apart.
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
    """How many slices, each the only one of its series, lie beside each other like those of one volume.

    Programs that remove names may give each file a SeriesInstanceUID of its own, and some scanners make a
    series of each slice.

    Parameters
    ----------
    singles
        Of each series that has one image, this image.

    Returns
    -------
    int
        Of those of one modality, size and direction; 0 where they are fewer than `FEWEST_ALONE`.
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
    """Whether it has size, modality and direction of a slice, and a place beside all those (n, 3)."""
    point = item.numbers("ImagePositionPatient", 3)
    cosines, own = (s.numbers("ImageOrientationPatient", 6) for s in (first, item))
    if any(item.text(k) != first.text(k) for k in ("Rows", "Columns", "Modality")):
        return False
    if cosines is None or own is None or point is None or np.abs(cosines - own).max() > SAME_COSINE:
        return False
    normal = np.cross(cosines[:3], cosines[3:])
    return bool((np.abs((taken - point) @ normal) > PLACE_MM).all())
