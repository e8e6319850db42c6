"""Find the scans and masks in a folder without a known layout: DICOM series, image files, all kinds of masks.

An image file is a mask if it holds few different whole numbers, and its name or folder states so
(`labelsTr`, `p1_seg`) or it lies on the grid of a scan. A file with few values and neither is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from c3s3_seg.dataset.check.mask_statistics import few_values, why_no_mask
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare.arrays import Arrays, find_arrays, is_array_file
from c3s3_seg.dataset.prepare.inventory import (
    Discovery,
    Inventory,
    Mask,
    Part,
    RefusedFile,
    Scan,
    ScanMaskPair,
    place_of,
    reason_of,
)
from c3s3_seg.dataset.prepare.left_out import is_left_out
from c3s3_seg.dataset.prepare.pairing import ORIGINS, Grids, Shelf, pair, says, trail
from c3s3_seg.dataset.prepare.predictions import MaskOrigin, find_predictions
from c3s3_seg.dataset.prepare.structures import LEFT_OUT, Gathered, gather
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io.cases import folder_links, walk_files
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.io.hashes import scan_files
from c3s3_seg.io.image.files import image_stem, image_suffix, load_image
from c3s3_seg.io.reading import SeriesRule
from c3s3_seg.system.choices import Repair, UncorrectedUse
from c3s3_seg.system.process_pool import Died, each
from c3s3_seg.system.progress import Progress, silent

BESIDE = "files that predict wrote beside its masks"
UNCORRECTED = "predictions that were not corrected"
LINKS = "links to folders elsewhere, which are not followed"


@dataclass(frozen=True)
class Search:
    """The settings of a search.

    Parameters
    ----------
    rule
        Rule for the DICOM series to take; None takes every volume.
    repair
        Repairs that are allowed.
    leave_out
        Patterns of paths, relative to the source, that are passed over: `*.old.nii.gz`, `2019/*`.
    workers
        Number of processes that read image files.
    labels
        Requested labels, if they were named; mask files of one structure each are found by these names.
    predictions
        Use of uncorrected predictions of this program: as `labels` of their scans, or not at all, so that
        their scans are `unlabelled`.
    """

    rule: SeriesRule | None = None
    repair: frozenset[Repair] = frozenset()
    leave_out: tuple[str, ...] = ()
    workers: int = 1
    labels: Labels | None = None
    predictions: UncorrectedUse = "labels"


@dataclass(frozen=True)
class Probe:
    """The content of an image file: its grid, and its foreground values if it may be a mask."""

    grid: Geometry
    values: tuple[int, ...] | None


def wanted_files(root: Path, leave_out: Collection[str]) -> Iterator[Path]:
    """Yield all files below a folder except those that are left out."""
    for path in walk_files(root):
        if not is_left_out(path.relative_to(root).as_posix(), leave_out):
            yield path


def _links(root: Path, leave_out: Collection[str]) -> Counter[str]:
    """Count the links to folders, unless they are left out: the scans behind them are not searched."""
    places = (f"{path.relative_to(root).as_posix()}/" for path in folder_links(root))
    return +Counter({LINKS: sum(not is_left_out(place, leave_out) for place in places)})


def discover(root: Path, search: Search, progress: Progress = silent) -> Inventory:
    """Find the scans and masks in a folder and its sub-folders.

    Parameters
    ----------
    root
        Folder to search.
    search
        Settings of the search.
    progress
        Called with the number of image files that have been read.

    Returns
    -------
    Inventory
        Inventory of the folder; without pairs if nothing was found.

    Raises
    ------
    InputError
        If a folder cannot be read, or a list of HDF5 cases is invalid.
    """
    found = Discovery(passed=_links(root, search.leave_out))
    arrays = arrays_in(root, search)
    dicoms, images = [], []
    files = list(wanted_files(root, search.leave_out))
    predictions = find_predictions(files)
    for path in files:
        if is_array_file(path):
            continue
        if path in predictions.others:
            found.passed[BESIDE] += 1
            continue
        if predictions.origin(path) == "prediction" and search.predictions == "unlabelled":
            found.passed[UNCORRECTED] += 1
            continue
        if image_suffix(path):
            images.append(path)
        elif is_dicom(path):
            dicoms.append(path)
        elif is_zip(path):
            found.refused.append(RefusedFile(place_of(path, root), "archives are not looked into: unpack it"))
        else:
            found.passed["neither images nor DICOM"] += 1
    if dicoms:
        _sort_dicom(root, dicoms, search, found)
    _sort_images(root, images, search, found, progress)
    found.masks = [replace(mask, origin=predictions.origin(mask.part.files[0])) for mask in found.masks]
    found.scans.sort(key=lambda scan: scan.part.place)
    gathered = Gathered(rest=found.masks)
    if search.labels is not None:
        gathered = gather(Shelf(found.scans), found.masks, search.labels)
        found.passed.update({LEFT_OUT: gathered.left_out} if gathered.left_out else {})
    pairs, refused = pair(found.scans, gathered.rest, gathered.masks)
    refused = [*found.refused, *gathered.refused, *refused, *arrays.refused]
    found.passed.update(arrays.passed)
    return Inventory((*pairs, *arrays.pairs), tuple(refused), found.passed, assumed=arrays.assumed)


def mark_predictions(
    found: Inventory, root: Path, search: Search, recorded: Mapping[str, MaskOrigin]
) -> Inventory:
    """Mark the masks of an inventory that are predictions of this program; `discover` does so by itself.

    Parameters
    ----------
    found
        Scans with image files as masks.
    root, search
        Same as in `discover`.
    recorded
        Stem of a scan -> origin of its mask in the index; the JSON beside the mask takes precedence.
    """
    predictions = find_predictions(list(wanted_files(root, search.leave_out)))
    passed, pairs = Counter(found.passed), []
    for one in found.pairs:
        if one.mask is not None:
            known = predictions.origin(one.mask.part.files[0])
            origin = known or recorded.get(one.scan.stem, "")
            one = replace(one, mask=replace(one.mask, origin=origin), note=ORIGINS[origin])
            if origin == "prediction" and search.predictions == "unlabelled":
                passed[UNCORRECTED] += 1
                one = ScanMaskPair(one.scan)
        pairs.append(one)
    return replace(found, pairs=tuple(pairs), passed=passed)


def arrays_in(root: Path, search: Search) -> Arrays:
    """Return the scans in HDF5 files, see `find_arrays`."""
    files = list(walk_files(root))
    if not any(map(is_array_file, files)):
        return Arrays()
    return find_arrays(root, files, lambda p: is_left_out(p.relative_to(root).as_posix(), search.leave_out))


def _sort_dicom(root: Path, files: Sequence[Path], search: Search, found: Discovery) -> None:
    from c3s3_seg.dataset.prepare.discover_dicom import find_drawings, find_scans
    from c3s3_seg.io.dicom.series import look_through

    seen = look_through(root, files)
    for add in (find_scans(seen, search.rule, search.repair), find_drawings(seen, search.rule)):
        found.scans += add.scans
        found.masks += add.masks
        found.refused += add.refused
        found.passed.update(add.passed)


def _sort_images(
    root: Path, images: Sequence[Path], search: Search, found: Discovery, progress: Progress
) -> None:
    """Sort image files into scans and masks, scans first, as a scan's grid identifies some masks."""
    unsure: list[tuple[Path, Probe]] = []
    for path, probe in probes(images, search, progress):
        role = says(stem_path(path, root))
        if isinstance(probe, str):
            found.refused.append(RefusedFile(place_of(path, root), probe))
        elif probe.values is None and role == "mask":
            reason = f"it is named like a mask, and {why_no_mask_file(path, search)}"
            found.refused.append(RefusedFile(place_of(path, root), reason))
        elif probe.values is None:
            found.scans.append(_scan(path, root, probe.grid))
        elif role == "mask":
            found.masks.append(_mask(path, root, probe))
        else:
            unsure.append((path, probe))
    grids = Grids(scan.grid for scan in found.scans)
    for path, probe in unsure:
        if grids.same(probe.grid):
            found.masks.append(_mask(path, root, probe))
        else:
            reason = (
                f"it holds {len(probe.values or ())} whole values, as a mask does, and neither its name nor"
                " a scan on its grid says so: put 'mask' or 'seg' into its name, or leave it out"
            )
            found.refused.append(RefusedFile(place_of(path, root), reason))


