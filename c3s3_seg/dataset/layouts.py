"""Folders that somebody has put in order: what they hold is said by their lists, not searched for.

ours                dataset.json with `labelled`: its splits are kept
Decathlon           dataset.json with `training`: pairs of `image` and `label`
nnU-Net             dataset.json with `channel_names`; imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz
left atrium, h5     CASE/mri_norm2.h5, train.list, test.list: the benchmark of UA-MT and its successors
Pancreas-CT, h5     CASE_norm.h5, train.list, test.list: the same for the pancreas
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from c3s3_seg.dataset.discover import (
    Probe,
    Progress,
    Search,
    few_values,
    image_part,
    is_left_out,
    probes,
    silent,
    wanted_files,
    why_no_mask,
)
from c3s3_seg.dataset.index import IMAGES, INDEX, MASKS, DataSet, parse_labels
from c3s3_seg.dataset.items import Inventory, Mask, Pair, Part, Refused, Scan, Split, reason_of
from c3s3_seg.dataset.pairing import KEPT
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.files import read_json
from c3s3_seg.io.cases import scan_stem, walk_files
from c3s3_seg.io.image import image_stem, image_suffix, load_image

MODALITIES = {"MR": "MR", "MRI": "MR", "CT": "CT", "PET": "PT", "PT": "PT"}
ATRIUM_FILE, ATRIUM_MM = "mri_norm2.h5", (0.625, 0.625, 0.625)
PANCREAS_END, PANCREAS_MM = "_norm.h5", (1.0, 1.0, 1.0)

Found = list[tuple[Scan, Part | None]]  # a scan, and the mask that the layout gives to it


def read_layout(root: Path, search: Search, progress: Progress = silent) -> Inventory | None:
    """What a folder holds, if it is laid out in one of these ways; None if it is not.

    Parameters
    ----------
    root
        The folder.
    search
        What is left out, and how many processes look into the masks.
    progress
        Is told which mask is looked into.

    Raises
    ------
    InputError
        If an index or a list names what is not there, or several channels are wanted.
    """
    index = _index(root)
    labels: Mapping[str, int] = {}
    if index is None:
        found = _hdf5(root, search)
        if found is None:
            return None
    else:
        for key, read in (("labelled", _ours), ("training", _decathlon), ("channel_names", _nnunet)):
            if key in index:
                found = read(root, index)
                break
        else:
            return None
        labels = _labels(index, root / INDEX)
    passed = {"test images of the layout": n} if (n := _test_images(root, index)) else {}
    return _inventory(root, found, labels, passed, search, progress)


def _inventory(
    root: Path,
    found: Found,
    labels: Mapping[str, int],
    passed: Mapping[str, int],
    search: Search,
    progress: Progress,
) -> Inventory:
    """Look up the values in the masks, so that what they do not agree in is said before anything is done."""
    taken = [(scan, part) for scan, part in found if not is_left_out(scan.part.place, search.leave_out)]
    files = [part.files[0] for _, part in taken if part is not None and part.kind == "image"]
    seen = dict(probes(files, search, progress))
    pairs, refused = [], []
    for scan, part in taken:
        if part is None or is_left_out(part.place, search.leave_out):
            pairs.append(Pair(scan))
            continue
        values = _values(part, seen)
        if isinstance(values, tuple):
            pairs.append(Pair(scan, Mask(part, None, values)))
        else:
            refused.append(Refused(part.place, values + KEPT))
            pairs.append(Pair(scan))
    return Inventory(tuple(pairs), tuple(refused), dict(passed), labels)


def _values(part: Part, seen: Mapping[Path, Probe | str]) -> tuple[int, ...] | str:
    """The foreground values of a mask, or what is wrong with it."""
    probe = seen.get(part.files[0])
    if isinstance(probe, str):
        return probe
    if probe is not None and probe.values is not None:
        return probe.values
    try:
        volume = load_image(part.files[0]) if probe is not None else part.scan(Path(), frozenset())
    except C3S3Error as error:
        return reason_of(error)
    values = few_values(volume.array)
    return f"it {why_no_mask(volume)}" if values is None else values


def _index(root: Path) -> dict[str, Any] | None:
    path = root / INDEX
    if not path.is_file():
        return None
    data = read_json(path)
    return data if isinstance(data, dict) else None


def _labels(index: Mapping[str, Any], path: Path) -> dict[str, int]:
    found = index.get("labels", {})
    if isinstance(found, dict) and "ignore" in found:
        what = "its label 'ignore' marks voxels that are not to be learnt from, which this cannot do"
        raise InputError(what, where=path, todo="Leave those cases out, or give those voxels a label")
    return parse_labels(found, path)


def _test_images(root: Path, index: Mapping[str, Any] | None) -> int:
    folder = root / "imagesTs"
    if index is None or "labelled" in index or not folder.is_dir():
        return 0
    return sum(image_suffix(path) is not None for path in walk_files(folder))


def _modality(index: Mapping[str, Any], key: str) -> str:
    """The one channel's modality, as DICOM has it."""
    found = index.get(key)
    if isinstance(found, dict):
        found = next(iter(found.values()), "")
    return MODALITIES.get(str(found).strip().upper(), "")


