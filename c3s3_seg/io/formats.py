"""The formats that a mask can be written in, by their names on the command line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.geometry.orthonormalize import REPAIRED
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io.detect import is_dicom
from c3s3_seg.io.dicom_objects.codes import Maker, Segment
from c3s3_seg.io.image.files import image_suffix
from c3s3_seg.io.image.save import SAVE_SUFFIXES, check_grid, save
from c3s3_seg.system.choices import MaskFormat
from c3s3_seg.system.files import make_own_folder
from c3s3_seg.system.ownership import PROGRAM

Segments = tuple[Segment, ...]
Ready = Callable[[Path], None] | None
REPAIRED_FOLDER = "repaired"  # sub-folder of an output folder


def _write_image(mask: Volume, path: Path, segments: Segments, maker: Maker | None, ready: Ready) -> None:
    save(mask, path, note=PROGRAM, ready=ready)


def _write_seg(mask: Volume, path: Path, segments: Segments, maker: Maker | None, ready: Ready) -> None:
    from c3s3_seg.io.dicom_objects.seg_write import write_seg

    write_seg(mask, path, segments, maker, ready=ready)


def _write_labelmap(mask: Volume, path: Path, segments: Segments, maker: Maker | None, ready: Ready) -> None:
    from c3s3_seg.io.dicom_objects.seg_write import write_seg

    write_seg(mask, path, segments, maker, labelmap=True, ready=ready)


def _write_rtstruct(mask: Volume, path: Path, segments: Segments, maker: Maker | None, ready: Ready) -> None:
    from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct

    write_rtstruct(mask, path, segments, maker, ready=ready)


@dataclass(frozen=True)
class MaskWriter:
    """A file format of masks.

    Parameters
    ----------
    ending
        Ending of the file name after the name of the case.
    write
        Function that writes a mask: (mask, path, segments, maker, ready), see `write_mask`.
    refers_to_source
        Whether the file refers to the DICOM slices of the scan. Such a format holds no probabilities.
    """

    ending: str
    write: Callable[[Volume, Path, Segments, Maker | None, Ready], None]
    refers_to_source: bool = False


# A further format needs a function that writes it, a row here, and its name in `MaskFormat`.
WRITERS: dict[MaskFormat, MaskWriter] = {
    "nii.gz": MaskWriter("nii.gz", _write_image),
    "nrrd": MaskWriter("nrrd", _write_image),
    "mha": MaskWriter("mha", _write_image),
    "dicom-seg": MaskWriter("seg.dcm", _write_seg, refers_to_source=True),
    "dicom-labelmap": MaskWriter("seg.dcm", _write_labelmap, refers_to_source=True),
    "rtstruct": MaskWriter("rtstruct.dcm", _write_rtstruct, refers_to_source=True),
}


def mask_path(folder: Path, case: str, wanted: MaskFormat) -> Path:
    """Return the path of the mask of a case."""
    return folder / f"{case}.{WRITERS[wanted].ending}"


def image_suffix_of(wanted: MaskFormat) -> str:
    """Return the suffix of probabilities and maps, of which not every format of masks is one of images."""
    ending = WRITERS[wanted].ending
    return ending if f".{ending}" in SAVE_SUFFIXES else "nii.gz"


def refers_to_source(wanted: MaskFormat, *, secondary_capture: bool = False) -> bool:
    """Return whether the output refers to the slices of the scan, so that their headers are read again."""
    return WRITERS[wanted].refers_to_source or secondary_capture


def check_format(scan: Volume, wanted: MaskFormat, *, secondary_capture: bool = False) -> None:
    """Refuse, before anything is computed, a format that could not be written afterwards.

    Raises
    ------
    InputError
        If a DICOM object is requested and the scan is no DICOM series, or its slices have no UIDs; if it is
        a DICOM SEG, and the slices lie in several enhanced files.
    GeometryError
        If an image file of this format cannot hold the grid of the scan: see `image.save.check_grid`.
    """
    if not WRITERS[wanted].refers_to_source or _is_repaired(scan):  # which is written as an image too
        check_grid(scan.geometry, f".{image_suffix_of(wanted)}", scan.source.path)
    if refers_to_source(wanted, secondary_capture=secondary_capture):
        from c3s3_seg.io.dicom_objects.references import origin
        from c3s3_seg.io.dicom_objects.seg_source import refuse_several_files

        with origin(scan.source) as source:
            if wanted in ("dicom-seg", "dicom-labelmap"):
                refuse_several_files(source)


def write_mask(
    mask: Volume,
    path: Path,
    wanted: MaskFormat,
    segments: Segments,
    maker: Maker | None = None,
    ready: Ready = None,
) -> None:
    """Write a mask in one of the formats; `ready` is called with the complete file before it has its name.

    Raises
    ------
    InputError
        For the reasons of `save`, `write_seg` and `write_rtstruct`.
    """
    WRITERS[wanted].write(mask, path, segments, maker, ready)


def repaired_path(out: Path, case: str, wanted: MaskFormat) -> Path:
    """Return the path of the repaired scan of a case, whose mask has this format."""
    return out / REPAIRED_FOLDER / f"{case}.{image_suffix_of(wanted)}"


def _is_repaired(scan: Volume) -> bool:
    return any(note.startswith(REPAIRED) for note in scan.source.notes)


def save_repaired(scan: Volume, out: Path, case: str, wanted: MaskFormat) -> Path | None:
    """Write a repaired scan, whose grid its mask has, and return the path; None if it was not repaired.

    Raises
    ------
    InputError
        If the scan cannot be written.
    """
    if not _is_repaired(scan):
        return None
    path = repaired_path(out, case, wanted)
    make_own_folder(path.parent)
    save(scan, path, note=PROGRAM)
    return path


def is_own_result(path: Path) -> bool:
    """Return whether the header of a mask, map or picture states that this program wrote the file."""
    try:
        if image_suffix(path) in SAVE_SUFFIXES:
            return f"{PROGRAM}".encode() in _header(path)
        if path.suffix.lower() == ".dcm" and is_dicom(path):
            from c3s3_seg.io.deflated import header_of

            return bool(header_of(path).get("Manufacturer") == PROGRAM)
    except Exception:  # a damaged file states nothing
        return False
    return False


def _header(path: Path) -> bytes:
    """Return the free text of a header: 80 bytes at 148 in NIfTI-1 (NIfTI-2: at 240), else note lines."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(4096)
    if image_suffix(path) not in (".nii", ".nii.gz"):
        return b"".join(line for line in head.split(b"\n") if line.startswith(b"ITK_FileNotes"))
    return head[148:228] if head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else head[240:320]
