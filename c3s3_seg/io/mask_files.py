"""Find the masks to be evaluated, and the truth of each mask."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import TRUTH_ENDINGS, Case, is_passed_over, walk_files
from c3s3_seg.io.detect import DICOM_SUFFIXES, is_dicom, is_zip
from c3s3_seg.io.image.files import IMAGE_SUFFIXES, image_stem, image_suffix
from c3s3_seg.io.scan_like import ScanError, refuse_scan, refuse_scans

DRAWING_ENDINGS = (".seg.dcm", ".rtstruct.dcm", *DICOM_SUFFIXES)
MOST = 6  # names that a message lists
WANTED = f"{', '.join(IMAGE_SUFFIXES)}, a DICOM SEG or an RTSTRUCT"


@dataclass(frozen=True)
class MaskPairs:
    """Predictions and truths, paired by their names.

    Parameters
    ----------
    pairs
        Each prediction with the file of its truth, in the order of the predictions.
    alone
        Predictions without a truth, each with the reason.
    missed
        Truths without a prediction.
    """

    pairs: tuple[tuple[Case, Path], ...]
    alone: tuple[tuple[Case, str], ...]
    missed: tuple[Case, ...]


def find_masks(path: Path, partners: Collection[str] = ()) -> list[Case]:
    """Return the masks found at a path as cases, by file name, those in sub-folders last.

    Parameters
    ----------
    path
        An image file, a DICOM SEG or an RTSTRUCT; or a folder of these and of sub-folders, of which each is
        named after a case and holds its SEG or RTSTRUCT. Hidden files, and files that are none of these, are
        passed over; beside masks also sub-folders that hold several, are named like a file, or not as one of
        the partners.
    partners
        Names of the cases on the other side, with the endings that a name may have.

    Raises
    ------
    ScanError
        If there are DICOM images and no mask.
    InputError
        If `path` does not exist or holds no mask, or there are two masks for one case.
    """
    if not os.path.exists(path):
        raise InputError("there is no such file or folder", where=path)
    if not path.is_dir():
        return [Case(mask_stem(_mask(path)), path)]
    files = _visible(path)
    found = [Case(mask_stem(file), file) for file in files if _is_mask(file)]
    folders = [file for file in files if os.path.isdir(file)]
    if found:
        found += _beside(found, [folder for folder in folders if folder.name in partners])
    else:
        found = [case for folder in folders for case in _in_folder(folder)]
    if not found:
        _refuse_folder(path)
    return _without_doubles(found, path)


def pair_masks(predictions: Path, truth: Path) -> MaskPairs:
    """Find the truth of each prediction: named like it, or with an ending added.

    The endings are `_gt`, `_label`, `_seg`, `_mask` and `-label`. Two single files always are a pair.

    Raises
    ------
    InputError
        If nothing pairs, a prediction has several truths, both are the same file, or `find_masks` raises.
    """
    cases = find_masks(predictions, {n.removesuffix(e) for n in _names_in(truth) for e in TRUTH_ENDINGS})
    truths = find_masks(truth, {n + e for n in _names_in(predictions) for e in TRUTH_ENDINGS})
    if not truth.is_dir():
        return _with_one(cases, truth)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for case in truths:
        by_name[case.name].append(case.path)
    hits = {case.name: _hits(case, by_name, truth) for case in cases}
    used = {_real(path) for path in hits.values() if path is not None}
    pairs = [(case, path) for case in cases if (path := hits[case.name]) is not None]
    # Predictions and truths may lie in one folder, as case and case_gt.
    taken = used | {_real(case.path) for case, _ in pairs}
    alone = [(case, _why_alone(case, by_name, truth)) for case in cases if _real(case.path) not in taken]
    if not pairs:
        _refuse_all(cases, truths, predictions, truth)
    known = taken | {_real(case.path) for case, _ in alone}
    return MaskPairs(tuple(pairs), tuple(alone), tuple(c for c in truths if _real(c.path) not in known))


def _with_one(cases: Sequence[Case], truth: Path) -> MaskPairs:
    if len(cases) != 1:
        raise InputError(
            f"one truth file was given for {len(cases)} cases", where=truth, todo="Give a folder of truths"
        )
    if _real(cases[0].path) == _real(truth):
        todo = "Give the prediction first and its truth second"
        raise InputError("the prediction and the truth are the same file", where=truth, todo=todo)
    return MaskPairs(((cases[0], truth),), (), ())


def _hits(case: Case, by_name: dict[str, list[Path]], truth: Path) -> Path | None:
    own = _real(case.path)
    hits = _no_scans([p for e in TRUTH_ENDINGS for p in by_name.get(case.name + e, ()) if _real(p) != own])
    if len(hits) > 1:
        several = ", ".join(p.name for p in hits)
        todo = "Leave one of them in the folder, or give the file itself"
        raise InputError(
            f"case '{case.name}' has several truths: {several}; wanted one", where=truth, todo=todo
        )
    return hits[0] if hits else None


def _why_alone(case: Case, by_name: dict[str, list[Path]], truth: Path) -> str:
    if any(_real(path) == _real(case.path) for path in by_name.get(case.name, ())):
        return f"the file of this name in {truth} is the prediction itself"
    return f"no truth for this prediction in {truth}"


def _refuse_all(cases: Sequence[Case], truths: Sequence[Case], predictions: Path, truth: Path) -> None:
    if {_real(case.path) for case in cases} & {_real(case.path) for case in truths}:
        same = predictions.is_dir() and _real(predictions) == _real(truth)
        what = "the same folder" if same else "the same files"
        raise InputError(
            f"found no truth for any of {len(cases)} predictions: predictions and truth are {what}",
            where=truth,
            todo="Give the folder of the predictions first and that of their truths second",
        )
    for side in (truths, cases):  # scans often have other names: this reason is more helpful
        refuse_scans([case.path for case in side])
    endings = ", ".join(f"CASE{e}" for e in TRUTH_ENDINGS)
    raise InputError(
        f"found no truth for any of {len(cases)} predictions in {predictions} ({_some(cases)}) among"
        f" the masks {_some(truths)}",
        where=truth,
        todo=f"Name the truth of CASE {endings}; the file formats may differ",
    )


def _some(cases: Sequence[Case]) -> str:
    more = f" and {len(cases) - MOST} more" if len(cases) > MOST else ""
    return ", ".join(case.name for case in cases[:MOST]) + more


def _without_doubles(found: Sequence[Case], folder: Path) -> list[Case]:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for case in found:
        by_name[case.name].append(case.path)
    kept = {name: _no_scans(paths) for name, paths in by_name.items()}
    for name, paths in kept.items():
        if len(paths) > 1:
            listing = ", ".join(os.path.relpath(path, folder) for path in paths)
            raise InputError(
                f"found {len(paths)} masks for the case '{name}': {listing}; wanted one",
                where=folder,
                todo="Leave one of them in the folder, or give the file itself",
            )
    return [Case(name, paths[0]) for name, paths in kept.items()]


def _no_scans(paths: list[Path]) -> list[Path]:
    """Return the files of one name without scans, unless all are scans: a scan may lie beside its mask."""
    if len(paths) < 2:
        return paths
    kept = []
    for path in paths:
        try:
            refuse_scan(path)
            kept.append(path)
        except ScanError:
            continue
    return kept or paths


def _refuse_folder(folder: Path) -> None:
    """Raise an error that states what the folder holds in place of masks."""
    for path in walk_files(folder):
        if is_dicom(path) or (is_zip(path) and path.parent == folder):
            try:
                refuse_scan(path)
            except ScanError as error:  # the files of a series may be named after the patient
                raise ScanError(error.what, where=folder, todo=error.todo) from None
    raise InputError(f"found no mask here; looked for {WANTED}", where=folder)


def _mask(path: Path) -> Path:
    if not _is_mask(path):
        refuse_scan(path)
        raise InputError(f"this is not a mask; wanted {WANTED}, or a folder of these", where=path)
    return path


def _is_mask(path: Path) -> bool:
    if image_suffix(path):
        return not os.path.isdir(path)
    if not is_dicom(path):
        return False
    # Imported here because it imports pydicom, which takes as long as a case.
    from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing

    try:
        return look_at_drawing(path) is not None
    except InputError:  # a damaged mask: its case fails when it is read
        return True


def _in_folder(folder: Path) -> Iterator[Case]:
    """Yield the DICOM masks in the folder of a case; each has the folder's name."""
    drawn = [path for path in walk_files(folder) if not image_suffix(path) and _is_mask(path)]
    for path in drawn:
        yield Case(folder.name, path)


