"""Choose a DICOM series of those in a folder: by number, UID or rule, or because it is the only volume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from c3s3_seg.errors import InputError, listed
from c3s3_seg.io.cases import NoScanError
from c3s3_seg.io.dicom.header import Broken
from c3s3_seg.io.dicom.kind import class_name, has_slice_class
from c3s3_seg.io.dicom.series import Found, Series
from c3s3_seg.io.reading import Reading, SeriesRule, Wanted

HIDDEN = "hidden DICOM files, as an unfinished copy leaves"


def choose(found: Found, reading: Reading) -> tuple[Series, tuple[str, ...]]:
    """Return the series to read, and the notes about the choice.

    Raises
    ------
    InputError
        If there is no series or volume, several volumes and no choice, or the chosen one does not exist or
        has damaged files. A `NoScanError` if no volume fits a rule and nothing unreadable may be one.
    """
    if not found.series:
        _refuse_broken(found.broken, found.root)
        raise InputError("found no DICOM slices here", where=found.root)
    if isinstance(reading.series, SeriesRule):
        chosen = _only_fitting(found, reading.series)
    elif reading.series is not None:
        chosen = _by_name(found, str(reading.series))
    else:
        chosen = _only_volume(found, reading.rule)
    _refuse_broken([b for b in found.broken if b.may_be_of(chosen.uid)], found.root)
    return chosen, _notes(found, chosen)


def objection(found: Found, series: Series, wanted: Wanted) -> str:
    """Return why a series is not among those that `--series` requests; "" if it is."""
    if wanted is None:
        return ""
    if isinstance(wanted, SeriesRule):
        condition = wanted.objection(series.attributes)
        return f"it does not fit '{condition}'" if condition else ""
    return "" if series is _by_name(found, str(wanted)) else "another one was asked for"


def _only_volume(found: Found, rule: SeriesRule | None) -> Series:
    volumes = [s for s in found.series if s.is_volume]
    if len(volumes) > 1 and rule is not None:
        meant = [s for s in volumes if rule.takes(s.attributes)]
        volumes = meant or volumes
    if len(volumes) == 1:
        return volumes[0]
    _refuse_alone(found, volumes)
    raise InputError(
        f"found {len(volumes)} series that are volumes; wanted one. The series are {found.table}",
        where=found.root,
        todo="Choose one by its number or its UID (--series); `c3s3-seg inspect` says more of each"
        if volumes
        else "If one is a stack of slices all the same, name it: --series and its number",
    )


def _only_fitting(found: Found, rule: SeriesRule) -> Series:
    fitting = [s for s in found.series if s.is_volume and rule.takes(s.attributes)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:  # the series that is meant may be damaged
        known = {s.uid for s in found.series}
        _refuse_broken([b for b in found.broken if b.series_uid not in known], found.root)
        _refuse_alone(found, [s for s in found.series if s.is_volume])
    kind = InputError if fitting else NoScanError
    raise kind(
        f"found {len(fitting)} series that fit the rule '{rule}'; wanted one. The series are {found.table}",
        where=found.root,
        todo="`c3s3-seg inspect` with this rule says which condition each of them does not fulfil",
    )


def _by_name(found: Found, series: str) -> Series:
    for number, candidate in enumerate(found.series, 1):
        if series in (str(number), candidate.key):
            return candidate
    same = [n for n, candidate in enumerate(found.series, 1) if series and candidate.uid == series]
    what = f"the series '{series}' holds several volumes" if same else f"there is no series '{series}'"
    raise InputError(
        f"{what}. The series are {found.table}",
        where=found.root,
        todo=f"Give a number from 1 to {len(found.series)}, or a UID and what follows it: UID#echo 2"
        if same
        else f"Give a number from 1 to {len(found.series)} or a series UID",
    )


def _refuse_alone(found: Found, volumes: Sequence[Series]) -> None:
    alone = 0 if volumes else found.alone
    if alone:
        raise InputError(
            f"found no volume, but {alone} slices of one size and direction in as many series, one in each",
            where=found.root,
            todo="If they are one volume, have them exported again with one SeriesInstanceUID for all slices:"
            " programs that remove names may give each file one of its own",
        )


def _refuse_broken(broken: Iterable[Broken], root: Path) -> None:
    for item in broken:
        raise InputError(
            f"the file '{item.name}' {item.verdict}",
            where=root,
            todo="Have the series exported again" if item.whole else "Copy or export the series again",
        )


def _notes(found: Found, chosen: Series) -> tuple[str, ...]:
    notes = []
    if len(found.series) > 1:
        notes.append(f"series {found.series.index(chosen) + 1} of {len(found.series)} was taken: {chosen}")
    if chosen.localizers:
        notes.append(f"left out as localizers: {listed([s.name for s in chosen.localizers])}")
    if chosen.captures:
        notes.append(f"left out as secondary captures: {listed([s.name for s in chosen.captures])}")
    notes += [*chosen.notes, *_kind_notes(chosen)]
    if found.ignored:
        notes.append(f"ignored, not DICOM images: {listed(found.ignored)}")
    if found.hidden:
        notes.append(f"{HIDDEN}: {found.hidden}")
    if found.broken:
        notes.append(f"damaged files of other series: {listed([b.name for b in found.broken])}")
    return tuple(notes)


def _kind_notes(chosen: Series) -> list[str]:
    """Return notes on objects not classified by SOP class alone; counts, not file names: notes are stored."""
    notes = []
    if chosen.others:
        kinds = ", ".join(sorted({class_name(s) for s in chosen.others}))
        notes.append(f"left out, {len(chosen.others)} of another kind: {kinds}")
    count = len(chosen.slices)
    odd = [s for s in chosen.slices if not has_slice_class(s)]
    if odd:
        kinds = ", ".join(sorted({class_name(s) for s in odd}))
        notes.append(f"{len(odd)} of {count} slices were read by modality and place; their class: {kinds}")
    blank = sum(has_slice_class(s) and not s.text("SOPClassUID") for s in chosen.slices)
    if blank:
        notes.append(
            f"SOPClassUID is blank in {blank} of {count} slices, and was taken from the meta information"
        )
    return notes
