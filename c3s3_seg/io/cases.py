"""Cases, the files in their folders, their unique names, and the truth that belongs to each case."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from c3s3_seg.errors import InputError, Told
from c3s3_seg.io.detect import DICOM_SUFFIXES
from c3s3_seg.io.image.files import IMAGE_SUFFIXES, image_stem, image_suffix
from c3s3_seg.system.names import folded

# Endings that follow the scan's name in the mask's name. 3D Slicer writes `x.seg.nrrd` and `x-label.nrrd`.
MASK_ENDINGS = ("_gt", "_label", "_seg", "_mask", ".seg", "-label")
TRUTH_ENDINGS = ("", *MASK_ENDINGS)
CHANNEL = "_0000"  # ending that nnU-Net gives the names of scans, and not those of masks
# Depth of nested folders. The search recurses into each folder, and Python limits recursion to 1000.
MOST_DEPTH = 100
LOST_AND_FOUND = "lost+found"


class NoScanError(InputError):
    """The error for a given path that holds nothing to segment; among several paths it is passed over."""


class UnreadableError(InputError):
    """The error for a folder that does not exist or cannot be read."""


@dataclass(frozen=True)
class Case:
    """One scan: a name, without suffix, that is unique within the run, and the location of the scan.

    Parameters
    ----------
    name, path
        Name of the case, and its image file, archive, or the folder or one file of a DICOM study.
    series
        `Series.key` of the series in a DICOM study; "" if the path alone identifies the scan.
    files
        All files of that series, relative to `root`: these are read and hashed. Empty for an image
        file or an archive.
    study
        Identifier that all series of one DICOM study share; "" if no series is given.
    """

    name: str
    path: Path
    series: str = ""
    files: tuple[str, ...] = ()
    study: str = ""

    @property
    def root(self) -> Path:
        """The folder that contains the files, directly or in sub-folders."""
        return self.path.parent if os.path.isfile(self.path) else self.path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the files of the series; empty if the files are unknown."""
        root = self.root
        return tuple(root / file for file in self.files)


@dataclass(frozen=True)
class Skipped:
    """An input that is not a case. For a DICOM study it names no file and no description.

    Parameters
    ----------
    place
        The path, or the folder of the study.
    reason
        Reason why the input was passed over.
    series
        Number of the series in `inspect`; 0 if the input is not a series.
    files
        Number of files in this folder that the reason holds for; 0 if the input is one file, folder or
        series.
    """

    place: str
    reason: str
    series: int = 0
    files: int = 0

    @property
    def inputs(self) -> int:
        """The number of inputs that were passed over, at least 1."""
        return max(1, self.files)

    def __str__(self) -> str:
        which, count = f", series {self.series}" * bool(self.series), f" ({self.files})" * bool(self.files)
        return f"{self.place}{which}: {self.reason}{count}"


