"""Which scans are in these folders, and which truth belongs to which of them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn

from c3s3_seg.errors import FileName, InputError, Told
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.io.image.files import IMAGE_SUFFIXES, image_stem, image_suffix

# What follows the name of the scan in that of its mask. 3D Slicer writes `x.seg.nrrd`, and `x-label.nrrd`.
MASK_ENDINGS = ("_gt", "_label", "_seg", "_mask", ".seg", "-label")
TRUTH_ENDINGS = ("", *MASK_ENDINGS)


@dataclass(frozen=True)
class Case:
    """One scan: a name that no other case of the run has, without suffix, and where it is."""

    name: str
    path: Path


def find_cases(paths: Sequence[str | Path]) -> list[Case]:
    """The scans at these paths.

    Parameters
    ----------
    paths
        Each an image file, a DICOM file, a zip file with DICOM files, a folder with DICOM files, or a
        folder of cases: image files, zip files and sub-folders that each hold a DICOM series. Hidden
        files are passed over, and a scan that is given twice is taken once.

    Returns
    -------
    list of Case
        In the order of `paths`, and by name within a folder. Names differ in more than upper and
        lower case, so that their outputs can lie in one folder on any file system.

    Raises
    ------
    InputError
        If a path is missing or holds no scan, or a folder mixes DICOM slices and image files.
    """
    real = _Real()
    found: dict[str, Path] = {}
    for given in paths:
        for path in _scans(Path(given)):
            found.setdefault(real.path(path), path)
    scans = list(found.values())
    names = unique_names([(os.path.basename(real.path(path.parent)), _stem(path)) for path in scans])
    return [Case(name, path) for name, path in zip(names, scans, strict=True)]


def match_truth(cases: Sequence[Case], truth: str | Path) -> dict[str, Path]:
    """Which truth belongs to which case.

    Parameters
    ----------
    cases
        What `find_cases` found.
    truth
        An image file, for a single case; or a folder of image files that are named like the cases,
        or like them with `_gt`, `_label`, `_seg`, `_mask`, `.seg` or `-label` at the end.

    Returns
    -------
    dict
        Case name -> file. Cases without a truth are not in it.

    Raises
    ------
    InputError
        If `truth` is missing, no case has a truth, one has several, or one file is given for several cases.
    """
    truth = Path(truth)
    if truth.is_file():
        if len(cases) != 1:
            raise InputError(
                f"one truth file was given for {len(cases)} cases",
                where=truth,
                todo="Give a folder of truths",
            )
        return {cases[0].name: truth}
    by_stem: dict[str, list[Path]] = {}
    real = _Real()
    for path in _visible(truth):
        if image_suffix(path) and path.is_file():
            by_stem.setdefault(image_stem(path), []).append(path)
    stems = Counter(_stem(case.path) for case in cases)
    pairs = {}
    for case in cases:
        # A case that was renamed, because another one had its name, must not take the other one's truth.
        names = {case.name} | ({_stem(case.path)} if stems[_stem(case.path)] == 1 else set())
        # Where a mask is itself the case, its own name is as good: x.seg.nrrd is measured by x_gt.nii.gz.
        names |= {shorter for name in names if (shorter := scan_stem(name)) not in stems}
        own = real.path(case.path)
        hits = [p for n in sorted(names) for e in TRUTH_ENDINGS for p in by_stem.get(n + e, ())]
        hits = [p for p in dict.fromkeys(hits) if real.path(p) != own]
        if len(hits) > 1:
            several = ", ".join(p.name for p in hits)
            raise InputError(f"case '{case.name}' has several truths: {several}; wanted one", where=truth)
        if hits:
            pairs[case.name] = hits[0]
    if not pairs:
        endings = ", ".join(f"<case>{e}" for e in TRUTH_ENDINGS)
        raise InputError(
            f"found no truth for any of {len(cases)} cases; looked for files named {endings}"
            f" with {', '.join(IMAGE_SUFFIXES)}",
            where=truth,
        )
    return pairs


def scan_stem(name: str) -> str:
    """The name of the scan that a mask is of: `x` for `x.seg`, as 3D Slicer has it; without suffixes."""
    return name.removesuffix(".seg") or name


def mask_files(folder: Path, case: str) -> list[Path]:
    """The image files in a folder that may be the mask of a case: named like it, or `<case>.seg`."""
    names = (f"{case}{middle}{suffix}" for middle in ("", ".seg") for suffix in IMAGE_SUFFIXES)
    # Unlike Path.is_file, it does not raise for a name that is too long.
    return [path for name in names if os.path.isfile(path := folder / name)]


def _scans(path: Path) -> list[Path]:
    if path.is_file():
        if image_suffix(path) is None and not is_dicom(path) and not is_zip(path):
            raise InputError(f"this is not a scan; wanted {', '.join(IMAGE_SUFFIXES)} or DICOM", where=path)
        return [path]
    if path.exists() and not path.is_dir():
        raise InputError("this is a pipe or a device; wanted an image file or a folder", where=path)
    entries = _visible(path)
    images = [p for p in entries if image_suffix(p) and not p.is_dir()]
    there = set(images)
    if any(is_dicom(p) for p in entries if p not in there):
        if images:
            raise InputError(
                f"the folder holds DICOM slices and image files ({FileName(images[0].name, 'one or more')}):"
                " which is the scan",
                where=path,
                todo="Name the image files one by one, or put the slices into a folder of their own",
            )
        return [path]
    scans = [p for p in entries if p in there or is_zip(p) or (p.is_dir() and _holds_dicom(p))]
    if not scans:
        _refuse_empty(path, [p for p in entries if p.is_dir()])
    return scans


def _refuse_empty(folder: Path, below: Sequence[Path]) -> NoReturn:
    """Say what was looked for, and whether it lies one level below."""
    found = [place for place in below if any(image_suffix(p) and not p.is_dir() for p in _visible(place))]
    if found:
        what = f"found no scan here, but image files one level below, in {len(found)} of its sub-folders"
        raise InputError(what, where=folder, todo=f"Give the sub-folders themselves ({folder}/*/)")
    what = (
        f"found no scan here; looked for {', '.join(IMAGE_SUFFIXES)} files, DICOM slices and sub-folders with"
        " DICOM slices"
    )
    raise InputError(what, where=folder)


def _visible(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            links = {entry.name for entry in entries if entry.is_symlink()}
    except OSError as error:
        raise InputError(f"the folder cannot be read: {error.strerror or error}", where=folder) from error
    paths = (folder / entry.name for entry in entries if not entry.name.startswith("."))
    return [path for path in paths if path.name not in links or not _leads_up(path)]


def _leads_up(path: Path) -> bool:
    """Whether a link leads to a folder that it lies in itself, or in the end to itself: a loop."""
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        return False  # a scan that is not there is a case that fails, not one that is forgotten
    except (OSError, RuntimeError):
        return True
    return target in path.parent.resolve().parents or target == path.parent.resolve()


def walk_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted, without hidden ones and pipes; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        # os.walk would pass over a folder that it may not read, and the slices in it with it.
        place = Told.of(
            str(error.filename), str(folder)
        )  # of a folder in it, too, the name may be a patient's
        raise InputError(f"the folder cannot be read: {error.strerror}", where=place) from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(root) / name for name in sorted(files) if not name.startswith("."))
        # To open a pipe is to wait for ever. A link that leads nowhere stays: a slice may be missed there.
        yield from (path for path in paths if path.is_file() or not path.exists())


def _holds_dicom(folder: Path) -> bool:
    return any(is_dicom(path) for path in walk_files(folder))


class _Real:
    """Where paths lead in the end; each folder is looked up once. A link to a scan is the same scan."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def path(self, path: Path) -> str:
        """The real path; of a loop of links, where it began."""
        if path.name in ("", "..") or os.path.islink(path):
            return os.path.realpath(path)  # which, unlike `resolve`, never raises
        folder = os.path.dirname(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], path.name)


