"""Which scans are in these folders, and which truth belongs to which of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from c3s3_seg.errors import InputError, Told
from c3s3_seg.io.image.files import IMAGE_SUFFIXES, image_stem, image_suffix
from c3s3_seg.system.names import folded

# What follows the name of the scan in that of its mask. 3D Slicer writes `x.seg.nrrd`, and `x-label.nrrd`.
MASK_ENDINGS = ("_gt", "_label", "_seg", "_mask", ".seg", "-label")
TRUTH_ENDINGS = ("", *MASK_ENDINGS)
# Folders within one another. Who looks through them calls itself for each, which Python does 1000 times.
MOST_DEPTH = 100


@dataclass(frozen=True)
class Case:
    """One scan: a name that no other case of the run has, without suffix, and where it is.

    Parameters
    ----------
    name, path
        Its name, and the image file, or the folder or one file of a DICOM study.
    series
        Of a DICOM study the series, as `Series.key` has it; "" where the path says it all.
    files
        All files of that series, relative to `root`: what is read, and what its hash is of. None are
        known of an image file or an archive.
    study
        What the series of one study have in common, where there are several to choose among; else "".
    """

    name: str
    path: Path
    series: str = ""
    files: tuple[str, ...] = ()
    study: str = ""

    @property
    def root(self) -> Path:
        """The folder that the files lie in or below."""
        return self.path.parent if self.path.is_file() else self.path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the series, where they are known."""
        root = self.root
        return tuple(root / file for file in self.files)


@dataclass(frozen=True)
class Skipped:
    """What was given or found and is no case. Of a DICOM study it names no file and no description.

    Parameters
    ----------
    place
        The path, or the folder of the study.
    reason
        Why it was passed over.
    series
        The number of the series in `inspect`; 0 where it is no series.
    """

    place: str
    reason: str
    series: int = 0

    def __str__(self) -> str:
        return f"{self.place}{f', series {self.series}' if self.series else ''}: {self.reason}"


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
            one_study = len({case.path for case in cases}) == 1
            raise InputError(
                f"one truth file was given for {len(cases)} cases",
                where=truth,
                todo="Choose one series with --series" if one_study else "Give a folder of truths",
            )
        return {cases[0].name: truth}
    by_stem: dict[str, list[Path]] = {}
    real = RealPaths()
    for path in visible(truth):
        if image_suffix(path) and path.is_file():
            by_stem.setdefault(image_stem(path), []).append(path)
    stems = Counter(stem_of(case.path) for case in cases)
    pairs = {}
    for case in cases:
        # A case that was renamed, because another one had its name, must not take the other one's truth.
        names = {case.name} | ({stem_of(case.path)} if stems[stem_of(case.path)] == 1 else set())
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


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without hidden entries and links that lead up.

    Raises
    ------
    InputError
        If the folder is not there or cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            links = {entry.name for entry in entries if entry.is_symlink()}
    except FileNotFoundError:
        raise InputError("there is no such file or folder", where=folder) from None
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
        # os.walk would pass over a folder that it may not read, and the slices in it with it. The name of a
        # folder in it may be a patient's, too.
        place = Told.of(str(error.filename), str(folder))
        raise InputError(f"the folder cannot be read: {error.strerror}", where=place) from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        refuse_depth(Path(root), folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(root) / name for name in sorted(files) if not name.startswith("."))
        # To open a pipe is to wait for ever. A link that leads nowhere stays: a slice may be missed there.
        yield from (path for path in paths if path.is_file() or not path.exists())


def refuse_depth(place: Path, folder: Path) -> None:
    """Refuse folders nested too deep to be looked through: `place` is one at or below the `folder` given.

    Raises
    ------
    InputError
        If it is so.
    """
    if len(place.relative_to(folder).parts) > MOST_DEPTH:
        what = f"the folders in it are nested more than {MOST_DEPTH} deep"
        raise InputError(what, where=folder, todo="Give the folders of the studies themselves")


class RealPaths:
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


def stem_of(path: Path) -> str:
    """The name of a scan: that of its file without suffix, or of its folder."""
    name = image_stem(path) if image_suffix(path) else path.name
    if image_suffix(path) is None and path.is_file():
        name = path.stem or path.name
    return name if name not in ("", "..") else os.path.basename(os.path.realpath(path))


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
    used = {folded(name) for name in taken}
    alike = Counter(folded(stem) for _, stem in wanted)
    full = [
        stem if alike[folded(stem)] == 1 and folded(stem) not in used else f"{folder}_{stem}"
        for folder, stem in wanted
    ]
    # Names that need no counter keep theirs, whatever the order: they are taken before any counter.
    counts = Counter(folded(name) for name in full)
    free = {name for name, times in counts.items() if times == 1 and name not in used}
    used |= free
    names = []
    following: dict[str, Iterator[int]] = {}  # each counter goes on where it was: 10,000 scans may be alike
    for name in full:
        if folded(name) not in free:
            numbers = following.setdefault(folded(name), count(1))
            numbered = (f"{name}_{n}" for n in numbers)
            name = next(candidate for candidate in numbered if folded(candidate) not in used)
            used.add(folded(name))
        names.append(name)
    return names