def match_truth(cases: Sequence[Case], truth: str | Path) -> dict[str, Path]:
    """Find the truth of each case.

    Parameters
    ----------
    cases
        Cases that `find_cases` returned.
    truth
        A mask file, for a single case; or a folder of image files, or else of DICOM SEG and RTSTRUCT files
        (`.dcm` and the like), that are named like the cases, or like them with `_gt`, `_label`, `_seg`,
        `_mask`, `.seg` or `-label` at the end.

    Returns
    -------
    dict
        Case name -> file. Cases without a truth are left out.

    Raises
    ------
    InputError
        If `truth` is missing, no case has a truth, one has several, or one file is given for several cases.
    """
    truth = Path(truth)
    if os.path.isfile(truth):
        if len(cases) != 1:
            one_study = len({case.path for case in cases}) == 1
            raise InputError(
                f"one truth file was given for {len(cases)} cases",
                where=truth,
                todo="Choose one series with --series" if one_study else "Give a folder of truths",
            )
        return {cases[0].name: truth}
    by_stem: dict[str, list[Path]] = {}
    drawn: dict[str, list[Path]] = {}
    real = RealPaths()
    for path in visible(truth):
        if image_suffix(path) and may_be_file(path):
            by_stem.setdefault(image_stem(path), []).append(path)
        elif path.suffix.lower() in DICOM_SUFFIXES and may_be_file(path):
            drawn.setdefault(path.stem, []).append(path)
    stems = Counter(stem_of(case.path) for case in cases)
    pairs = {}
    for case in cases:
        # A case that was renamed, because another one had its name, must not take the other one's truth.
        names = {case.name} | ({stem_of(case.path)} if stems[stem_of(case.path)] == 1 else set())
        # If the case is itself a mask, its scan's name counts, too: x_gt.nii.gz is the truth of x.seg.nrrd.
        names |= {shorter for name in names if (shorter := scan_stem(name)) not in stems}
        own = real.path(case.path)
        wanted = [name + ending for name in sorted(names) for ending in TRUTH_ENDINGS]
        hits = [path for name in wanted for path in by_stem.get(name, ())]
        hits = hits or [path for name in wanted for path in drawn.get(name, ())]
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
            f" with {', '.join((*IMAGE_SUFFIXES, *DICOM_SUFFIXES))}",
            where=truth,
        )
    return pairs


def scan_stem(name: str) -> str:
    """Return the name of a mask's scan: `x` for `x.seg`, as 3D Slicer names masks; without suffixes."""
    return name.removesuffix(".seg") or name


def mask_files(folder: Path, case: str) -> list[Path]:
    """Return the image files in a folder that may be the mask of a case: named `<case>` or `<case>.seg`."""
    names = (f"{case}{middle}{suffix}" for middle in ("", ".seg") for suffix in IMAGE_SUFFIXES)
    # Unlike Path.is_file, os.path.isfile does not raise for a name that is too long.
    return [path for name in names if os.path.isfile(path := folder / name)]


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted by name, without links that lead upwards: see `is_passed_over`.

    Raises
    ------
    UnreadableError
        If the folder does not exist or cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            links = {entry.name for entry in entries if entry.is_symlink()}
    except FileNotFoundError:
        raise UnreadableError("there is no such file or folder", where=folder) from None
    except OSError as error:
        what = f"the folder cannot be read: {error.strerror or error}"
        raise UnreadableError(what, where=folder) from error
    paths = [path for entry in entries if not is_passed_over(path := folder / entry.name)]
    return [path for path in paths if path.name not in links or not _leads_up(path)]


def is_passed_over(path: Path) -> bool:
    """Return whether a path in a folder is hidden, or the folder that a file system keeps for root alone.

    The top of each ext file system has a `lost+found`. The volume of a container has it among the scans.
    """
    if path.name == LOST_AND_FOUND and os.path.isdir(path):
        return not os.access(path, os.R_OK | os.X_OK)
    return path.name.startswith(".")


def _leads_up(path: Path) -> bool:
    """Return whether a link leads to a folder that contains the link, or back to itself (a loop)."""
    try:
        target = path.resolve(strict=True)
    except RuntimeError:  # a loop, up to Python 3.12
        return True
    except OSError as error:
        return error.errno == errno.ELOOP  # a scan that is out of reach must fail as a case, not be dropped
    return target in path.parent.resolve().parents or target == path.parent.resolve()


