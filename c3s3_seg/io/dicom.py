"""A DICOM series -> `Volume`: headers, our own grouping and checks, then pixels.

SimpleITK's series reader is not used: it loses the shear of a tilted gantry, drops a truncated first
or last file, wraps the values of later slices into the type of the first, inverts MONOCHROME1, and
takes one series out of several, all without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from c3s3_seg.errors import InputError
from c3s3_seg.io.dicom_grid import stack
from c3s3_seg.io.dicom_series import FRAME_CLASSES, Series, Slice, choose, listed, look_through
from c3s3_seg.volume import Array, Geometry, Source, Volume

# What may tell apart two slices at one place, for the message. Never dates.
PHASES = (
    "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "TriggerTime",
    "AcquisitionNumber", "ImageType",
)  # fmt: skip


def load_series(path: str | Path, *, series: int | str | None = None) -> Volume:
    """Read a DICOM series of CT, MR or PET slices.

    Parameters
    ----------
    path
        A folder, which is searched with its sub-folders, or one file of the series.
    series
        Which series of the folder: its number in the list of the refusal (from 1), or its UID.

    Returns
    -------
    Volume
        float32 (i, j, k) = (column, row, slice), rescaled with the slope and intercept of each slice,
        slices in the order of their positions along the normal; its grid in mm, LPS.

    Raises
    ------
    InputError
        If several series could be meant; a slice is missing, damaged or there twice with different
        pixels; patients, frames of reference or sizes are mixed; a file has several frames; or its
        compression cannot be decoded.
    GeometryError
        If the slices are unevenly spaced, or the gantry was tilted.
    """
    path = Path(path)
    if path.is_file():
        if series is not None:
            raise InputError("a DICOM file is of one series", where=path, todo="Leave series out")
        root = path.parent
        chosen, notes = _series_of(path)
    else:
        root = path
        chosen, notes = choose(look_through(root), series)
    return _build(chosen, notes, path, root)


def _series_of(path: Path) -> tuple[Series, tuple[str, ...]]:
    """The series of one file: all files of its folder that are of it."""
    root = path.parent
    # The file on its own comes first, so that a broken one is named, whatever lies beside it.
    choose_from = look_through(root, [path])
    if not choose_from.series:
        choose(choose_from, None)
    uid = choose_from.series[0].uid
    found = look_through(
        root, [p for p in sorted(root.iterdir()) if p.is_file() and not p.name.startswith(".")]
    )
    number = next(n for n, s in enumerate(found.series, 1) if s.uid == uid)
    return choose(found, number)


def _build(series: Series, notes: tuple[str, ...], path: Path, root: Path) -> Volume:
    slices = series.slices
    _check_kind(slices, root)
    _check_one(slices, root)
    placed = stack(slices, root)
    keep = [place[0] for place in placed.places]
    dropped = [extra for place in placed.places for extra in _doubles(place, root)]
    array = _decode_all(keep, root)
    if dropped:
        notes = (*notes, f"dropped, the same slice twice: {listed(s.name for s in dropped)}")
    if any(s.text("PhotometricInterpretation") == "MONOCHROME1" for s in keep):
        notes = (*notes, "MONOCHROME1: low values are shown bright; the values are as stored, not inverted")
    first = keep[0]
    geometry = Geometry(array.shape, placed.affine, first.text("FrameOfReferenceUID") or None)
    source = Source(path, first.text("Modality") or None, series.uid or None, (*notes, *placed.notes))
    return Volume(array, geometry, source)


def _check_kind(slices: tuple[Slice, ...], root: Path) -> None:
    for item in slices:
        enhanced = item.text("SOPClassUID") in FRAME_CLASSES
        if enhanced or item.number("NumberOfFrames", 1) > 1:
            raise InputError(
                f"'{item.name}' is an enhanced file of several frames, which is not read",
                where=root,
                todo="Export it as classic DICOM, or convert it to NIfTI, for instance with dcm2niix",
            )
        color = item.text("PhotometricInterpretation")
        if item.number("SamplesPerPixel", 1) != 1 or color not in ("MONOCHROME1", "MONOCHROME2"):
            raise InputError(f"'{item.name}' is not a grey image: found '{color}'", where=root)
        if "ModalityLUTSequence" in item.data:
            raise InputError(f"'{item.name}' has a lookup table in place of a slope", where=root)


def _check_one(slices: tuple[Slice, ...], root: Path) -> None:
    """One patient, one frame of reference, one size. The message names files, never what differs."""
    wanted = {
        "of two patients": ("PatientID", "PatientName"),
        "in two frames of reference": ("FrameOfReferenceUID",),
        "of two sizes": ("Rows", "Columns"),
        "of two modalities": ("Modality",),
    }
    for what, keywords in wanted.items():
        first = [slices[0].text(k) for k in keywords]
        for item in slices[1:]:
            if [item.text(k) for k in keywords] != first:
                raise InputError(
                    f"the series mixes slices {what}: '{slices[0].name}' and '{item.name}'",
                    where=root,
                    todo="Put the slices of each volume into a folder of their own",
                )


def _doubles(place: tuple[Slice, ...], root: Path) -> tuple[Slice, ...]:
    """The slices at a place that are copies of its first one."""
    if len(place) == 1:
        return ()
    first = _decode(place[0], root)
    for item in place[1:]:
        if not np.array_equal(_decode(item, root), first):
            differ = [k for k in PHASES if item.text(k) != place[0].text(k)]
            by = f", which differ in {listed(differ)}" if differ else ""
            raise InputError(
                f"two different slices lie at the same position: '{place[0].name}' and '{item.name}'{by}",
                where=root,
                todo="Put each phase, echo or time point into a folder of its own",
            )
    return place[1:]


def _decode_all(slices: list[Slice], root: Path) -> Array:
    first = _decode(slices[0], root)
    rows, columns = first.shape
    array = np.empty((len(slices), rows, columns), dtype=np.float32)
    array[0] = first
    for n, item in enumerate(slices[1:], 1):
        array[n] = _decode(item, root)
    return array.transpose(2, 1, 0)


def _decode(item: Slice, root: Path) -> Array:
    """The rescaled pixels (row, column) of one file, float32."""
    shape = item.number("Rows", 0), item.number("Columns", 0)
    try:
        data = _read(item.path)
        _check_decoder(data, item, root)
        _check_end(data, item.path)
        stored = _stored_bits(data.pixel_array, data)
        scale = _Scale.of(data)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom and its decoders raise whatever they trip over
        raise InputError(
            f"the file '{item.name}' is damaged: its pixels cannot be decoded ({type(error).__name__})",
            where=root,
            todo="Copy or export the series again",
        ) from error
    if stored.shape != shape:
        raise InputError(
            f"'{item.name}' holds {stored.shape} pixels where its header says {shape}", where=root
        )
    values = scale.apply(stored)
    if not np.isfinite(values).all():
        raise InputError(f"the file '{item.name}' has NaN or infinite pixel values", where=root)
    return values


def _read(path: Path) -> Any:
    data = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in data.file_meta:
        # A file without preamble has no meta information either; how it was parsed is what it is.
        implicit, _ = data.original_encoding
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return data


def _check_decoder(data: Any, item: Slice, root: Path) -> None:
    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies) if decoder else ""
        raise InputError(
            f"'{item.name}' is compressed as {syntax.name}, for which no decoder is installed",
            where=root,
            todo=f"Install one of its decoders ({needs})" if needs else "Export it uncompressed",
        )


def _check_end(data: Any, path: Path) -> None:
    """Compressed pixels have no length but a delimiter behind them (PS3.5, A.4): without it a file is cut."""
    pixels = data["PixelData"]
    if not pixels.is_undefined_length:
        return
    with path.open("rb") as file:
        file.seek(pixels.file_tell + len(pixels.value))
        if file.read(8) != b"\xfe\xff\xdd\xe0" + bytes(4):
            raise EOFError("no sequence delimiter after the pixels")


def _stored_bits(pixels: Array, data: Any) -> Array:
    """Without what lies in the bits above BitsStored, where old files keep overlays (PS3.5, 8.1.1)."""
    if pixels.dtype.kind == "f":
        return pixels
    spare = pixels.dtype.itemsize * 8 - int(data.BitsStored)
    if int(data.HighBit) != int(data.BitsStored) - 1 or spare < 0:
        raise ValueError("HighBit is not BitsStored - 1")
    # Shifting up and down again drops the spare bits, and extends the sign where there is one.
    return np.asarray((pixels << spare) >> spare) if spare else pixels


@dataclass(frozen=True)
class _Scale:
    slope: float
    intercept: float

    @classmethod
    def of(cls, data: Any) -> _Scale:
        slope = 1.0 if data.get("RescaleSlope") is None else float(data.RescaleSlope)
        intercept = 0.0 if data.get("RescaleIntercept") is None else float(data.RescaleIntercept)
        if slope == 0:
            raise ValueError("RescaleSlope is 0")
        return cls(slope, intercept)

    def apply(self, stored: Array) -> Array:
        # In float64 first: one rounding, at the end.
        return np.asarray(stored * np.float64(self.slope) + np.float64(self.intercept)).astype(np.float32)
