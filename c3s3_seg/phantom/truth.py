"""Write the truth of a simulated scan: as an image file, or as DICOM among the slices of its series."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.system.choices import TruthFormat
from c3s3_seg.system.files import make_own_folder


def check_truth(truth: str, *, is_dicom: bool) -> None:
    """Refuse an unknown format, and a DICOM object that would refer to a scan that is not DICOM.

    Raises
    ------
    InputError
        If the format is refused.
    """
    if truth not in get_args(TruthFormat):
        raise InputError(f"found the truth {truth!r}, wanted one of {', '.join(get_args(TruthFormat))}")
    if truth in ("dicom-seg", "rtstruct") and not is_dicom:
        what = f"a truth as {truth} refers to the slices of a DICOM series, and the scan is none"
        raise InputError(what, todo="Give --format dicom, or --truth nii.gz")


def truth_path(folder: Path, name: str, truth: TruthFormat) -> Path | None:
    """Return the truth's path: `truth/NAME.nii.gz`, or in the folder of its series; None if not saved."""
    from c3s3_seg.io.formats import mask_path

    if truth == "none":
        return None
    return mask_path(folder / ("truth" if truth == "nii.gz" else name), name, truth)


def save_truth(truth: Volume, path: Path, series: Path, wanted: TruthFormat) -> None:
    """Write the truth.

    Parameters
    ----------
    truth
        Mask (i, j, k) uint8, 1 inside.
    path
        File to write; its folder is made if needed.
    series
        Folder of the scan's slices, to which a DICOM object refers.
    wanted
        Format; `none` writes nothing.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    from c3s3_seg.io import load
    from c3s3_seg.io.dicom_objects.codes import Segment
    from c3s3_seg.io.formats import write_mask

    if wanted == "none":
        return
    make_own_folder(path.parent)
    if wanted != "nii.gz":  # a DICOM object refers to the slices as read
        scan = load(series)
        truth = scan.geometry.volume(truth.array, scan.source)
    write_mask(truth, path, wanted, (Segment("left_atrium", 1, ("82471001", "SCT", "Left atrium")),))
