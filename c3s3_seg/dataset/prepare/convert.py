"""Convert a case of the source for the data set: read, check, write, record. Runs in a worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from c3s3_seg.dataset.check.case_faults import scan_defect
from c3s3_seg.dataset.index import CaseRecord
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare.inventory import Part, reason_of
from c3s3_seg.dataset.voxels import voxels_sha256
from c3s3_seg.errors import C3S3Error, InputError, public
from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.io import save
from c3s3_seg.io.formats import is_own_result
from c3s3_seg.io.hashes import Watch, content_sha256
from c3s3_seg.io.reading import is_interpolated
from c3s3_seg.system.choices import Repair
from c3s3_seg.system.files import make_own_folder, write_whole
from c3s3_seg.system.ownership import PROGRAM, TODO, check_place
from c3s3_seg.system.reading import read_json, sha256
from c3s3_seg.system.schema import dump, parse

STATE = ".prepare"  # folder in the data set during a run: the earlier index, and the records
RECORDS = "cases"  # folder of finished records, apart from the index: a case may be called `dataset`
COMING = "masks"  # folder of the hashes of masks that are about to be written, of each case a file
SUFFIX = ".nii.gz"
HOLES = (
    "it was drawn on the acquired slices, and others between them were interpolated, where it would be"
    " background. Export the whole series again."
)


@dataclass(frozen=True)
class ConvertJob:
    """One case, as sent to a worker, with a pseudonym in place of the patient's id.

    Parameters
    ----------
    case, patient
        Name of the case, and pseudonym of the patient.
    scan, mask
        Parts of the source.
    note
        Note on the pair to be recorded.
    labels
        Name -> value.
    root
        Folder of the source.
    image, label
        Files to write.
    state
        Folder of the run's state, with `RECORDS` and `COMING`.
    settings
        Hash of the settings that the files depend on.
    sources
        Hashes of the source, if known already.
    known
        Record of the case from an earlier run.
    repair
        Repairs that are allowed.
    """

    case: str
    patient: str
    scan: Part
    mask: Part | None
    note: str
    labels: Labels
    root: Path
    image: Path
    label: Path
    state: Path
    settings: str
    sources: Mapping[str, str]
    known: CaseRecord | None
    repair: frozenset[Repair]


@dataclass(frozen=True)
class Made:
    """A case in the data set: its record; whether it was kept; the reason if its mask was refused."""

    record: CaseRecord
    kept: bool = False
    mask_refused: str = ""


def convert(work: ConvertJob) -> Made | str:
    """Convert a case, or keep it if source and settings are unchanged; return a text if this fails."""
    try:
        if work.known is not None:
            sources = work.sources or source_hashes(work.scan, work.mask)
            if _is_whole(work, work.known, sources):
                places = _places(work, work.known.sha256)
                return Made(replace(work.known, patient=work.patient, source=places), kept=True)
        return _make(work)
    except MemoryError:
        return "it does not fit into memory"
    except Exception as error:  # one bad case must not stop the others
        return reason_of(error)


def source_hashes(scan: Part, mask: Part | None) -> dict[str, str]:
    """Return the sha256 of a case's sources: `image` and, if there is a mask, `label`.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    found = {"image": content_sha256(scan.files, scan.phase)}
    if mask is not None:
        found["label"] = _mask_sha256(mask)
    return found


def _mask_sha256(mask: Part) -> str:
    if mask.kind != "structures":
        return content_sha256(mask.files, mask.phase)
    each = sorted(f"{name} {sha256(path)}" for name, path in zip(mask.names, mask.files, strict=True))
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def _is_whole(work: ConvertJob, known: CaseRecord, sources: Mapping[str, str]) -> bool:
    """Return whether files of an earlier run are unchanged, and their sources and settings the same."""
    if known.source_sha256 != sources or known.settings != work.settings:
        return False
    if "label" in known.sha256 and _has_holes(work.mask, known.notes):  # of a version that did not refuse it
        return False
    files = {"image": work.image, "label": work.label}
    if not known.sha256.keys() <= files.keys():
        return False
    return all(files[key].is_file() and sha256(files[key]) == known.sha256[key] for key in known.sha256)


def _make(work: ConvertJob) -> Made:
    read = [part for part in (work.scan, work.mask) if part is not None]
    watched = [Watch(part.files[0], part.files) for part in read]
    scan = work.scan.scan(work.root, work.repair)
    if scan.array.min() == scan.array.max():
        raise InputError(f"all its voxels are {scan.array.flat[0]}")
    defect = scan_defect(scan)
    if defect is not None:
        raise InputError(defect.found)
    mask, refused = _mask(work, scan)
    sources = source_hashes(work.scan, work.mask)
    for watch in watched:  # the hashes must be those of the files as read
        watch.check()
    notes = [*scan.source.notes, *(mask.source.notes if mask is not None else ()), work.note]
    hashes = _write(work, scan, mask)
    values: tuple[int, ...] = ()
    if mask is None:
        sources.pop("label", None)
    else:
        values = tuple(int(v) for v in np.unique(mask.array) if v)
    record = CaseRecord(
        work.patient,
        hashes,
        _places(work, hashes),
        sources,
        _public(notes),
        values=values,
        settings=work.settings,
        voxels_sha256=voxels_sha256(scan),
    )
    write_whole(work.state / RECORDS / f"{work.case}.json", json.dumps(dump(record)).encode())
    return Made(record, mask_refused=refused)


