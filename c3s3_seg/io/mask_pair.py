"""Read a prediction and its truth on one grid: image files, DICOM SEG and RTSTRUCT, in any combination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.geometry.orthonormalize import REPAIRED
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io.image.files import as_labels, image_suffix, load_image, load_mask
from c3s3_seg.io.scan_like import TODO, ScanError, refuse_scan, scan_words

if TYPE_CHECKING:
    from c3s3_seg.io.dicom_objects.segmentation import Drawing

NAME_THEM = "Say which names belong to which value: --labels NAME=VALUE,NAME=VALUE"
LARGEST_VALUE = 65535


def load_pair(
    prediction: Path, truth: Path, names: Mapping[str, int], scan: Path | None = None
) -> tuple[Volume, Volume]:
    """Read a prediction and its truth.

    Parameters
    ----------
    prediction, truth
        Image files, DICOM SEG or RTSTRUCT.
    names
        Name of a segment or a region -> value in the mask, from 1; upper and lower case are alike. A name
        that a file lacks is a label that the file does not hold.
    scan
        Scan of the case, which gives the grid if neither mask is an image file.

    Returns
    -------
    tuple
        Both masks (i, j, k). A SEG or RTSTRUCT is read onto the grid of the other mask; if both are such
        files, onto that of the scan, else of the SEG's frames, else of the referenced series beside them.

    Raises
    ------
    ScanError
        If one of the files looks like a scan.
    InputError
        If one of the files cannot be read, or neither has a grid.
    GeometryError
        If a SEG or RTSTRUCT does not lie on the grid, or slices of the grid were interpolated between those
        that it was drawn on; or if the axes of an image file are not perpendicular.
    """
    paths = (prediction, truth)
    drawn = [_look(path) for path in paths]
    images = [load_labels(path) if d is None else None for path, d in zip(paths, drawn, strict=True)]
    _refuse_sheared([image for image in images if image is not None])
    grid = next((image.geometry for image in images if image is not None), None)
    grid = grid or _grid_of([d for d in drawn if d is not None], scan)
    first, second = (
        _drawn(d, grid, names) if d is not None else image for d, image in zip(drawn, images, strict=True)
    )
    if first is None or second is None:
        raise InputError("the mask cannot be read", where=prediction)
    for drawing, mask, other in zip(drawn, (first, second), paths[::-1], strict=True):
        if drawing is not None and image_suffix(other):
            from c3s3_seg.io.dicom_objects.acquired import refuse_interpolated

            refuse_interpolated(drawing, mask, other, scan)
    return first, second


def load_labels(path: Path) -> Volume:
    """Read an image file as `load_mask` does; refuse a file that looks like a scan for that reason.

    If its axes are not quite perpendicular, they are repaired, with a note: the values are the same.

    Raises
    ------
    ScanError
        If the file looks like a scan.
    InputError
        For the reasons of `load_mask`.
    """
    if image_suffix(path) is None:
        refuse_scan(path)
    try:
        mask = as_labels(load_image(path, orthonormal=True)) if image_suffix(path) else load_mask(path)
    except InputError:
        refuse_scan(path)
        raise
    words = scan_words(mask.array)
    if words is not None:
        raise ScanError(f"{words}; wanted a mask", where=path, todo=TODO)
    return mask


def _refuse_sheared(masks: Sequence[Volume]) -> None:
    """Refuse a mask whose axes were repaired, unless the other one lies on the repaired grid.

    The prediction of a scan that was repaired (`predict --repair orthonormal`) has that grid, and its truth,
    which was drawn on the scan as it is, has the fault of the scan.
    """
    repaired = [any(note.startswith(REPAIRED) for note in mask.source.notes) for mask in masks]
    alike = len(masks) == 2 and masks[0].geometry.matches(masks[1].geometry)
    if any(repaired) and (all(repaired) or not alike):
        wrong = masks[repaired.index(True)]
        repair = next(note for note in wrong.source.notes if note.startswith(REPAIRED)).partition(": ")[2]
        other = "neither are those of the other one"
        if not all(repaired):
            other = "the other mask is not on the grid of that rotation"
        raise GeometryError(
            f"the axes of the mask are not perpendicular ({repair}), and {other}",
            where=wrong.source.path,
            todo="Resample it to perpendicular axes in another program, or compare it with a prediction of"
            " `predict --repair orthonormal`",
        )


def name_values(
    truths: Sequence[Path], predictions: Sequence[Path], stated: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the mask values of the names in DICOM SEG and RTSTRUCT files.

    Parameters
    ----------
    truths, predictions
        Files of both sides.
    stated
        Name -> value in the image files among them, if known; upper and lower case are alike.

    Returns
    -------
    dict
        Name -> value. If every file has names, they are numbered in order, those of the truths first.
        Beside image files a name has the stated value, and another name the number of its segment or region.
        Empty if there is no SEG or RTSTRUCT.

    Raises
    ------
    InputError
        If, beside image files, a name has two numbers, a number two names, or a number is out of range.
    """
    files = (*truths, *predictions)
    drawings = [look for path in files if (look := _header(path)) is not None]
    if any(image_suffix(path) for path in files):
        return _by_number(drawings, stated or {})
    values: dict[str, int] = {}
    known: dict[str, int] = {}
    for name in (name for drawing in drawings for name in drawing.names):
        values.setdefault(name, known.setdefault(name.casefold(), len(known) + 1))
    return values


