"""Find the scans at given paths: image files, archives and folders of DICOM studies, at any depth."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

from c3s3_seg.errors import FileName, InputError, quantity
from c3s3_seg.io.cases import (
    Case,
    NoScanError,
    RealPaths,
    Skipped,
    UnreadableError,
    folder_links,
    refuse_depth,
    stem_of,
    unique_names,
    visible,
    walk_files,
)
from c3s3_seg.io.detect import is_dicom, is_zip, why_unreadable
from c3s3_seg.io.image.files import IMAGE_SUFFIXES, image_suffix

MOST_FILES = 10_000  # files below a folder without a scan in which image files are looked for
_MASK_FOLDER = re.compile("label|mask|seg|truth", re.IGNORECASE)  # such as labelsTr: not for `predict`
LINK = "a link to a folder, which is not followed among DICOM files: give that folder itself"
FIRST = 4  # files of a folder whose study is read: the first may be a DICOMDIR, or damaged


@dataclass(frozen=True)
class Places:
    """Paths with scans, each once: image files, archives, DICOM files, and folders of DICOM studies.

    `skipped` lists the other inputs that were given or found beside them.
    """

    found: tuple[Path, ...]
    skipped: tuple[Skipped, ...] = ()


def find_cases(paths: Sequence[str | Path]) -> list[Case]:
    """Find the scans at these paths; a folder with a DICOM study is one scan, whatever is in it.

    Parameters
    ----------
    paths
        Each path is an image file, a DICOM file, a zip file with DICOM files, a folder with DICOM files,
        or a folder of cases: image files, zip files and sub-folders that each hold a DICOM study. Hidden
        files are passed over, and a scan that is given twice is taken once.

    Returns
    -------
    list of Case
        Cases in the order of `paths`, and by name within a folder. Names differ in more than upper and
        lower case, so that their outputs can lie in one folder on any file system.

    Raises
    ------
    InputError
        If no scan is found, a single path is missing, or a folder mixes DICOM slices and image files.
    """
    found = find_places(paths).found
    real = RealPaths()
    names = unique_names([(folder_of(path, real), stem_of(path)) for path in found])
    return [Case(name, path) for name, path in zip(names, found, strict=True)]


def folder_of(path: Path, real: RealPaths) -> str:
    """Return the name of the folder that contains a scan, which distinguishes scans of one name."""
    return os.path.basename(real.path(path.parent))


def find_places(paths: Sequence[str | Path], *, numbered: bool = False) -> Places:
    """Find the possible scans at these paths; of the headers, only the study UIDs are read.

    Parameters
    ----------
    paths
        Same as in `find_cases`.
    numbered
        Whether series are chosen by their number in `inspect`: a folder with one study in sub-folders is
        then one place.

    Raises
    ------
    InputError
        If nothing is found, a single path is missing or holds no scan, or a folder mixes DICOM slices and
        image files. Of several paths, one that is missing or cannot be read fails as a case, and one
        without a scan is passed over.
    """
    finder = _Finder(numbered)
    for given in paths:
        try:
            finder.look_at(Path(given))
        except NoScanError as error:
            if len(paths) == 1:
                raise
            finder.skipped.append(Skipped(str(given), error.what))
        except UnreadableError:
            if len(paths) == 1:
                raise
            finder.add(Path(given))
    if not finder.found:
        what = f"found no scan at any of {len(paths)} paths"
        raise NoScanError(what, where=str(paths[0]) if paths else None)
    return Places(tuple(finder.found.values()), tuple(finder.skipped))


class _Finder:
    def __init__(self, numbered: bool) -> None:
        self.numbered = numbered
        self.found: dict[str, Path] = {}
        self.skipped: list[Skipped] = []
        self._real = RealPaths()
        self._folders: dict[str, Path] = {}
        self._given = Path()

    def add(self, path: Path) -> None:
        """Add a scan; record one that is known by another path as skipped."""
        known = self.found.setdefault(self._real.path(path), path)
        if known != path:
            self.skipped.append(Skipped(str(path), f"the same scan as {known}"))

    def look_at(self, path: Path) -> None:
        """Add the scans at a path that was given."""
        if os.path.isfile(path):
            known = image_suffix(path) is not None or is_dicom(path) or is_zip(path)
            if not known and not why_unreadable(path):
                what = f"this is not a scan; wanted {', '.join(IMAGE_SUFFIXES)} or DICOM"
                raise NoScanError(what, where=path)
            self.add(path)
        elif os.path.exists(path) and not os.path.isdir(path):
            raise NoScanError("this is a pipe or a device; wanted an image file or a folder", where=path)
        else:
            self._look_into(path)

    def _look_into(self, folder: Path) -> None:
        self._given = folder
        entries = visible(folder)
        images = [p for p in entries if image_suffix(p) and not os.path.isdir(p)]
        known = set(images)
        if any(is_dicom(p) for p in entries if p not in known):
            if images:
                raise InputError(
                    "the folder holds DICOM slices and image files"
                    f" ({FileName(images[0].name, 'one or more')}): which is the scan",
                    where=folder,
                    todo="Name the image files one by one, or put the slices into a folder of their own",
                )
            self.add(folder)
            self._skip_links(folder)
            return
        scans, rest = self._among(entries, images)
        if not scans and _may_be_study(rest):
            scans, rest = [folder], []
        if not scans:
            _refuse_empty(folder)
        if self.numbered and not images and len(scans) > 1 and _is_one_study(scans):
            scans = self._one_place(folder, scans)
        self._add_all(scans)
        self._skip(folder, rest)

    def _add_all(self, scans: Sequence[Path]) -> None:
        """Add scans in their order; if one scan is a link to another, pass over the link."""
        before = dict(self.found)
        for path in sorted(scans, key=os.path.islink):
            self.add(path)
        order = {path: n for n, path in enumerate(scans)}
        fresh = [item for item in self.found.items() if item[0] not in before]
        self.found = before | dict(sorted(fresh, key=lambda item: order[item[1]]))

    def _among(self, entries: Sequence[Path], images: Sequence[Path]) -> tuple[list[Path], list[Path]]:
        """Return the scans among the entries of a folder of cases, and the other entries."""
        there = set(images)
        found = {}
        for path in sorted(entries, key=os.path.islink):  # the target of a link comes before it
            found[path] = [path] if path in there else self._at(path)
        scans = [place for path in entries for place in found[path]]
        return scans, [path for path in entries if not found[path] and not self._is_known(path)]

    def _at(self, path: Path) -> list[Path]:
        """Return the archive or the studies at or below a path; a link that cannot be followed is a case."""
        if is_zip(path) or not os.path.exists(path):
            return [path]
        return self._studies(path) if os.path.isdir(path) else []

    def _studies(self, folder: Path) -> list[Path]:
        """Return the folders with DICOM studies at or below a folder; for a single study, the folder.

        A study with series behind links is returned as its folders: below a folder, links are not followed.
        """
        known = self._folders.setdefault(self._real.path(folder), folder)
        if known != folder:
            self.skipped.append(Skipped(str(folder), f"the same folder as {known}"))
            return []
        try:
            whole = self.numbered and any(_dicom_files(folder))
            entries = visible(folder)
            if whole or any(is_dicom(path) for path in entries):
                self._skip_links(folder)
                return [folder]
        except InputError:  # an unreadable folder fails as a case
            return [folder]
        refuse_depth(folder, self._given)
        below, rest = self._among(entries, ())
        # A single archive is not read as a part of the folder that it lies in.
        one = (len(below) == 1 and os.path.isdir(below[0])) or (below and _is_one_study(below))
        if one and not any(_is_linked(path, folder) for path in below):
            return [folder]
        if not below and _may_be_study(rest):
            return [folder]
        if below:
            self._skip(folder, rest)
        return below

    def _one_place(self, folder: Path, scans: list[Path]) -> list[Path]:
        """Return the folder of a study as one place; if all of it lies behind links, the places there."""
        if all(_is_linked(path, folder) for path in scans):
            return scans
        self._skip_links(folder)
        return [folder]

    def _skip_links(self, folder: Path) -> None:
        """Record the links below a folder that is read as a whole, as they are not followed."""
        for path in folder_links(folder):
            known = self._folders.get(self._real.path(path))
            same = known is not None and known != path
            reason = f"the same folder as {known}" if same else LINK
            self.skipped.append(Skipped(str(path), reason))

    def _is_known(self, path: Path) -> bool:
        return os.path.isdir(path) and self._folders.get(self._real.path(path)) != path

    def _skip(self, folder: Path, rest: Sequence[Path]) -> None:
        files = sum(not os.path.isdir(path) for path in rest)
        if files:
            self.skipped.append(Skipped(str(folder), "other files than scans", files=files))
        for path in rest:
            if os.path.isdir(path):
                self.skipped.append(Skipped(str(path), _without_study(path)))


def _is_linked(place: Path, folder: Path) -> bool:
    """Return whether a place below a folder is a link, or lies behind one."""
    steps = place.relative_to(folder).parts
    return any(os.path.islink(folder.joinpath(*steps[:n])) for n in range(1, len(steps) + 1))


def _without_study(folder: Path) -> str:
    with suppress(InputError):
        if any(image_suffix(path) for path in visible(folder)):
            return "a folder with image files, which are taken only if it is given itself"
    return "a folder without DICOM images"


def _is_one_study(places: Sequence[Path]) -> bool:
    """Return whether the first files of all places state the same study, as far as they state one."""
    from c3s3_seg.io.dicom.header import study_of

    def of(place: Path) -> str:
        with suppress(InputError):  # a folder that cannot be read states none
            return next(filter(None, map(study_of, islice(_dicom_files(place), FIRST))), "")
        return ""

    return all(map(os.path.isdir, places)) and len({of(place) for place in places} - {""}) == 1


def _may_be_study(entries: Sequence[Path]) -> bool:
    """Return whether a file cannot be read that may be a slice: DICOM files need not have a suffix."""
    return any(image_suffix(path) is None and why_unreadable(path) for path in entries)


def _dicom_files(place: Path) -> Iterator[Path]:
    return (path for path in walk_files(place) if is_dicom(path))


def _refuse_empty(folder: Path) -> NoReturn:
    """Raise an error with the kinds of scans searched for, or with the image files that lie deeper."""
    holders, masks = _image_folders(folder)
    if holders:
        first = next(iter(holders))
        what = (
            f"found no scan here, but {quantity(holders.total(), 'image file')} deeper, the first in {first}"
        )
        todo = "Give the folders with the scans themselves"
        if not masks and all(len(place.parts) == 1 for place in holders):
            todo = f"Give the sub-folders themselves ({folder}/*/)"
        raise NoScanError(what, where=folder, todo=todo)
    what = (
        f"found no scan here; looked for {', '.join(IMAGE_SUFFIXES)} files, DICOM slices and sub-folders with"
        " DICOM slices"
    )
    raise NoScanError(what, where=folder)


def _image_folders(folder: Path) -> tuple[Counter[Path], bool]:
    """Return the folders below with image files, each with their number, and whether others hold masks."""
    holders: Counter[Path] = Counter()
    masks = False
    with suppress(InputError):  # a folder below that cannot be read
        for path in islice(walk_files(folder), MOST_FILES):
            place = path.parent.relative_to(folder)
            if not image_suffix(path):
                continue
            if any(_MASK_FOLDER.match(part) for part in place.parts):
                masks = True
            else:
                holders[place] += 1
    return holders, masks