def may_be_file(path: Path) -> bool:
    """Return whether a path is a file, or a link that cannot be followed; not a folder, pipe or device."""
    # Unlike the methods of Path, these do not raise where a folder on the way may not be entered.
    return os.path.isfile(path) or not os.path.exists(path)


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted, without pipes; do not follow folder links.

    Files and folders that `is_passed_over` names are left out.
    """

    def refuse(error: OSError) -> None:
        # os.walk would silently skip a folder that it may not read, with the slices in it. The name of a
        # folder may be a patient's, too.
        place = Told.of(str(error.filename), str(folder))
        raise InputError(f"the folder cannot be read: {error.strerror}", where=place) from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        refuse_depth(Path(root), folder)
        folders[:] = sorted(name for name in folders if not is_passed_over(Path(root, name)))
        paths = (Path(root, name) for name in sorted(files))
        # Opening a pipe would block for ever. A dangling link is kept: it may stand for a missing slice.
        yield from (path for path in paths if not is_passed_over(path) and may_be_file(path))


def hidden_files(folder: Path) -> Iterator[Path]:
    """Yield the hidden files below a folder, which `walk_files` leaves out, but none of hidden folders."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_passed_over(Path(root, name)))
        hidden = (Path(root, name) for name in files if name.startswith("."))
        yield from (path for path in hidden if may_be_file(path))


def folder_links(folder: Path) -> Iterator[Path]:
    """Yield the links below a folder that lead to folders elsewhere: `walk_files` does not follow them."""
    top = os.path.realpath(folder)
    for root, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_passed_over(Path(root, name)))
        for path in (Path(root, name) for name in folders if os.path.islink(os.path.join(root, name))):
            if not Path(os.path.realpath(path)).is_relative_to(top) and not _leads_up(path):
                yield path
        if len(Path(root).relative_to(folder).parts) >= MOST_DEPTH:  # `walk_files` refuses it
            folders.clear()


def refuse_depth(place: Path, folder: Path) -> None:
    """Refuse folders nested too deep to be searched: `place` is the given `folder` or one below it.

    Raises
    ------
    InputError
        If `place` lies more than `MOST_DEPTH` levels below `folder`.
    """
    if len(place.relative_to(folder).parts) > MOST_DEPTH:
        what = f"the folders in it are nested more than {MOST_DEPTH} deep"
        raise InputError(what, where=folder, todo="Give the folders of the studies themselves")


class RealPaths:
    """A resolver of links that looks up each folder once. A link to a scan is the same scan."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def path(self, path: Path) -> str:
        """Return the real path; for a loop of links, the path where the loop began."""
        if path.name in ("", "..") or os.path.islink(path):
            return os.path.realpath(path)  # unlike `resolve`, it never raises
        folder = os.path.dirname(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], path.name)


def stem_of(path: Path) -> str:
    """Return the name of a scan: its file name without suffix, or the name of its folder."""
    name = image_stem(path) if image_suffix(path) else path.name
    if image_suffix(path) is None and os.path.isfile(path):
        name = path.stem or path.name
    return name if name not in ("", "..") else os.path.basename(os.path.realpath(path))


def unique_names(wanted: Sequence[tuple[str, str]], taken: Iterable[str] = ()) -> list[str]:
    """Return a name for each scan: its stem; if stems clash, with the folder in front, then a counter.

    Parameters
    ----------
    wanted
        Folder and stem of each scan.
    taken
        Names that are already in use.

    Returns
    -------
    list of str
        Names that differ in more than upper and lower case.
    """
    used = {folded(name) for name in taken}
    alike = Counter(folded(stem) for _, stem in wanted)
    full = [
        stem if alike[folded(stem)] == 1 and folded(stem) not in used else f"{folder}_{stem}"
        for folder, stem in wanted
    ]
    # Names that need no counter are reserved before any counter, so that they do not depend on the order.
    counts = Counter(folded(name) for name in full)
    free = {name for name, times in counts.items() if times == 1 and name not in used}
    used |= free
    names = []
    following: dict[str, Iterator[int]] = {}  # each counter continues: 10,000 scans may share a name
    for name in full:
        if folded(name) not in free:
            numbers = following.setdefault(folded(name), count(1))
            numbered = (f"{name}_{n}" for n in numbers)
            name = next(candidate for candidate in numbered if folded(candidate) not in used)
            used.add(folded(name))
        names.append(name)
    return names
