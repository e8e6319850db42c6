"""Write phantoms to disk: one with its truth, or a whole training set."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.phantom.simulate import Phantom, simulate
from c3s3_seg.phantom.truth import check_truth, save_truth, truth_path
from c3s3_seg.system.choices import PhantomFormat, PhantomModality, TruthFormat
from c3s3_seg.system.files import check_folder, make_folder


def save(
    phantom: Phantom, folder: Path, *, seed: int, file_format: PhantomFormat, truth: TruthFormat = "nii.gz"
) -> tuple[Path, Path | None]:
    """Write a phantom below a folder; return the paths of the scan and of the truth.

    The scan is `phantom-<seed>/` (a DICOM series, of a patient and a study of its own) or
    `phantom-<seed>.nii.gz`; the truth is `truth/phantom-<seed>.nii.gz`, or a DICOM SEG or RTSTRUCT among
    the slices of the scan, or left out.

    Raises
    ------
    InputError
        If a file exists already, a format is unknown, only the truth is to be DICOM, or a CT is to be a
        DICOM series.
    """
    if file_format not in ("dicom", "nii.gz"):
        raise InputError(f"found the format {file_format!r}, wanted 'dicom' or 'nii.gz'")
    check_truth(truth, is_dicom=file_format == "dicom")
    if file_format == "dicom" and phantom.scan.source.modality == "CT":
        todo = "Take --format nii.gz"
        raise InputError("simulated series are MR; a CT can be written as NIfTI only", todo=todo)
    name = f"phantom-{seed}"
    scan, mask = _places(folder, name, file_format, truth)
    for path in (scan, mask):
        if path is not None:
            _refuse_existing(path)
    make_folder(folder)
    try:
        _write(phantom, scan, mask, seed, truth)
    except BaseException:  # the next try would be refused for the files that exist already
        _discard(scan)
        raise
    return scan, mask


def _write(phantom: Phantom, scan: Path, mask: Path | None, seed: int, truth: TruthFormat) -> None:
    from c3s3_seg.io import save as save_image

    if not scan.name.endswith(".nii.gz"):
        from c3s3_seg.io.dicom.write_series import save_series

        words, patient = f"Simulated heart, seed {seed}", f"PHANTOM-{seed}"
        save_series(phantom.scan, scan, description=words, seed_uid=scan.name, patient=patient)
    else:
        save_image(phantom.scan, scan)
    if mask is not None:
        save_truth(phantom.truth, mask, scan, truth)


def _discard(path: Path) -> None:
    """Remove a file or a folder that was created in this run."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def check_places(folder: Path, seeds: Iterable[int], file_format: PhantomFormat, truth: TruthFormat) -> None:
    """Check, before the first phantom is simulated, that all phantoms can be written.

    Raises
    ------
    InputError
        If the folder cannot be written to, or one of the files exists already.
    """
    check_folder(folder)
    for seed in seeds:
        for path in _places(folder, f"phantom-{seed}", file_format, truth):
            if path is not None:
                check_folder(path.parent)
                _refuse_existing(path)


def _places(
    folder: Path, name: str, file_format: PhantomFormat, truth: TruthFormat
) -> tuple[Path, Path | None]:
    """Return the paths of the scan and of its truth."""
    scan = folder / (name if file_format == "dicom" else f"{name}.nii.gz")
    return scan, truth_path(folder, name, truth)


def write_cohort(
    folder: Path,
    *,
    labelled: int,
    unlabelled: int,
    validation: int,
    seed: int,
    modality: PhantomModality = "MR",
) -> Path:
    """Write a training set of phantoms with seeds `seed`, `seed + 1`, ...; return its `dataset.json`.

    Scans go to `imagesTr`, the truth of labelled and validation cases to `labelsTr`; unlabelled
    cases have no truth on disk, so that no training can use it by mistake.

    Raises
    ------
    InputError
        If a number of cases is negative, all are 0, or the folder holds a data set already.
    """
    from c3s3_seg.dataset import INDEX

    counts = {"labelled": labelled, "unlabelled": unlabelled, "validation": validation}
    if min(counts.values()) < 0:
        raise InputError(f"found {counts}, wanted numbers of cases from 0 on")
    if not any(counts.values()):
        raise InputError("found 0 cases, wanted one or more", todo="Give LABELLED,UNLABELLED,VALIDATION")
    for name in (INDEX, "imagesTr", "labelsTr"):
        _refuse_existing(folder / name)
    check_folder(folder)
    for name in ("imagesTr", "labelsTr"):
        make_folder(folder / name)
    try:
        return _write_cohort(folder, counts, seed, modality)
    except BaseException:  # half a data set is useless, and the next try would be refused for it
        for name in ("imagesTr", "labelsTr"):
            _discard(folder / name)
        raise


def _write_cohort(folder: Path, counts: Mapping[str, int], seed: int, modality: PhantomModality) -> Path:
    from c3s3_seg.dataset import DataSet, Splits
    from c3s3_seg.io import save as save_image

    splits: dict[str, list[str]] = {split: [] for split in counts}
    for split, count in counts.items():
        for _ in range(count):
            name = f"phantom-{seed}"
            phantom = simulate(seed, modality=modality)
            save_image(phantom.scan, folder / "imagesTr" / f"{name}.nii.gz")
            if split != "unlabelled":
                save_image(phantom.truth, folder / "labelsTr" / f"{name}.nii.gz")
            splits[split].append(name)
            seed += 1
    known = Splits(**{split: tuple(names) for split, names in splits.items()})
    what = "late-enhancement MRI" if modality == "MR" else "contrast-enhanced CT"
    data = DataSet(folder, f"Left atrium, simulated {what}", modality, {"left_atrium": 1}, known)
    return data.save(source="c3s3_seg.phantom: simulated, nobody's data")


def parse_cohort(text: str) -> tuple[int, int, int]:
    """Parse `4,16,4` into the numbers of labelled, unlabelled and validation cases.

    Raises
    ------
    InputError
        If the text is not three whole numbers from 0 on.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise InputError(
            f"found the cohort {text!r}, wanted LABELLED,UNLABELLED,VALIDATION", todo="For example: 4,16,4"
        )
    labelled, unlabelled, validation = (int(part) for part in parts)
    return labelled, unlabelled, validation


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):  # a link that leads nowhere is a user's too
        raise InputError("is there already", where=path, todo="Choose another folder, or move it away")
