"""Read HDF5 files with the arrays `image` and `label`, and the lists that assign them to splits.

left atrium    CASE/mri_norm2.h5, train.list, test.list: the benchmark of UA-MT and its successors
Pancreas-CT    CASE_norm.h5, train.list, test.list: the same for the pancreas
others         any name in any folder; 2D slices that were cut from volumes are passed over
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from c3s3_seg.dataset.check.mask_statistics import few_values, why_no_mask
from c3s3_seg.dataset.index import is_inside
from c3s3_seg.dataset.prepare.inventory import (
    Mask,
    Part,
    RefusedFile,
    Scan,
    ScanMaskPair,
    Split,
    place_of,
    reason_of,
)
from c3s3_seg.dataset.prepare.pairing import KEPT
from c3s3_seg.errors import C3S3Error, InputError, quantity
from c3s3_seg.io.image.hdf5 import HDF5_SUFFIXES, array_shapes
from c3s3_seg.system.reading import read_regular

ATRIUM_FILE, ATRIUM_MM = "mri_norm2.h5", (0.625, 0.625, 0.625)
PANCREAS_END, PANCREAS_MM = "_norm.h5", (1.0, 1.0, 1.0)
UNKNOWN_MM = (1.0, 1.0, 1.0)
LISTS: dict[str, Split] = {"train.list": "", "val.list": "validation", "test.list": "test"}
LIST_BYTES = 16 << 20
NO_IMAGE = "HDF5 files without an array 'image'"
SLICES = "HDF5 files of single slices (their array 'image' is not 3D)"
UNLISTED = "HDF5 files that no list names"


@dataclass
class Arrays:
    """The scans and refusals found in HDF5 files."""

    pairs: list[ScanMaskPair] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """A file with a volume: the case, further names in lists, and the spacing and modality if known."""

    path: Path
    case: str
    names: tuple[str, ...]
    spacing_mm: tuple[float, float, float] = UNKNOWN_MM
    modality: str = ""


def is_array_file(path: Path) -> bool:
    """Return whether a name is that of an HDF5 file."""
    return path.suffix.lower() in HDF5_SUFFIXES


def find_arrays(root: Path, files: Sequence[Path], leaves_out: Callable[[Path], bool]) -> Arrays:
    """Return the scans in HDF5 files, with their masks and splits.

    Parameters
    ----------
    root
        Folder of the source.
    files
        All files in the source, among them HDF5, `train.list`, `val.list` and `test.list`.
    leaves_out
        Called to decide whether a file is passed over; a list may still name such a file.

    Raises
    ------
    InputError
        If a list names a missing case or a path out of its folder, or two lists name one case.
    """
    found = Arrays()
    shapes: dict[Path, Mapping[str, tuple[int, ...]]] = {}
    for path in filter(is_array_file, files):
        try:
            shapes[path] = array_shapes(path, ("image", "label"))
        except C3S3Error as error:
            found.refused += [] if leaves_out(path) else [RefusedFile(place_of(path, root), reason_of(error))]
    volumes = [path for path, arrays in shapes.items() if len(arrays.get("image", ())) == 3]
    others = [path for path, arrays in shapes.items() if len(arrays.get("image", ())) != 3]
    kept = [path for path in others if not leaves_out(path)]
    found.passed.update(SLICES if "image" in shapes[path] else NO_IMAGE for path in kept)
    if not volumes:
        return found
    cases = _name(volumes)
    lists = [path for path in files if path.name in LISTS and not leaves_out(path)]
    for path in lists:
        if not is_inside(root, path):
            todo = "Copy the list into the folder"
            raise InputError("is a link to a file outside of the folder", where=path, todo=todo)
    splits = _splits(lists, cases)
    unknown = 0  # files of no benchmark
    for file in (file for file in cases if not leaves_out(file.path)):
        if splits is not None and file.path not in splits:
            found.passed[UNLISTED] += 1
        elif splits is not None and not is_inside(root, file.path):
            reason = "it is listed, and a link to a file outside of this folder, which is not followed"
            found.refused.append(RefusedFile(place_of(file.path, root), reason))
        else:
            _take(file, root, shapes[file.path], (splits or {}).get(file.path, ""), found)
            unknown += not file.modality
    if unknown:
        found.assumed = (
            f"{quantity(unknown, 'HDF5 file')} without geometry: voxels of 1 x 1 x 1 mm and axes towards the"
            " patient's left, back and head are assumed, so distances in mm and ml may be wrong",
        )
    return found


def _name(paths: Sequence[Path]) -> list[_File]:
    """Name the case in each file after the file, or after its folder if several files share a name."""
    often = Counter(path.name.casefold() for path in paths)
    files = []
    for path in paths:
        stem = path.stem
        if path.name == ATRIUM_FILE:
            files.append(_File(path, path.resolve().parent.name, (), ATRIUM_MM, "MR"))
        elif path.name.endswith(PANCREAS_END):
            files.append(_File(path, path.name.removesuffix(PANCREAS_END), (stem,), PANCREAS_MM, "CT"))
        elif often[path.name.casefold()] > 1:
            files.append(_File(path, path.resolve().parent.name, ()))
        else:
            files.append(_File(path, stem, (path.parent.name,) if stem in ("image", "data") else ()))
    return files


def _splits(lists: Sequence[Path], cases: Sequence[_File]) -> dict[Path, Split] | None:
    """Return the split of each file, with a train.list of listed files alone; None without lists."""
    if not lists:
        return None
    where: dict[str, list[Path]] = defaultdict(list)
    for file in cases:
        for name in {file.case, *file.names}:
            where[name].append(file.path)
    assigned: dict[Path, str] = {}
    for path in lists:
        names = list(_lines(path))
        absent = [name for name in names if not any(alias in where for alias in _aliases(name))]
        if absent:
            what = f"names {quantity(len(absent), 'case')} not found here, such as '{absent[0]}'"
            raise InputError(what, where=path, todo="Put them there, or take them off the list")
        for name in names:
            for scan in where[next(alias for alias in _aliases(name) if alias in where)]:
                if assigned.setdefault(scan, path.name) != path.name:
                    what = f"the case '{name}' is in {assigned[scan]} and in {path.name}"
                    raise InputError(what, where=path, todo="Take it off one of them")
    splits = {path: LISTS[name] for path, name in assigned.items()}
    if any(path.name == "train.list" for path in lists):
        return splits
    return {file.path: splits.get(file.path, "") for file in cases}


def _aliases(line: str) -> list[str]:
    """Return the names a line may mean: `CASE`, `CASE_norm.h5`, `folder/CASE.h5`, `CASE/mri_norm2.h5`."""
    parts = [part for part in line.split("/") if part != "."]
    last = parts[-1]
    stem = last.rpartition(".")[0] if last.lower().endswith(HDF5_SUFFIXES) else last
    return [last, stem, last.removesuffix(PANCREAS_END), *parts[-2:-1]]


def _lines(path: Path) -> Iterator[str]:
    """Yield the names in a list, once each.

    Raises
    ------
    InputError
        If the list cannot be read, or a name is unprintable or a path out of the folder.
    """
    text = read_regular(path, LIST_BYTES).decode("utf-8-sig", "replace")
    for name in dict.fromkeys(line.strip().replace("\\", "/") for line in text.splitlines()):
        plain = unicodedata.normalize("NFKC", name)
        elsewhere = re.match(r"/|[a-zA-Z]:|\w+://", plain) or ".." in PurePosixPath(plain).parts
        if elsewhere or not name.isprintable():
            raise InputError(f"names {name!r}; wanted the name of a case in this folder", where=path)
        if name.strip("./"):
            yield name


def _take(
    file: _File, root: Path, shapes: Mapping[str, tuple[int, ...]], split: Split, found: Arrays
) -> None:
    image = Part("hdf5", place_of(file.path, root), (file.path,), "image", file.spacing_mm)
    scan = Scan(image, file.case, modality=file.modality, split=split)
    label = replace(image, key="label")
    reason = None
    values: tuple[int, ...] | None = None
    if "label" not in shapes:  # each benchmark file has one; any other is a scan without a mask
        reason = "there is no array 'label' in this file." if file.modality else None
    elif shapes["label"] != shapes["image"]:
        reason = f"its array 'label' has the shape {shapes['label']}, and 'image' {shapes['image']}."
    else:
        try:
            volume = label.scan(Path(), frozenset())
            values = few_values(volume.array)
            reason = f"it {why_no_mask(volume)}" if values is None else None
        except C3S3Error as error:
            reason = reason_of(error)
    if reason is not None:
        found.refused.append(RefusedFile(label.place, reason + KEPT))
    found.pairs.append(ScanMaskPair(scan, Mask(label, None, values) if values is not None else None))