def probes(images: Sequence[Path], search: Search, progress: Progress) -> Iterator[tuple[Path, Probe | str]]:
    """Yield each image file with its content, or the reason why it cannot be read; in the order of files."""
    mend = "orthonormal" in search.repair
    results: dict[int, Probe | str] = {}
    for number, result in each(_probe, [(path, mend) for path in images], search.workers):
        results[number] = result.reason if isinstance(result, Died) else result
        progress("looking into image files", len(results), len(images))
    yield from ((path, results[number]) for number, path in enumerate(images))


def _probe(work: tuple[Path, bool]) -> Probe | str:
    path, mend = work
    try:
        volume = load_image(path, orthonormal=mend)
        return Probe(volume.geometry, few_values(volume.array))
    except Exception as error:  # one bad file must not stop the others
        return reason_of(error)


def why_no_mask_file(path: Path, search: Search) -> str:
    """Return why an image file is no mask, as a predicate; its probe found no values of a mask."""
    try:
        return why_no_mask(load_image(path, orthonormal="orthonormal" in search.repair))
    except C3S3Error as error:  # the file was readable a moment ago
        return f"cannot be read any more: {reason_of(error)}"


def stem_path(path: Path, root: Path) -> PurePath:
    """Return the path below the source, without the image suffix."""
    return PurePath(path.parent.relative_to(root)) / image_stem(path)


def image_part(path: Path, root: Path) -> Part:
    """Return an image file as a part, with the file beside it that holds its voxels, if there is one."""
    files = scan_files(path)
    files.sort(key=lambda file: file != path)
    return Part("image", place_of(path, root), tuple(files))


def _scan(path: Path, root: Path, grid: Geometry) -> Scan:
    return Scan(image_part(path, root), image_stem(path), grid=grid, trail=trail(stem_path(path, root)))


def _mask(path: Path, root: Path, probe: Probe) -> Mask:
    return Mask(image_part(path, root), probe.grid, probe.values, trail(stem_path(path, root)))


def by_name(scans: Sequence[Scan], pattern: str) -> tuple[list[Scan], list[RefusedFile]]:
    """Take patients from the paths: the first group of a regular expression, or its whole match.

    Raises
    ------
    InputError
        If the pattern is not a regular expression, or is empty.
    """
    if not pattern:  # as from an unset variable of a script
        raise InputError("--patient is empty; wanted a regular expression, such as ^([^/]+)/")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--patient '{pattern}' is no regular expression ({error})") from None
    kept, refused = [], []
    for scan in scans:
        # Not in the description of a series, which is part of its place.
        match = compiled.search(str(scan.part.path) if scan.part.kind == "dicom" else scan.part.place)
        name = match.group(1 if match.groups() else 0) if match is not None else ""
        if not name:
            reason = f"--patient '{pattern}' is not found in its path, so of whom it is is not known"
            refused.append(RefusedFile(scan.part.place, reason))
        else:
            kept.append(replace(scan, patient=f"name {name}"))
    return kept, refused