def _stem(path: Path) -> str:
    name = image_stem(path) if image_suffix(path) else path.name
    if image_suffix(path) is None and path.is_file():
        name = path.stem or path.name
    return name if name not in ("", "..") else os.path.basename(os.path.realpath(path))


def _fold(name: str) -> str:
    """What a file system that knows neither case nor Unicode forms would take the name for."""
    return unicodedata.normalize("NFC", name).casefold()


def unique_names(wanted: Sequence[tuple[str, str]], taken: Iterable[str] = ()) -> list[str]:
    """A name for each scan: its stem; where two are alike, with the folder in front, and a counter if needed.

    Parameters
    ----------
    wanted
        Folder and stem of each.
    taken
        Names that others have already.

    Returns
    -------
    list of str
        They differ in more than upper and lower case.
    """
    used = {_fold(name) for name in taken}
    alike = Counter(_fold(stem) for _, stem in wanted)
    full = [
        stem if alike[_fold(stem)] == 1 and _fold(stem) not in used else f"{folder}_{stem}"
        for folder, stem in wanted
    ]
    # Names that need no counter keep theirs, whatever the order: they are taken before any counter.
    counts = Counter(_fold(name) for name in full)
    free = {name for name, times in counts.items() if times == 1 and name not in used}
    used |= free
    names = []
    following: dict[str, Iterator[int]] = {}  # each counter goes on where it was: 10,000 scans may be alike
    for name in full:
        if _fold(name) not in free:
            numbers = following.setdefault(_fold(name), count(1))
            numbered = (f"{name}_{n}" for n in numbers)
            name = next(candidate for candidate in numbered if _fold(candidate) not in used)
            used.add(_fold(name))
        names.append(name)
    return names