def _ours(root: Path, index: Mapping[str, Any]) -> Found:
    data = DataSet.load(root)
    found: Found = []
    kinds: tuple[Split, ...] = ("labelled", "unlabelled", "validation", "test")
    for split in kinds:
        for case in getattr(data.splits, split):
            record = data.records.get(case)
            patient = f"p {record.patient}" if record else ""
            part = image_part(data.scan(case), root)
            mask = image_part(data.mask(case), root) if split != "unlabelled" or data.has_mask(case) else None
            found.append(
                (Scan(part, case, patient, modality=_modality(index, "modality"), split=split), mask)
            )
    return found


def _decathlon(root: Path, index: Mapping[str, Any]) -> Found:
    pairs = index["training"]
    if not isinstance(pairs, list):
        raise InputError("its key 'training' is no list", where=root / INDEX)
    found: Found = []
    for item in pairs:
        entry = item if isinstance(item, dict) else {"image": item}
        image, label = (entry.get(key) for key in ("image", "label"))
        part = image_part(_named(root, image), root)
        mask = image_part(_named(root, label), root) if label else None
        stem = image_stem(part.files[0])
        found.append((Scan(part, stem.removesuffix("_0000"), modality=_modality(index, "modality")), mask))
    listed = {scan.part.files[0] for scan, _ in found}
    for path in _images(root / IMAGES):
        if path not in listed:  # scans without a mask are in no list
            found.append(
                (Scan(image_part(path, root), image_stem(path), modality=_modality(index, "modality")), None)
            )
    return found


def _named(root: Path, name: Any) -> Path:
    """A file that an index names, if it is there and below its folder."""
    path = root / str(name)
    inside = path.resolve().is_relative_to(root.resolve())
    if not inside or image_suffix(path) is None or not path.is_file():
        raise InputError(f"names '{name}', which is no image file below its folder", where=root / INDEX)
    return path


def _nnunet(root: Path, index: Mapping[str, Any]) -> Found:
    channels = index["channel_names"]
    if len(channels) != 1:
        what = f"has {len(channels)} channels ({', '.join(map(str, channels.values()))}); one is read"
        todo = "Make a data set of one of them: its files, CASE_0000, with channel_names of one entry"
        raise InputError(what, where=root / INDEX, todo=todo)
    masks = {scan_stem(image_stem(path)): path for path in _images(root / MASKS)}
    found: Found = []
    for path in _images(root / IMAGES):
        stem = image_stem(path).removesuffix("_0000")
        mask = image_part(masks[stem], root) if stem in masks else None
        scan = Scan(image_part(path, root), stem, modality=_modality(index, "channel_names"))
        found.append((scan, mask))
    return found


def _images(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if _is_image(path))


def _is_image(path: Path) -> bool:
    return image_suffix(path) is not None and not path.name.startswith(".")


def _hdf5(root: Path, search: Search) -> Found | None:
    """Cases in the benchmarks' HDF5 files; those of test.list are for the very end."""
    files = list(wanted_files(root, search.leave_out))
    cases: dict[str, tuple[Path, tuple[float, float, float], str]] = {}
    for path in files:
        if path.name == ATRIUM_FILE:
            cases[path.parent.name] = (path, ATRIUM_MM, "MR")
        elif path.name.endswith(PANCREAS_END):
            cases[path.name.removesuffix(PANCREAS_END)] = (path, PANCREAS_MM, "CT")
    if not cases:
        return None
    tests = {line for path in files if path.name == "test.list" for line in _lines(path)}
    absent = sorted(tests - set(cases))
    if absent:
        raise InputError(
            f"test.list names {len(absent)} cases that are not there, '{absent[0]}' for one", where=root
        )
    found: Found = []
    for case, (path, spacing_mm, modality) in sorted(cases.items()):
        parts = [
            Part("hdf5", os.fspath(path.relative_to(root)), (path,), key, spacing_mm)
            for key in ("image", "label")
        ]
        split: Split = "test" if case in tests else ""
        found.append((Scan(parts[0], case, modality=modality, split=split), parts[1]))
    return found


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name = line.strip().removesuffix(PANCREAS_END)
        if name:
            yield name
