"""Join the parts of a DICOM series that lies in several folders, as on some media: `DIR000`, `DIR001`."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from c3s3_seg.errors import C3S3Error
from c3s3_seg.io.reading import Reading

if TYPE_CHECKING:
    from c3s3_seg.io.dicom.header import Slice


@dataclass(frozen=True)
class FoundScan:
    """A scan without a name.

    Parameters
    ----------
    path, series, files, study
        Same as in `Case`.
    number
        Text that distinguishes it from the other volumes of its study.
    is_joined
        Whether its files lie in several folders below `path`, each of which would be a scan.
    """

    path: Path
    number: str = ""
    series: str = ""
    files: tuple[str, ...] = ()
    study: str = ""
    is_joined: bool = False


def joined(scans: Iterable[FoundScan], reading: Reading) -> list[FoundScan]:
    """Return the scans, with the parts of one series in neighbouring folders as one scan of these folders.

    They are parts if they are of one patient, study and series, no part holds all slices of another (a copy),
    and together they are one volume. The place of the scan is then the folder around them.
    """
    groups: dict[tuple[str, str, Path], list[FoundScan]] = defaultdict(list)
    every = list(scans)
    for scan in every:
        if scan.study and scan.files and os.path.isdir(scan.path):
            groups[scan.study, scan.series, scan.path.parent].append(scan)
    whole: dict[int, FoundScan] = {}
    for (study, series, around), parts in groups.items():
        files = _files_of(parts, series, around, reading) if len(parts) > 1 else ()
        if files:
            one = FoundScan(around, parts[0].number, series, files, study, is_joined=True)
            whole |= {id(part): one for part in parts}
    return list(dict.fromkeys(whole.get(id(scan), scan) for scan in every))


def _files_of(parts: Sequence[FoundScan], series: str, around: Path, reading: Reading) -> tuple[str, ...]:
    """Return the files of the parts relative to the folder around them; empty if they are not one volume."""
    from c3s3_seg.io.dicom.load import check
    from c3s3_seg.io.dicom.series import look_through

    known: dict[str, Path] = {}  # SOPInstanceUID -> file
    try:
        for part in parts:
            paths = [part.path / file for file in part.files]
            own = {item.text("SOPInstanceUID"): item.path for item in _slices(part.path, paths)}
            if not own or "" in own or own.keys() <= known.keys() or (known and known.keys() <= own.keys()):
                return ()
            both = own.keys() & known.keys()
            if not all(filecmp.cmp(own[uid], known[uid], shallow=False) for uid in both):
                return ()
            known |= own
        found = look_through(around, sorted(known.values()))
        if [item.key for item in found.series] != [series] or found.broken:
            return ()
        if any(len(place) > 1 for place in check(found.series[0], around, reading).places):
            return ()
    except (C3S3Error, OSError):
        return ()
    return tuple(str(path.relative_to(around)) for path in sorted(known.values()))


def _slices(root: Path, paths: Sequence[Path]) -> list[Slice]:
    from c3s3_seg.io.dicom.series import look_through

    return [item for series in look_through(root, paths).series for item in series.slices]