def _places(work: ConvertJob, keys: Collection[str]) -> dict[str, str]:
    """Return the places of image and label for the index, without the names of DICOM folders."""
    places = {"image": work.scan.public}
    if work.mask is not None:
        places["label"] = work.mask.public_of(work.scan)
    return {key: place for key, place in places.items() if key in keys}


def _write(work: ConvertJob, scan: Volume, mask: Volume | None) -> dict[str, str]:
    """Write the image and, if there is one, the mask; return their sha256 as `image` and `label`."""
    make_own_folder(work.image.parent)
    _check_places(work)
    save(scan.geometry.volume(_smallest(scan.array)), work.image, note=PROGRAM)
    hashes = {"image": sha256(work.image)}
    if mask is None:
        work.label.unlink(missing_ok=True)  # of an earlier run in which the case had a mask
    else:
        make_own_folder(work.label.parent)
        # Without its source: image and label get the same forms, whatever forms the files had.
        save(
            mask.geometry.volume(mask.array),
            work.label,
            note=PROGRAM,
            ready=lambda whole: _announce(work, whole),
        )
        hashes["label"] = sha256(work.label)
    return hashes


def _announce(work: ConvertJob, mask: Path) -> None:
    """Note the hash of a mask before it takes its place: after a kill, the next run knows whose it is."""
    before = [sha256(work.label)] if work.label.is_file() else []  # `_check_places` has found it to be ours
    write_whole(_announced(work), json.dumps([*before, sha256(mask)]).encode())


def _announced(work: ConvertJob) -> Path:
    return work.state / COMING / f"{work.case}.json"


def _own_masks(work: ConvertJob) -> set[str]:
    """Return the hashes of the case's mask as earlier runs recorded it, or were about to write it."""
    found = set() if work.known is None else {work.known.sha256.get("label", "")}
    with suppress(C3S3Error):  # no run was killed, or it was before the mask
        found |= set(parse(tuple[str, ...], read_json(_announced(work)), _announced(work)))
    return found


def _check_places(work: ConvertJob) -> None:
    """Refuse to overwrite or remove another program's file, or a mask that somebody has edited.

    A mask is known by its hash alone: a program that edits a mask may keep the header that names its maker.

    Raises
    ------
    InputError
        If there is such a file, or a link.
    """
    for key, path in (("image", work.image), ("label", work.label)):
        recorded = work.known is not None and key in work.known.sha256
        if path.is_symlink() or not path.is_file():
            check_place(path)
        elif key == "image" and not recorded and not is_own_result(path):
            raise InputError("there is a file that an earlier run did not write", where=path, todo=TODO)
        elif key == "label" and sha256(path) not in _own_masks(work):
            what = "was changed since it was written" if recorded else "no earlier run has a record of"
            raise InputError(f"there is a mask that {what}", where=path, todo=TODO)


def _mask(work: ConvertJob, scan: Volume) -> tuple[Volume | None, str]:
    """Return the mask on the scan's grid; or None, with the reason if a mask was refused."""
    if work.mask is None:
        return None, ""
    if _has_holes(work.mask, scan.source.notes):
        return None, HOLES
    part = work.mask
    names = part.names if part.drawing is None else part.drawing.names
    try:
        values = work.labels.of_names(names, part.files[0]) if names or part.drawing else {}
        mask = work.mask.mask(scan.geometry, values, work.repair)
        work.labels.check_values(np.unique(mask.array).tolist())
    except (C3S3Error, ValueError) as error:
        return None, reason_of(error)
    return replace(mask, array=mask.array.astype(np.min_scalar_type(int(mask.array.max())))), ""


def _has_holes(mask: Part | None, notes: Iterable[str]) -> bool:
    """Return whether a mask was drawn on fewer slices than a scan with these notes has."""
    return mask is not None and mask.drawing is not None and is_interpolated(notes)


def _smallest(array: Array) -> Array:
    """Return whole float32 numbers, as read from DICOM, as int16 if they fit: int16 compresses better."""
    small = np.iinfo(np.int16)
    fits = array.dtype == np.float32 and array.min() >= small.min and array.max() <= small.max
    if not (fits and np.array_equal(array, np.rint(array))):
        return array
    return array.astype(np.int16)


def _public(notes: list[str]) -> tuple[str, ...]:
    """Return the notes without the names of DICOM files, which may be those of patients."""
    return tuple(public(note) for note in notes if note)
