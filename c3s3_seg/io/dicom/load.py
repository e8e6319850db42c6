"""Read a DICOM series into a `Volume`: headers, grouping and checks, then pixels.

SimpleITK's series reader is not used: it loses the shear of a tilted gantry, drops a truncated first
or last file, wraps the values of later slices into the type of the first, inverts MONOCHROME1, and
takes one series out of several, all without a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from pathlib import Path

import numpy as np

from c3s3_seg.errors import InputError, listed
from c3s3_seg.geometry.volume import Geometry, Source, Volume
from c3s3_seg.io.cases import may_be_file, visible, walk_files
from c3s3_seg.io.detect import is_dicomdir
from c3s3_seg.io.dicom.grid import Stack, stack
from c3s3_seg.io.dicom.header import FRAME_CLASSES, Slice
from c3s3_seg.io.dicom.pixels import Pixels, same_pixels, stack_planes
from c3s3_seg.io.dicom.repair import repair
from c3s3_seg.io.dicom.series import Found, Series, look_through
from c3s3_seg.io.dicom.series_choice import choose
from c3s3_seg.io.reading import Reading

# Attributes that may differ between two slices at one place, for the message. Never dates.
PHASES = (
    "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "TriggerTime",
    "AcquisitionNumber", "ImageType", "ComplexImageComponent",
)  # fmt: skip

# Attributes that all slices of one volume share. Numbers may differ by rounding (ROUNDED_PART).
CONTRAST: dict[str | int, str] = {
    **{name: name for name in (
        "EchoNumbers", "EchoTime", "InversionTime", "DiffusionBValue", "TemporalPositionIdentifier",
        "ComplexImageComponent", "FlipAngle",
    )},
    **dict.fromkeys((0x0019100C, 0x20011003, 0x00431039), "the b-value"),  # of Siemens, Philips and GE
}  # fmt: skip
ROUNDED_PART = 0.01


def load_series(path: str | Path, reading: Reading | None = None) -> Volume:
    """Read a DICOM series of CT, MR or PET slices.

    Parameters
    ----------
    path
        A folder, which is searched with its sub-folders; one file of the series; or a DICOMDIR.
    reading
        Series to read, and permitted repairs.

    Returns
    -------
    Volume
        float32 or, where that would merge values, float64 (i, j, k) = (column, row, slice), rescaled with
        each slice's slope and intercept, slices ordered along the normal; its grid in mm, LPS.

    Raises
    ------
    InputError
        If several series could be meant; a slice is missing, damaged or there twice with different
        pixels; patients, frames of reference or sizes are mixed; or its compression cannot be decoded.
    GeometryError
        If the slices are unevenly spaced, or the gantry was tilted.
    """
    path, reading = Path(path), reading or Reading()
    found, reading = find_series(path, reading)
    chosen, notes = choose(found, reading)
    return build(chosen, notes, path, reading)


def load_listed(files: Sequence[Path], root: Path, reading: Reading) -> Volume:
    """Read a series of which all files are known: no folder is searched.

    Parameters
    ----------
    files
        Files of the series, including its localizers and other phases.
    root
        A folder above the files, which messages name.
    reading
        Phase to read, if there are several, and permitted repairs.

    Raises
    ------
    InputError, GeometryError
        For the reasons of `load_series`.
    """
    chosen, notes = choose(look_through(root, files), reading)
    return build(chosen, notes, root, reading)


def load_files(path: Path, files: Sequence[Path], reading: Reading) -> Volume:
    """Read a series of which all files are known; messages name them as in `load_series(path)`.

    Parameters
    ----------
    path
        A folder, or one file of the series.
    files
        All files of the series, including its localizers and other phases.
    reading
        Phase to read, if there are several, and permitted repairs.

    Raises
    ------
    InputError, GeometryError
        For the reasons of `load_series`.
    """
    root = path if path.is_dir() else path.parent
    among = walk_files(root) if path.is_dir() else _beside(path)
    chosen, notes = choose(look_through(root, files, among), reading)
    return build(chosen, notes, path, reading)


def find_series(path: Path, reading: Reading) -> tuple[Found, Reading]:
    """Return the series at a path, and the reading; for one file, the reading selects its series."""
    if path.is_dir():
        return look_through(path), reading
    if is_dicomdir(path):
        from c3s3_seg.io.dicom.dicomdir import listed_files

        return look_through(path.parent, listed_files(path)), reading
    if reading.series is not None:
        raise InputError("a DICOM file is of one series", where=path, todo="Leave --series out")
    return _series_of(path, reading)


def _series_of(path: Path, reading: Reading) -> tuple[Found, Reading]:
    """Return the series in the folder of one file, and the reading that selects the file's own series."""
    root = path.parent
    # The file is read alone first, so that a broken one is named, whatever lies beside it.
    alone = look_through(root, [path])
    if not alone.series:
        return alone, reading
    uid = alone.series[0].uid
    found = look_through(root, _beside(path))
    numbers = [n for n, s in enumerate(found.series, 1) if s.uid == uid]
    own = [n for n in numbers if path in {s.path for s in found.series[n - 1].slices}]
    held = [found.series[n - 1] for n in own if found.series[n - 1].is_volume]
    if len(held) > 1:
        raise InputError(
            f"this file holds {len(held)} volumes; wanted one: {'; '.join(map(str, held))}",
            where=path,
            todo="Give its folder and choose one of them with --series",
        )
    return found, Reading((own or numbers)[0], reading.repair, reading.rule)