def values_named(path: Path, names: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the values of the names in a DICOM SEG or RTSTRUCT, ascending; None for an image file.

    Raises
    ------
    InputError
        If the header cannot be read.
    """
    drawing = _look(path)
    return None if drawing is None else tuple(sorted(set(_values(drawing, names).values())))


def _values(drawing: Drawing, names: Mapping[str, int]) -> dict[str, int]:
    """Return the known names in the file -> value; upper and lower case are alike."""
    known = {name.casefold(): value for name, value in names.items()}
    return {name: known[name.casefold()] for name in drawing.names if name.casefold() in known}


def _look(path: Path) -> Drawing | None:
    if image_suffix(path):
        return None
    # Imported here because it imports pydicom, which takes as long as a case.
    from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing

    return look_at_drawing(path)


def _header(path: Path) -> Drawing | None:
    try:
        return _look(path)
    except C3S3Error:  # the case fails with its reason when it is read
        return None


def _by_number(drawings: Sequence[Drawing], stated: Mapping[str, int]) -> dict[str, int]:
    values: dict[str, int] = {}
    known = {name.casefold(): value for name, value in stated.items()}
    numbered = [(drawing, _numbers(drawing)) for drawing in drawings]
    shared = any(name.casefold() in known for _, numbers in numbered for name, _ in numbers)
    # Without a common name the sides have names of their own for the same numbers.
    owners = {value: name for name, value in stated.items()} if shared else {}
    for drawing, numbers in numbered:
        for name, own in numbers:
            number = known.get(name.casefold(), own)
            other = owners.setdefault(number, name)
            if values.setdefault(name, number) != number or other.casefold() != name.casefold():
                what = f"'{name}' has the number {number} here, and in another file '{other}' has"
                if other.casefold() == name.casefold():
                    what = f"'{name}' has the number {number} here, and {values[name]} in another file"
                raise InputError(what, where=drawing.path, todo=NAME_THEM)
            if not 0 < number <= LARGEST_VALUE:
                what = f"'{name}' has the number {number}; wanted 1 to {LARGEST_VALUE}"
                raise InputError(what, where=drawing.path, todo=NAME_THEM)
    return values


def _numbers(drawing: Drawing) -> list[tuple[str, int]]:
    from c3s3_seg.io.deflated import header_of
    from c3s3_seg.io.dicom_objects.rtstruct_read import region_name
    from c3s3_seg.io.dicom_objects.seg_frames import segment_names

    try:
        data: Any = header_of(drawing.path, force=True)
        if drawing.kind == "dicom-seg":
            return [(name, number) for number, name in segment_names(data, drawing.path).items()]
        return [(region_name(item), int(item.ROINumber)) for item in data.StructureSetROISequence]
    except Exception:  # a damaged file can hold anything; its case fails when it is read
        return []


def _drawn(drawing: Drawing, grid: Geometry, names: Mapping[str, int]) -> Volume:
    from c3s3_seg.io.dicom_objects.segmentation import load_drawing

    values = _values(drawing, names)
    if values:
        return load_drawing(drawing, grid, values)
    # The file holds other labels only: an empty mask is a miss, which must not drop out of the means.
    empty = grid.volume(np.zeros(grid.shape, dtype=np.uint8))
    note = "it holds none of the labels that are measured"
    return replace(empty, source=replace(empty.source, path=drawing.path, notes=(note,)))


def _grid_of(drawings: Sequence[Drawing], scan: Path | None) -> Geometry:
    from c3s3_seg.io import load
    from c3s3_seg.io.dicom_objects.seg_grid import frames_grid

    if scan is not None:
        return load(scan).geometry
    segs = [drawing.path for drawing in drawings if drawing.kind == "dicom-seg"]
    if segs:
        return frames_grid(segs, [drawing.path for drawing in drawings if drawing.kind == "rtstruct"])
    for drawing in drawings:
        for series in sorted(drawing.series):
            try:
                return load(drawing.path.parent, series=series).geometry
            except C3S3Error:
                continue
    raise InputError(
        "an RTSTRUCT has no grid of its own, and neither has the other mask",
        where=drawings[0].path,
        todo="Give the scans that they were drawn on with --images",
    )
