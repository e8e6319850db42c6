"""Find DICOM series and the masks drawn on them, from the headers of all files of a folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath

from c3s3_seg.dataset.prepare.inventory import Discovery, Mask, Part, RefusedFile, Scan, reason_of
from c3s3_seg.dataset.prepare.pairing import trail
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io.detect import is_dicom
from c3s3_seg.io.dicom.header import Broken
from c3s3_seg.io.dicom.load import check
from c3s3_seg.io.dicom.series import Found, Series
from c3s3_seg.io.dicom_objects.segmentation import SEG_CLASSES, look_at_drawing
from c3s3_seg.io.reading import Reading, SeriesRule
from c3s3_seg.system.choices import Repair


def find_scans(found: Found, rule: SeriesRule | None, repair: frozenset[Repair]) -> Discovery:
    """Return the series that are volumes, by headers alone, and refuse damaged files that belong to none.

    Parameters
    ----------
    found
        Result of `look_through`.
    rule
        Rule for the series to take; None takes all.
    repair
        Repairs that are allowed.
    """
    files = _files_of(found)
    damaged, strays = _damage(found)
    patients = _patients(found.series)
    discovery = Discovery(refused=strays)
    for number, series in enumerate(found.series):
        place = f"{_folder(series, found.root)}: {series}"
        if _is_seg(series):
            continue
        if not series.is_volume:
            discovery.passed["DICOM series that are no volumes (localizers, single images)"] += 1
        elif not _is_wanted(series, rule):
            discovery.passed["DICOM series that are not wanted"] += 1
        elif number in damaged:
            discovery.refused.append(RefusedFile(place, damaged[number]))
        else:
            try:
                part = Part("dicom", place, tuple(files[_group(series)]), series.key)
                discovery.scans.append(_scan(series, part, patients[number], found.root, repair))
            except C3S3Error as error:
                discovery.refused.append(RefusedFile(place, reason_of(error)))
    return discovery


def find_drawings(found: Found, rule: SeriesRule | None) -> Discovery:
    """Return the SEG and RTSTRUCT files that were read; those of unwanted series are passed over."""
    discovery = Discovery()
    unwanted = {series.uid for series in found.series if not _is_wanted(series, rule)}
    segs = [(item.path, item.name) for series in found.series if _is_seg(series) for item in series.slices]
    others = [(path, name) for name in found.ignored if is_dicom(path := found.root / name)]
    for path, place in (*segs, *others):
        try:
            drawing = look_at_drawing(path)
        except InputError as error:
            discovery.refused.append(RefusedFile(place, reason_of(error)))
            continue
        if drawing is None:
            discovery.passed["DICOM objects of other kinds"] += 1
        elif drawing.series and drawing.series <= unwanted:
            discovery.passed["masks of DICOM series that are not wanted"] += 1
        else:
            discovery.masks.append(Mask(Part("drawing", place, (path,), drawing=drawing)))
    return discovery


def _is_seg(series: Series) -> bool:
    return series.slices[0].text("SOPClassUID") in SEG_CLASSES


def _is_wanted(series: Series, rule: SeriesRule | None) -> bool:
    return rule is None or rule.takes(series.attributes)


def _scan(series: Series, part: Part, patient: str, root: Path, repair: frozenset[Repair]) -> Scan:
    placed = check(series, root, Reading(series.key, repair))
    first = series.slices[0]
    grid = None
    if placed.even and placed.upright:  # otherwise there is no grid before the repair
        shape = first.number("Columns", 0), first.number("Rows", 0), len(placed.places)
        grid = Geometry(shape, placed.affine, first.text("FrameOfReferenceUID") or None)
    return Scan(
        part,
        patient=patient,
        grid=grid,
        modality=series.modality.replace("-", ""),
        series=series.uid,
        slices=frozenset(filter(None, (item.text("SOPInstanceUID") for item in series.slices))),
        trail=trail(PurePath(_folder(series, root))),
    )


def _patients(every: Sequence[Series]) -> list[str]:
    """Return the patient of each series: the id; without id the name, and without name the study.

    A study has one patient, so a series without an id takes the id of the others in its study. Extra spaces
    and letter case are ignored, as consoles write one id differently.
    """
    found = ["" for _ in every]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        own, of_study = [_stated(series, keyword) for series in every], dict[str, str]()
        spelt: dict[str, str] = {}
        for series, value in zip(every, own, strict=True):
            if value:
                spelling = spelt.setdefault(value.casefold(), value)
                of_study.setdefault(series.study, f"{keyword} {spelling}")
        for n, (series, value) in enumerate(zip(every, own, strict=True)):
            stated = f"{keyword} {spelt[value.casefold()]}" if value else ""
            found[n] = found[n] or stated or (of_study.get(series.study, "") if series.study else "")
    return found


def _stated(series: Series, keyword: str) -> str:
    return " ".join(series.slices[0].text(keyword).split())


def _group(series: Series) -> str:
    """Return the key that all parts of one series share."""
    return series.uid or os.fspath(series.slices[0].path.parent)


def _files_of(found: Found) -> dict[str, list[Path]]:
    """Return all files of each series, with its other parts and localizers: reading needs them all."""
    files: dict[str, set[Path]] = defaultdict(set)
    for series in found.series:
        files[_group(series)] |= {item.path for item in (*series.slices, *series.localizers)}
    return {key: sorted(paths) for key, paths in files.items()}


def _folder(series: Series, root: Path) -> str:
    """Return the folder that all slices lie in, relative to the source."""
    return os.path.relpath(os.path.commonpath([item.path.parent for item in series.slices]), root)


def _damage(found: Found) -> tuple[dict[int, str], list[RefusedFile]]:
    """Return series number -> its damage, and the damaged files that belong to no series."""
    damaged: dict[int, str] = {}
    strays = []
    for item in found.broken:
        reason = f"the file '{item.name}' {item.verdict}. Copy or export it again"
        hits = _victims(item, found)
        damaged |= dict.fromkeys(hits, reason)
        if not hits:
            strays.append(RefusedFile(item.name, f"it {item.verdict}. Copy or export it again"))
    return damaged, strays


def _victims(item: Broken, found: Found) -> list[int]:
    """Return the series of a damaged file: the series that it names, else the volumes in its folder."""
    if item.series_uid:
        return [n for n, series in enumerate(found.series) if item.may_be_of(series.uid)]
    folder = (found.root / item.name).parent
    return [n for n, s in enumerate(found.series) if s.is_volume and s.slices[0].path.parent == folder]
