"""Inspect a DICOM SEG or RTSTRUCT, and load the mask that is drawn in it on the grid of its scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from c3s3_seg.errors import InputError, cause_of, listed
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io.detect import is_dicom
from c3s3_seg.io.dicom_objects.rtstruct_read import read_rtstruct, region_name
from c3s3_seg.io.dicom_objects.seg_frames import segment_names
from c3s3_seg.io.dicom_objects.seg_grid import seg_grid
from c3s3_seg.io.dicom_objects.seg_read import read_seg

SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}  # bits; label map
RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
MOST = 8  # number of names that a message lists
LARGEST = (1 << 16) - 1  # largest value of a mask
KIND: dict[str, Literal["dicom-seg", "rtstruct"]] = {
    **dict.fromkeys(SEG_CLASSES, "dicom-seg"),
    RTSTRUCT_CLASS: "rtstruct",
}


@dataclass(frozen=True)
class Drawing:
    """A SEG or an RTSTRUCT, with its references and its names.

    Parameters
    ----------
    path, kind
        The file, and which of the two it is.
    series, slices
        UIDs of the series and of the instances that it was drawn on; empty if it names none.
    names
        Names of its segments or regions, in their order, each once. Free text.
    numbers
        SegmentNumber or ROINumber of each name; the smallest one if several have the name.
    """

    path: Path
    kind: Literal["dicom-seg", "rtstruct"]
    series: frozenset[str]
    slices: frozenset[str]
    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()

    @property
    def values(self) -> dict[str, int]:
        """The default values: name -> its number, or its place from 1 if numbers are repeated or unusable."""
        if len(set(self.numbers)) == len(self.names) and all(0 < n <= LARGEST for n in self.numbers):
            return dict(zip(self.names, self.numbers, strict=True))
        return {name: number for number, name in enumerate(self.names, 1)}


def look_at_drawing(path: Path) -> Drawing | None:
    """Return the references of a file and the names in it; None if it is neither SEG nor RTSTRUCT.

    Raises
    ------
    InputError
        If the file is one of them, and its header cannot be read or gives two segments one number.
    """
    from c3s3_seg.io.deflated import header_of

    if not is_dicom(path):
        return None
    try:
        head = header_of(path, specific_tags=["SOPClassUID"], force=True)
        kind = KIND.get(str(head.get("SOPClassUID", "")))
    except Exception:  # pydicom raises any error of its parser; the file is then none of these
        return None
    if kind is None:
        return None
    try:
        data = header_of(path, force=True)
        series, slices = (_of_seg if kind == "dicom-seg" else _of_rtstruct)(data)
        named: dict[str, int] = {}
        for number, name in _names(data, kind, path):
            named[name] = min(number, named.get(name, number))
    except InputError:
        raise
    except Exception as error:
        what = f"the header of this {_word(kind)} cannot be read ({cause_of(error)})"
        raise InputError(what, where=path, todo="Copy or export it again") from error
    return Drawing(path, kind, frozenset(series), frozenset(slices), tuple(named), tuple(named.values()))


def load_drawing(drawing: Drawing, grid: Geometry, values: Mapping[str, int]) -> Volume:
    """Load the mask that is drawn in a SEG or an RTSTRUCT.

    Parameters
    ----------
    drawing
        Result of `look_at_drawing`.
    grid
        Grid of the scan that it was drawn on.
    values
        Name of a segment or a region -> value in the mask, from 1. Other names are left out, with a note.

    Returns
    -------
    Volume
        Labels (i, j, k) uint16 on `grid`; all 0 where nothing is drawn.

    Raises
    ------
    InputError
        If the file holds none of the names, a value is not 1 to 65535, labels overlap, or it is damaged.
    GeometryError
        If the drawing does not lie on the voxels or the slices of the grid.
    """
    wanted = {name: values[name] for name in drawing.names if name in values}
    if not wanted:
        held = listed(drawing.names, MOST) or "nothing"
        what = f"this {_word(drawing.kind)} holds none of {listed(values, MOST)}; it holds {held}"
        raise InputError(what, where=drawing.path, todo="Name its labels with --labels NAME=VALUE")
    for name, value in wanted.items():
        if not 0 < value <= LARGEST:
            what = f"found the value {value} for the label '{name}'; wanted 1 to {LARGEST}"
            raise InputError(what, where=drawing.path)
    if drawing.kind == "dicom-seg":
        return read_seg(drawing.path, grid, wanted)
    return read_rtstruct(drawing.path, grid, wanted)


def load_drawn_mask(
    path: Path, grid: Geometry | None = None, values: Mapping[str, int] | None = None
) -> Volume:
    """Load a DICOM SEG or RTSTRUCT as a mask: the part of `load_mask` for DICOM.

    Parameters
    ----------
    path
        The file.
    grid
        Grid of the scan that it was drawn on. None: the grid of the frames of a DICOM SEG.
    values
        Name -> value, as in `load_drawing`; None: `Drawing.values`, which a note lists.

    Returns
    -------
    Volume
        Labels (i, j, k): uint8 if they fit, else uint16.

    Raises
    ------
    InputError, GeometryError
        If the file is neither of the two, `grid` is None for an RTSTRUCT, or as in `load_drawing`.
    """
    drawing = look_at_drawing(path)
    if drawing is None:
        what = "this DICOM file is no mask; wanted a DICOM SEG or an RTSTRUCT"
        raise InputError(what, where=path, todo="Give the file of the mask, not the scan")
    if grid is None and drawing.kind == "rtstruct":
        raise InputError(
            "an RTSTRUCT has contours and no voxels: the grid of its scan is needed",
            where=path,
            todo="Compare it with a mask on the grid of the scan, or convert it with `c3s3-seg prepare`",
        )
    wanted = drawing.values if values is None else values
    mask = load_drawing(drawing, seg_grid(path) if grid is None else grid, wanted)
    source = mask.source
    if values is None:
        told = listed((f"{name} = {value}" for name, value in wanted.items()), MOST)
        source = replace(source, notes=(*source.notes, f"labels of the {_word(drawing.kind)}: {told}"))
    small = int(mask.array.max()) <= 255
    return mask.geometry.volume(mask.array.astype("uint8") if small else mask.array, source)


def _names(data: Any, kind: str, path: Path) -> Iterator[tuple[int, str]]:
    if kind == "dicom-seg":
        yield from segment_names(data, path).items()
    else:
        regions = data.get("StructureSetROISequence") or ()
        yield from ((int(item.ROINumber), region_name(item)) for item in regions)


def _of_seg(data: Any) -> tuple[set[str], set[str]]:
    """Return UIDs from the common instance reference (PS3.3, C.12.2) and from the sources of each frame."""
    series, slices = set(), set()
    for item in data.get("ReferencedSeriesSequence") or ():
        series.add(str(item.SeriesInstanceUID))
        slices |= {str(i.ReferencedSOPInstanceUID) for i in item.get("ReferencedInstanceSequence") or ()}
    for frame in data.get("PerFrameFunctionalGroupsSequence") or ():
        for derived in frame.get("DerivationImageSequence") or ():
            slices |= {str(i.ReferencedSOPInstanceUID) for i in derived.get("SourceImageSequence") or ()}
    return series, slices


def _of_rtstruct(data: Any) -> tuple[set[str], set[str]]:
    """Return UIDs from the referenced frame of reference (PS3.3, C.8.8.5) and the contours (C.8.8.6)."""
    series, slices = set(), set()
    for frame in data.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(item.SeriesInstanceUID))
                slices |= _images(item)
    for region in data.get("ROIContourSequence") or ():
        for contour in region.get("ContourSequence") or ():
            slices |= _images(contour)
    return series, slices


def _images(item: Any) -> set[str]:
    return {str(image.ReferencedSOPInstanceUID) for image in item.get("ContourImageSequence") or ()}


def _word(kind: str) -> str:
    return {"dicom-seg": "DICOM SEG", "rtstruct": "RTSTRUCT"}[kind]
