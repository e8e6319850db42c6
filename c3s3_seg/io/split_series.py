"""Join the parts of a DICOM series that lies in several folders, as on some media: `DIR000`, `DIR001`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.errors import C3S3Error


@dataclass(frozen=True)
class FoundScan:
    """A scan without a name; `number` distinguishes it from the other volumes of its study."""

    path: Path
    number: str = ""
    series: str = ""
    files: tuple[str, ...] = ()
    study: str = ""


def joined(scans: Iterable[FoundScan]) -> list[FoundScan]:
    """Return the scans, with the parts of one series in neighbouring folders as one scan of these folders.

    Copies of a series stay scans of their own. Parts are those of one patient, study and series that have
    neither an instance nor a place in common; the place of the scan is then the folder around them.
    """
    groups: dict[tuple[str, str, Path], list[FoundScan]] = defaultdict(list)
    every = list(scans)
    for scan in every:
        if scan.study and scan.files and os.path.isdir(scan.path):
            groups[scan.study, scan.series, scan.path.parent].append(scan)
    whole: dict[int, FoundScan] = {}
    for (study, series, around), parts in groups.items():
        if len(parts) > 1 and _are_parts(parts):
            files = tuple(str(Path(part.path.name, file)) for part in parts for file in part.files)
            one = FoundScan(around, parts[0].number, series, files, study)
            whole |= {id(part): one for part in parts}
    return list(dict.fromkeys(whole.get(id(scan), scan) for scan in every))


def _are_parts(scans: Sequence[FoundScan]) -> bool:
    """Return whether no two of the scans have an instance or a place in common."""
    seen: set[str] = set()
    for scan in scans:
        own = _instances_and_places(scan)
        if not own or seen & own:
            return False
        seen |= own
    return True


def _instances_and_places(scan: FoundScan) -> set[str]:
    """Return the SOPInstanceUIDs and positions of the slices of a scan; empty if they cannot be read."""
    from c3s3_seg.io.dicom.series import look_through

    try:
        found = look_through(scan.path, [scan.path / file for file in scan.files])
    except C3S3Error:
        return set()
    slices = [item for series in found.series for item in series.slices]
    keys = ("SOPInstanceUID", "ImagePositionPatient")
    texts = {item.text(key) for item in slices for key in keys}
    return set() if "" in texts else texts