def _beside(found: Sequence[Case], folders: Sequence[Path]) -> Iterator[Case]:
    """Yield the cases in sub-folders beside masks, where other folders may lie, as an archive of masks."""
    names = {case.name for case in found}
    for folder in folders:
        with suppress(InputError):  # it cannot be read, and need not be a case
            cases = [] if folder.name in names else list(_in_folder(folder))
            yield from cases if len(cases) == 1 else ()


def _names_in(path: Path) -> set[str]:
    """Return the names of the files and sub-folders of a folder as those of cases; empty for a file."""
    entries = _visible(path) if path.is_dir() else []
    return {entry.name if os.path.isdir(entry) else mask_stem(entry) for entry in entries}


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted((p for p in folder.iterdir() if not is_passed_over(p)), key=lambda p: p.name)
    except OSError as error:
        raise InputError(f"the folder cannot be read: {error.strerror or error}", where=folder) from error


def mask_stem(path: Path) -> str:
    """Return the case that a mask is named after: `x` for x.nii.gz, x.seg.nrrd (3D Slicer), x.seg.dcm."""
    if image_suffix(path):
        return image_stem(path).removesuffix(".seg") or path.name
    name = path.name
    ending = next((e for e in DRAWING_ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)] or name


def _real(path: Path) -> str:
    # A link to a file is the same file; realpath, unlike resolve, never raises on a loop.
    return os.path.realpath(path)