def _beside(path: Path) -> list[Path]:
    """Return a file and those in its folder, without hidden ones; it may itself be hidden."""
    return sorted({path, *filter(may_be_file, visible(path.parent))})


def build(series: Series, notes: tuple[str, ...], path: Path, reading: Reading) -> Volume:
    """Check the slices of a series, decode them and put them on their grid."""
    root = path if path.is_dir() else path.parent
    placed = check(series, root, reading)
    keep = [place[0] for place in placed.places]
    with Pixels(root) as pixels:
        dropped = [extra for place in placed.places for extra in _doubles(place, pixels, root)]
        array, filled = stack_planes(keep, pixels)
    array, affine, repaired = repair(array, placed, root)
    if dropped:
        notes = (*notes, f"dropped, the same slice twice: {listed(s.name for s in dropped)}")
    if any(s.text("PhotometricInterpretation") == "MONOCHROME1" for s in keep):
        notes = (*notes, "MONOCHROME1: low values are shown bright; the values are as stored, not inverted")
    if any(s.text("LossyImageCompression") == "01" for s in keep):
        notes = (*notes, "the slices were compressed with loss before they came here")
    first = keep[0]
    geometry = Geometry(array.shape, affine, first.text("FrameOfReferenceUID") or None)
    source = Source(
        path,
        first.text("Modality") or None,
        series.uid or None,
        (*notes, *filled, *repaired),
        series.key or None,
    )
    return Volume(array, geometry, source)


def check(series: Series, root: Path, reading: Reading) -> Stack:
    """Check a series without its pixels: one kind, one patient, one grid; return its stack.

    Raises
    ------
    InputError, GeometryError
        For the reasons of `load_series`.
    """
    _check_kind(series.slices, root)
    notes = _check_one(series.slices, root)
    _check_scaled(series.slices, root)
    found = stack(series.slices, root, reading.repair)
    return replace(found, notes=(*notes, *found.notes))


def _check_kind(slices: tuple[Slice, ...], root: Path) -> None:
    for item in slices:
        if item.number("NumberOfFrames", 1) > 1:
            classes = "enhanced" if item.sop_class in FRAME_CLASSES else "classic"
            raise InputError(
                f"'{item.name}' is a {classes} file of several frames, which does not say where they lie",
                where=root,
                todo="Export it as classic DICOM, or convert it to NIfTI, for instance with dcm2niix",
            )
        color = item.text("PhotometricInterpretation")
        if item.number("SamplesPerPixel", 1) != 1 or color not in ("MONOCHROME1", "MONOCHROME2"):
            raise InputError(f"'{item.name}' is not a grey image: found '{color}'", where=root)
        if _has_table(item, root):
            raise InputError(
                f"'{item.name}' has a lookup table in place of a slope",
                where=root,
                todo="Have the series exported with RescaleSlope and RescaleIntercept",
            )
        if "MOSAIC" in item.text("ImageType").upper():
            raise InputError(
                f"'{item.name}' is a mosaic: all slices side by side in one image",
                where=root,
                todo="Convert it to NIfTI first, for instance with dcm2niix",
            )


def _has_table(item: Slice, root: Path) -> bool:
    """Return whether a slice has a lookup table for its values; an empty sequence states nothing."""
    try:
        return len(item.data.get("ModalityLUTSequence") or ()) > 0
    except Exception as error:  # pydicom parses a sequence on first access, and raises errors of any type
        raise InputError(
            f"the file '{item.name}' is damaged: its ModalityLUTSequence cannot be read",
            where=root,
            todo="Copy or export the series again",
        ) from error


