"""Read folders in a known layout from their own lists, without a search.

this package        dataset.json with `labelled`: its splits are kept
Decathlon           dataset.json with `training`: pairs of `image` and `label`
nnU-Net             dataset.json with `channel_names`; imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz
benchmark HDF5      see `arrays`

Listed files must lie in the folder, as `prepare` copies them: paths and links out of it are refused.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from c3s3_seg.bundle.manifest import MODALITY
from c3s3_seg.dataset.index import IMAGES, INDEX, MASKS, DataSet, is_inside
from c3s3_seg.dataset.index_keys import channel, parse_labels, read_index
from c3s3_seg.dataset.patients import GIVEN, patients_of
from c3s3_seg.dataset.prepare.arrays import is_array_file
from c3s3_seg.dataset.prepare.discover import (
    Probe,
    Search,
    arrays_in,
    image_part,
    mark_predictions,
    probes,
    wanted_files,
    why_no_mask_file,
)
from c3s3_seg.dataset.prepare.inventory import Inventory, Mask, Part, RefusedFile, Scan, ScanMaskPair, Split
from c3s3_seg.dataset.prepare.left_out import is_left_out
from c3s3_seg.dataset.prepare.pairing import KEPT
from c3s3_seg.dataset.prepare.predictions import MaskOrigin
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.io.cases import CHANNEL, scan_stem, walk_files
from c3s3_seg.io.detect import is_dicom
from c3s3_seg.io.image.files import image_stem, image_suffix
from c3s3_seg.io.modality import CODES, modality_code
from c3s3_seg.system.names import PlainName, printable
from c3s3_seg.system.progress import Progress, silent
from c3s3_seg.system.reading import sha256
from c3s3_seg.system.schema import parse

Found = list[tuple[Scan, Part | None]]  # a scan, and the mask that the layout assigns to it


def read_layout(root: Path, search: Search, progress: Progress = silent) -> Inventory | None:
    """Return the inventory of a folder in one of these layouts; None if it has another layout.

    Parameters
    ----------
    root
        Folder to read.
    search
        Patterns to leave out, number of workers that read masks, and labels that override the layout's.
    progress
        Called with the number of masks that have been read.

    Raises
    ------
    InputError
        If an index or a list names a file that is missing or lies outside of the folder, there are several
        channels, or labels are regions.
    ConfigError
        If a key of the index has an invalid value.
    """
    index = read_index(root / INDEX) if (root / INDEX).is_file() else {}
    for key, read in (("labelled", _ours), ("training", _decathlon), ("channel_names", _nnunet)):
        if key in index:
            found = read(root, index)
            labels = {} if search.labels is not None else _labels(index, root / INDEX)
            passed = {"test images of the layout": n} if (n := _test_images(root, index)) else {}
            passed |= {"masks whose scan is not there": n} if (n := _lone_masks(root, found)) else {}
            inventory = _inventory(root, found, labels, passed, search, progress)
            return mark_predictions(inventory, root, search, _recorded_origins(root, index))
    return _arrays(root, search)


def _arrays(root: Path, search: Search) -> Inventory | None:
    """Return the HDF5 scans of a folder; None if it has none, or other images too, left to `discover`."""
    files = list(wanted_files(root, search.leave_out))
    if not any(map(is_array_file, files)) or any(image_suffix(path) or is_dicom(path) for path in files):
        return None
    found = arrays_in(root, search)
    if not found.pairs:
        return None
    return Inventory(tuple(found.pairs), tuple(found.refused), found.passed, assumed=found.assumed)


def _inventory(
    root: Path,
    found: Found,
    labels: Mapping[str, int],
    passed: Mapping[str, int],
    search: Search,
    progress: Progress,
) -> Inventory:
    """Read the values in the masks, so that disagreements are reported before anything is written."""
    taken = [(scan, part) for scan, part in found if not is_left_out(scan.part.place, search.leave_out)]
    files = [part.files[0] for _, part in taken if part is not None and part.kind == "image"]
    seen = dict(probes(files, search, progress))
    pairs, refused = [], []
    for scan, part in taken:
        if part is None or is_left_out(part.place, search.leave_out):
            pairs.append(ScanMaskPair(scan))
            continue
        probe = seen[part.files[0]]
        if isinstance(probe, Probe) and probe.values is not None:
            pairs.append(ScanMaskPair(scan, Mask(part, None, probe.values)))
        else:
            reason = probe if isinstance(probe, str) else f"it {why_no_mask_file(part.files[0], search)}"
            refused.append(RefusedFile(part.place, reason + KEPT))
            pairs.append(ScanMaskPair(scan))
    return Inventory(tuple(pairs), tuple(refused), dict(passed), labels)


def _labels(index: Mapping[str, Any], path: Path) -> dict[str, int]:
    found = index.get("labels", {})
    if isinstance(found, dict) and "ignore" in found:
        what = "its label 'ignore' marks voxels that are not to be trained on, which this cannot do"
        raise InputError(what, where=path, todo="Leave those cases out, or give those voxels a label")
    return parse_labels(found, path)


def _recorded_origins(root: Path, index: Mapping[str, Any]) -> dict[str, MaskOrigin]:
    """Return case -> origin of its mask in an earlier `prepare`; a mask changed since is a correction."""
    made = index.get("prepared") if "labelled" in index else None
    if not isinstance(made, dict):
        return {}
    listed = made.get("corrected")
    corrected = listed if isinstance(listed, list) else []
    found: dict[str, MaskOrigin] = {}
    data = DataSet.load(root)
    for case, record in data.records.items():
        if case in corrected:
            found[case] = "correction"
        elif case in data.predicted and data.has_mask(case):
            is_same = sha256(data.mask(case)) == record.sha256.get("label")
            found[case] = "prediction" if is_same else "correction"
    return found


def _test_images(root: Path, index: Mapping[str, Any]) -> int:
    folder = root / "imagesTs"
    if "labelled" in index or not folder.is_dir():
        return 0
    return sum(image_suffix(path) is not None for path in walk_files(folder))


def _lone_masks(root: Path, found: Found) -> int:
    """Return the number of files in `labelsTr` that are the mask of no scan."""
    taken = {mask.files[0] for _, mask in found if mask is not None}
    return sum(path not in taken for path in _images(root, MASKS))


def _modality(root: Path, index: Mapping[str, Any], key: str) -> str:
    """Return the DICOM modality of the single channel; empty if unknown."""
    code = modality_code(channel(index, key, root / INDEX))
    return code if code in CODES else ""


def _ours(root: Path, index: Mapping[str, Any]) -> Found:
    data = DataSet.load(root)
    # `prepare` itself writes codes that are not in CODES, as the headers and --modality have them.
    modality = data.modality if MODALITY.fullmatch(data.modality) else ""
    known = patients_of(data, ())
    found: Found = []
    kinds: tuple[Split, ...] = ("labelled", "unlabelled", "validation", "test")
    for split in kinds:
        for case in getattr(data.splits, split):
            patient = f"p {known[case].patient}" if known[case].rule == GIVEN else ""
            part = _part(root, data.scan(case))
            has_mask = split != "unlabelled" or data.has_mask(case)
            mask = _part(root, data.mask(case)) if has_mask else None
            found.append((Scan(part, case, patient, modality=modality, split=split), mask))
    return found


def _decathlon(root: Path, index: Mapping[str, Any]) -> Found:
    pairs = index["training"]
    if not isinstance(pairs, list):
        raise ConfigError(f"training = {_short(pairs)}: wanted a list", where=root / INDEX)
    modality = _modality(root, index, "modality")
    found: Found = []
    for number, item in enumerate(pairs):
        entry = item if isinstance(item, dict) else {"image": item}
        image, label = (entry.get(key) for key in ("image", "label"))
        part = _part(root, _named(root, image, f"training.{number}.image"))
        at = f"training.{number}.label"
        mask = None if label in (None, "") else _part(root, _named(root, label, at))
        stem = image_stem(part.files[0])
        found.append((Scan(part, stem.removesuffix(CHANNEL), modality=modality), mask))
    _refuse_twice(root, found)
    listed = {scan.part.files[0] for scan, _ in found}
    for path in _images(root, IMAGES):
        if path not in listed:  # scans without a mask are in no list
            found.append((Scan(_part(root, path), image_stem(path), modality=modality), None))
    return found


def _named(root: Path, name: Any, key: str) -> Path:
    """Return a file that an index names; raise if it is not an image file below the folder."""
    if not isinstance(name, str):
        raise ConfigError(f"{key} = {_short(name)}: wanted the path of an image file", where=root / INDEX)
    path = root / os.path.normpath(name)
    try:
        is_there = is_inside(root, path) and image_suffix(path) is not None and path.is_file()
    except (OSError, ValueError):  # not a valid file name
        is_there = False
    if not is_there:
        raise InputError(f"names {_short(name)}, which is no image file below its folder", where=root / INDEX)
    return path


def _part(root: Path, path: Path) -> Part:
    """Return the part of an image file of a layout, with the file that holds its voxels.

    Raises
    ------
    InputError
        If a file is a link out of the folder: the files are copied, so they must lie in the folder.
    """
    part = image_part(path, root)
    for file in part.files:
        if not is_inside(root, file):
            what = (
                f"'{file.relative_to(root)}' is a link to a file outside of this folder: it is not followed"
            )
            raise InputError(what, where=root, todo="Copy the file into the folder")
    return part


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nnunet(root: Path, index: Mapping[str, Any]) -> Found:
    channels = parse(dict[str, dict[str, str]], {"channel_names": index["channel_names"]}, root / INDEX)
    names = channels["channel_names"].values()
    if len(names) != 1:
        what = f"has {len(names)} channels ({', '.join(names)}); one is read"
        todo = "Make a data set of one of them: its files, CASE_0000, with channel_names of one entry"
        raise InputError(what, where=root / INDEX, todo=todo)
    modality = _modality(root, index, "channel_names")
    if "dataset" in index:
        return [(replace(scan, modality=modality), mask) for scan, mask in _nnunet_listed(root, index)]
    masks = _by_case(root, MASKS, scan_stem)
    scans = _by_case(root, IMAGES, lambda stem: stem.removesuffix(CHANNEL))
    found: Found = []
    for case, path in scans.items():
        _refuse_channel(case, path, scans)
        mask = _part(root, masks[case]) if case in masks else None
        found.append((Scan(_part(root, path), case, modality=modality), mask))
    return found


def _by_case(root: Path, folder: str, case_of: Callable[[str], str]) -> dict[str, Path]:
    """Return case -> its one file in a folder.

    Raises
    ------
    InputError
        If two files belong to one case, as the choice is ambiguous.
    """
    files: dict[str, Path] = {}
    for path in _images(root, folder):
        other = files.setdefault(case_of(image_stem(path)), path)
        if other != path:
            what = f"two files are of one case: '{printable(other.name)}' and '{printable(path.name)}'"
            raise InputError(what, where=root / folder, todo="Take one of them away")
    return files


def _refuse_channel(case: str, path: Path, scans: Mapping[str, Path]) -> None:
    """Raise for `x_0001` beside `x_0000`, as the index names one channel."""
    first, _, number = case.rpartition("_")
    if re.fullmatch(r"\d{4}", number) and first in scans:
        what = f"'{printable(path.name)}' is another channel of '{printable(scans[first].name)}'"
        todo = f"Take it away, or rename it; {INDEX} names one channel"
        raise InputError(what, where=path.parent, todo=todo)


def _nnunet_listed(root: Path, index: Mapping[str, Any]) -> Found:
    """Read the key `dataset`: case -> `images`, a list of one file per channel, and `label`."""
    wanted = {"dataset": index["dataset"]}
    listed = parse(dict[str, dict[PlainName, dict[str, Any]]], wanted, root / INDEX)["dataset"]
    found: Found = []
    for case, entry in listed.items():
        key, images, label = f"dataset.{case}", entry.get("images"), entry.get("label")
        if not isinstance(images, list) or len(images) != 1:
            what = f"{key}.images = {_short(images)}: wanted a list of one path, for the one channel"
            raise ConfigError(what, where=root / INDEX)
        part = _part(root, _named(root, images[0], f"{key}.images.0"))
        mask = None if label is None else _part(root, _named(root, label, f"{key}.label"))
        found.append((Scan(part, case), mask))
    _refuse_twice(root, found)
    return found


def _refuse_twice(root: Path, found: Found) -> None:
    """Raise if a list names one file twice: a case would be trained on another case's image or mask."""
    files = [part.files[0] for scan, mask in found for part in (scan.part, mask) if part is not None]
    twice = next((path for path, count in Counter(files).items() if count > 1), None)
    if twice is not None:
        what = f"names '{printable(os.fspath(twice.relative_to(root)))}' twice; wanted each file once"
        raise InputError(what, where=root / INDEX)


def _images(root: Path, name: str) -> Iterator[Path]:
    folder = root / name
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if _is_image(path))


def _is_image(path: Path) -> bool:
    return image_suffix(path) is not None and not path.name.startswith(".")
