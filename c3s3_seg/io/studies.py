"""Turn places into cases: the requested series of every DICOM study, and why the others are skipped."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.cases import Case, RealPaths, Skipped, stem_of, unique_names
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.io.image.files import image_suffix
from c3s3_seg.io.places import find_places, folder_of
from c3s3_seg.io.reading import Reading, SeriesRule
from c3s3_seg.io.split_series import FoundScan, joined
from c3s3_seg.system.names import absolute, folded
from c3s3_seg.system.progress import Progress, silent

if TYPE_CHECKING:
    from c3s3_seg.io.dicom.header import Broken
    from c3s3_seg.io.dicom.series import Found, Series

LARGEST_NUMBER = 2**31 - 1  # largest SeriesNumber in DICOM (PS3.5, 6.2, IS): it goes into file names
MOST_TOLD = 5  # reasons listed in one line
SINGLE = "a single image"  # same text as in `Series.kind`
Known = Mapping[str, Sequence[Case]]  # series, or absolute path if there is no series -> cases


@dataclass(frozen=True)
class Scans:
    """The cases of a run, and the inputs that are not cases."""

    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...] = ()


def find_scans(
    paths: Sequence[str | Path],
    reading: Reading,
    known: Callable[[], Known] = dict,
    progress: Progress = silent,
) -> Scans:
    """Find the cases at these paths: each image file, and each DICOM series that is requested.

    Parameters
    ----------
    paths
        Same as in `find_cases`; studies are found at any depth.
    reading
        Series to take from each study. A rule takes all series that fit it, in every study; without a
        rule all volumes of a study are cases, or those that the model's own rule takes.
    known
        Called to get the cases of earlier runs, which keep their names even if other scans were added since.
    progress
        Called with a text, the number of the place whose headers are read, and the number of places.

    Raises
    ------
    InputError
        If there is no case.
    """
    numbered = isinstance(reading.series, int) or str(reading.series).isdigit()
    places = find_places(paths, numbered=numbered)
    skipped = list(places.skipped)
    real = RealPaths()
    found: dict[tuple[str, str], FoundScan] = {}
    for number, place in enumerate(places.found, 1):
        progress("reading headers", number, len(places.found))
        for scan in _scans(place, reading, skipped, single=len(places.found) == 1):
            first = real.path(_first(scan))
            same = found.setdefault((first, scan.series), scan)
            if same is not scan:
                skipped.append(Skipped(str(scan.path), f"the same scan as {same.path}"))
    if not found:
        _refuse(paths, skipped)
    return Scans(_named(joined(found.values(), reading), real, known), tuple(skipped))


def series_files(path: Path, series: str) -> tuple[Path, ...]:
    """Return the files of a series of a study, same as in `Case.paths`; empty if there is no such series.

    Of a series whose other files are gone or damaged, these are the damaged files that may be of it.
    """
    from c3s3_seg.io.dicom.load import find_series

    found, _ = find_series(path, Reading())
    chosen = next((item for item in found.series if item.key == series), None)
    if chosen is not None:
        return tuple(_files(found, chosen))
    uid = series.partition("#")[0]
    return tuple(found.root / str(b.name) for b in found.broken if b.may_be_of(uid))


def _scans(place: Path, reading: Reading, skipped: list[Skipped], *, single: bool) -> Iterator[FoundScan]:
    """Yield the scans at one place. A place that cannot be inspected is a scan that fails when read."""
    if image_suffix(place) and reading.series is not None and not single and os.path.exists(place):
        skipped.append(Skipped(str(place), "an image file, which has no series to choose from"))
        return
    if image_suffix(place) or is_zip(place) or not os.path.exists(place):
        yield FoundScan(place)
        return
    from c3s3_seg.io.dicom.load import find_series
    from c3s3_seg.io.dicom.series_choice import choose

    try:
        found, reading = find_series(place, reading)
    except C3S3Error:
        yield FoundScan(place)
        return
    taken = _taken(found, reading)
    alone = not taken and place.is_dir() and reading.series is None and found.alone > 0
    if place.is_dir():
        rest = _rest(place, found, taken, reading)
        skipped += (item for item in rest if not (alone and item.reason == SINGLE))
    if not taken and single:
        choose(found, reading)  # raises with the reason
    if alone or (not taken and any(not _is_of(item, found.series) for item in found.broken)):
        yield FoundScan(place)  # an unreadable file, or slices in separate series, may have been the scan
    yield from _each(place, found, taken)


def _each(place: Path, found: Found, taken: Sequence[Series]) -> Iterator[FoundScan]:
    root = place if place.is_dir() else place.parent
    volumes = [series for series in found.series if series.is_volume or series in taken]
    several = len(volumes) > 1 and (place.is_dir() or len(taken) > 1)  # one file stands for its series
    numbers = Counter(map(_number, volumes))
    for series in taken:
        label = _number(series)
        if not label or numbers[label] > 1:
            label += ("-" if label else "") + hashlib.sha256(series.key.encode()).hexdigest()[:6]
        files = tuple(os.path.relpath(path, root) for path in _files(found, series))
        study = _study_of(series) or absolute(place)
        yield FoundScan(place, label if several else "", series.key, files, study)


def _study_of(series: Series) -> str:
    """Return a hash of study and patient, as programs may give several patients one UID; "" if no UID."""
    if not series.study:
        return ""
    patient = series.slices[0].text("PatientID")
    return hashlib.sha256(f"{series.study}\0{patient}".encode(errors="replace")).hexdigest()


def _number(series: Series) -> str:
    """Return the series number as `s3`; empty if the series has no number."""
    number = series.slices[0].number("SeriesNumber", -1)
    return f"s{number}" if 0 <= number <= LARGEST_NUMBER else ""


def _taken(found: Found, reading: Reading) -> list[Series]:
    """Return the requested series of a study, also damaged ones, which fail when they are read."""
    if reading.series is not None and not isinstance(reading.series, SeriesRule):
        wanted = str(reading.series)
        return [s for n, s in enumerate(found.series, 1) if wanted in (str(n), s.key, s.uid)]
    damaged = {item.series_uid for item in found.broken}
    volumes = [s for s in found.series if s.is_volume or (s.uid and s.uid in damaged)]
    if reading.series is not None:
        return [s for s in volumes if reading.series.takes(s.attributes)]
    meant = [s for s in volumes if reading.rule is None or reading.rule.takes(s.attributes)]
    return meant if meant and len(volumes) > 1 else volumes


def _rest(place: Path, found: Found, taken: Sequence[Series], reading: Reading) -> Iterator[Skipped]:
    """Yield the rest of a study: its other series, files that are no images, and damaged files."""
    for number, series in enumerate(found.series, 1):
        if series not in taken:
            yield Skipped(str(place), _reason(series, reading), number)
    from c3s3_seg.io.dicom.series_choice import HIDDEN

    objects = sum(is_dicom(found.root / str(name)) for name in found.ignored)
    counts = {
        "DICOM objects without an image": objects,
        "files that are no DICOM": len(found.ignored) - objects,
        "damaged files of series that are not read": sum(not _is_of(item, taken) for item in found.broken),
        HIDDEN: found.hidden,
    }
    yield from (Skipped(str(place), what, files=count) for what, count in counts.items() if count)


def _reason(series: Series, reading: Reading) -> str:
    if not series.is_volume:
        return series.kind
    if isinstance(reading.series, SeriesRule):
        return f"it does not fit '{reading.series.objection(series.attributes)}'"
    if reading.series is None and reading.rule is not None:
        return f"it does not fit '{reading.rule.objection(series.attributes)}', as the model wants it"
    return "another one was asked for"


def _is_of(item: Broken, several: Sequence[Series]) -> bool:
    """Return whether a damaged file belongs, or may belong, to one of the series."""
    return any(item.may_be_of(series.uid) for series in several)


def _files(found: Found, series: Series) -> list[Path]:
    """Return all files of a series, including its other parts, its localizers and damaged files."""
    same = [s for s in found.series if s.uid and s.uid == series.uid] or [series]
    files = {i.path for s in same for i in (*s.slices, *s.localizers, *s.captures, *s.others)}
    return sorted(files | {found.root / str(b.name) for b in found.broken if _is_of(b, [series])})


def _named(found: Sequence[FoundScan], real: RealPaths, known: Callable[[], Known]) -> tuple[Case, ...]:
    """Return cases with unique names: from an earlier run, else from the folder or file and the series."""
    kept = _kept(found, known())
    stems = [(folder_of(scan.path, real), _stem(scan)) for scan in found]
    # A name depends on all scans, not on which of them an interrupted run or another shard has recorded.
    new = {n: name for n, name in enumerate(unique_names(stems)) if n not in kept}
    taken = {folded(name) for name in kept.values()}
    clashing = [n for n, name in new.items() if folded(name) in taken]
    free = [name for name in new.values() if folded(name) not in taken]
    other = unique_names([stems[n] for n in clashing], [*kept.values(), *free])
    names = {**new, **kept, **dict(zip(clashing, other, strict=True))}
    return tuple(
        Case(names[n], scan.path, scan.series, scan.files, scan.study) for n, scan in enumerate(found)
    )


def _kept(found: Sequence[FoundScan], known: Known) -> dict[int, str]:
    """Return position -> earlier name of a scan at the same path, or of a series above or below it."""
    kept: dict[int, str] = {}
    taken: set[str] = set()
    for n, scan in enumerate(found):
        cases = known.get(scan.series or absolute(scan.path), ())
        # The parts of a scan in several folders may have had names and masks of their own.
        near = [c for c in cases if (_is_same if scan.is_joined else _is_near)(c.path, scan.path)]
        names = (case.name for case in near)
        name = next((name for name in names if name not in taken), None)
        if name is not None:
            kept[n] = name
            taken.add(name)
    return kept


def _stem(scan: FoundScan) -> str:
    return stem_of(scan.path) + (f"_{scan.number}" if scan.number else "")


def _is_same(one: Path, other: Path) -> bool:
    return absolute(one) == absolute(other)


def _is_near(one: Path, other: Path) -> bool:
    """Return whether two paths are the same, or one is above the other."""
    first, second = Path(absolute(one)), Path(absolute(other))
    return first == second or first in second.parents or second in first.parents


def _first(scan: FoundScan) -> Path:
    """Return the first file of the scan, or its own path if no files are known."""
    if not scan.files:
        return scan.path
    return (scan.path if scan.path.is_dir() else scan.path.parent) / scan.files[0]


def _refuse(paths: Sequence[str | Path], skipped: Sequence[Skipped]) -> NoReturn:
    reasons = list(dict.fromkeys(item.reason for item in skipped))
    told = "; ".join(reasons[:MOST_TOLD]) + ("; ..." if len(reasons) > MOST_TOLD else "")
    where = str(paths[0]) if len(paths) == 1 else None
    raise InputError(f"found nothing to segment; {len(skipped)} passed over: {told}", where=where)