def _check_one(slices: tuple[Slice, ...], root: Path) -> tuple[str, ...]:
    """Check for one patient, frame, size, modality and unit. Messages name files, never the values."""
    wanted = {
        "of two patients": ("PatientID", "PatientName"),
        "in two frames of reference": ("FrameOfReferenceUID",),
        "of two sizes": ("Rows", "Columns"),
        "of two modalities": ("Modality",),
        "in two units": ("Units",),  # of PET: BQML, GML, CNTS, ... (PS3.3, C.8.9.1)
    }
    for what, keywords in wanted.items():
        first = [_plain(slices[0], k) for k in keywords]
        for item in slices[1:]:
            if [_plain(item, k) for k in keywords] != first:
                raise InputError(
                    f"the series mixes slices {what}: '{slices[0].name}' and '{item.name}'",
                    where=root,
                    todo="Put the slices of each volume into a folder of their own",
                )

    notes = _contrast_note(slices)
    ways = len({item.text("PatientName") for item in slices})
    if ways == 1:
        return notes
    differ = "which differ in empty parts or in capitals alone"
    return (*notes, f"the slices write the patient's name in {ways} ways, {differ}")


def _contrast_note(slices: tuple[Slice, ...]) -> tuple[str, ...]:
    """Return a note if slices of two echoes or phases, each at places of its own, may form one stack."""
    keys = [key for key in CONTRAST if _differs({item.text(key) for item in slices})]
    differ = list(dict.fromkeys(CONTRAST[key] for key in keys))
    if _alternates(slices, "ImageType"):  # elsewhere it often differs in the first slices alone
        differ.append("ImageType")
    if not differ:
        return ()
    return (f"the slices differ in {listed(differ)}: they may be of two volumes, one between the other",)


def _alternates(slices: Sequence[Slice], keyword: str) -> bool:
    """Return whether an attribute changes from each slice to the next, by their positions."""
    try:
        places = np.array([[float(v) for v in s.text("ImagePositionPatient").split("\\")] for s in slices])
    except ValueError:
        return False
    if places.shape != (len(slices), 3):
        return False
    order = places[:, np.ptp(places, axis=0).argmax()].argsort()
    texts = [slices[n].text(keyword) for n in order]
    return len(texts) > 1 and all(one != other for one, other in pairwise(texts))


def _differs(texts: set[str]) -> bool:
    if len(texts) == 1:
        return False
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return True
    return not max(values) - min(values) <= ROUNDED_PART * max(map(abs, values))


def _check_scaled(slices: tuple[Slice, ...], root: Path) -> None:
    """Refuse slices without a slope or an intercept among slices with one that changes the values.

    In a series without any, values are as stored (1 and 0); a single slice without has another scale.
    """
    for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        without = [item for item in slices if not item.text(keyword)]
        scaled = [item for item in slices if _rescales(item.text(keyword), default)]
        if without and scaled:
            raise InputError(
                f"{len(without)} of {len(slices)} slices have no {keyword}, '{without[0].name}' among them,"
                f" and '{scaled[0].name}' has one: what their values mean is not known",
                where=root,
                todo="Have the series exported again",
            )


def _rescales(text: str, default: float) -> bool:
    """Return whether a text is a number other than the default; invalid ones are refused with the pixels."""
    try:
        value = float(text or default)
    except ValueError:
        return False
    return isfinite(value) and value != default and (default == 0 or value != 0)


def _plain(item: Slice, keyword: str) -> str:
    """Return an attribute as text; names without empty parts, spaces and case (PS3.5, 6.2, PN)."""
    text = item.text(keyword)
    if keyword != "PatientName":
        return text
    groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^") for group in text.split("=")]
    return "=".join(groups).rstrip("=").casefold()


def _doubles(place: tuple[Slice, ...], pixels: Pixels, root: Path) -> tuple[Slice, ...]:
    """Return the slices at a place that are copies of its first slice; refuse any that differ."""
    for item in place[1:]:
        if not same_pixels(place[0], item, pixels):
            differ = [k for k in PHASES if item.text(k) != place[0].text(k)]
            by = f", which differ in {listed(differ)}" if differ else ""
            raise InputError(
                f"two different slices lie at the same position: '{place[0].name}' and '{item.name}'{by}",
                where=root,
                todo="Put each phase, echo or time point into a folder of its own",
            )
    return place[1:]
