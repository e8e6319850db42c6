"""Which DICOM series lie in a folder, from the headers: volumes, what is left aside, what is broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import walk_files
from c3s3_seg.io.sniff import DICOM_SUFFIXES, PREFIX_END, begins_as_dicom

_STORAGE = "1.2.840.10008.5.1.4.1.1."
SLICE_CLASSES = {_STORAGE + end for end in ("2", "4", "128")}  # CT, MR, PET: one slice a file
FRAME_CLASSES = {
    _STORAGE + end for end in ("2.1", "2.2", "4.1", "4.4", "128.1", "130")
}  # enhanced CT, MR, PET
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"

# Only these are read from a header: a private header can be a hundred times as long.
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType", "Rows",
    "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "FrameOfReferenceUID", "PatientID", "PatientName",
    "ModalityLUTSequence", "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue",
    "AcquisitionNumber", "TriggerTime", "InstanceNumber",
]  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """The header of one file: its path, its name below the folder that was given, its attributes."""

    path: Path
    name: str
    data: pydicom.Dataset

    def text(self, keyword: str) -> str:
        """An attribute as text, empty if it is not there or cannot be read."""
        try:
            return str(self.data.get(keyword, "") or "").strip()
        except (ValueError, TypeError, ArithmeticError):
            return ""

    def number(self, keyword: str, default: int) -> int:
        """An attribute as a whole number; `default` if it is not there or not a number."""
        try:
            return int(self.text(keyword) or default)
        except ValueError:
            return default

    @property
    def is_localizer(self) -> bool:
        """Whether the third value of ImageType (PS3.3, C.8.2.1.1.1) says that it is a scout view."""
        return "LOCALIZER" in self.text("ImageType").upper()


@dataclass(frozen=True)
class Series:
    """The files of one series, and the localizers that were found among them."""

    uid: str
    slices: tuple[Slice, ...]
    localizers: tuple[Slice, ...] = ()

    @property
    def is_volume(self) -> bool:
        """Whether it is a stack of CT, MR or PET slices, or one such file of several frames."""
        classes = {s.text("SOPClassUID") for s in self.slices}
        frames = max(s.number("NumberOfFrames", 1) for s in self.slices)
        stack = len(self.slices) > 1 and classes <= SLICE_CLASSES | FRAME_CLASSES
        return not self.slices[0].is_localizer and (stack or (frames > 1 and classes <= FRAME_CLASSES))

    def __str__(self) -> str:
        first = self.slices[0]
        frames = max(s.number("NumberOfFrames", 1) for s in self.slices)
        count = f"{len(self.slices)} slices" if frames == 1 else f"{frames} frames"
        return f"{first.text('Modality') or '-'}, {count}, {first.text('Columns')} x {first.text('Rows')}"


@dataclass(frozen=True)
class Broken:
    """A file that should be a slice and is none, and the series it says it is of, if it says that much."""

    name: str
    reason: str
    series_uid: str | None = None


@dataclass(frozen=True)
class Found:
    """All that lies in a folder."""

    root: Path
    series: tuple[Series, ...]
    broken: tuple[Broken, ...]
    ignored: tuple[str, ...]

    @property
    def table(self) -> str:
        """One line for each series: number, modality, slices, size. No names, dates or descriptions."""
        return "".join(f"\n  {n}: {s}" for n, s in enumerate(self.series, 1))


def look_through(root: Path, files: Iterable[Path] | None = None) -> Found:
    """Read the header of every DICOM file below a folder (or of `files`) and sort them by series."""
    groups: dict[str, list[Slice]] = {}
    broken: list[Broken] = []
    ignored: list[str] = []
    stubs: list[Path] = []
    suffixes = set(DICOM_SUFFIXES)
    for path in walk_files(root) if files is None else files:
        item = _look_at(path, str(path.relative_to(root)))
        if isinstance(item, Slice):
            # Blank UIDs happen; then a folder is a series.
            key = item.text("SeriesInstanceUID") or f"unnamed in {path.parent}"
            groups.setdefault(key, []).append(item)
            suffixes.add(path.suffix.lower())
        elif isinstance(item, Broken):
            broken.append(item)
        elif item:
            stubs.append(path)
        else:
            ignored.append(str(path.relative_to(root)))
    for path in stubs:
        # Nothing in the file says what it was: its name has to, being like those of the slices.
        name = str(path.relative_to(root))
        if path.suffix.lower() in suffixes:
            broken.append(Broken(name, "it is empty, or ends before its header"))
        else:
            ignored.append(name)
    series = sorted((_split(slices) for slices in groups.values()), key=_rank)
    return Found(root, tuple(series), tuple(broken), tuple(sorted(ignored)))


def choose(found: Found, series: int | str | None) -> tuple[Series, tuple[str, ...]]:
    """The series to read, and what has to be noted about the choice.

    Raises
    ------
    InputError
        If there is none, or more than one is a volume and none is chosen, or the choice does not exist.
    """
    if not found.series:
        _refuse_broken(found.broken, found.root)
        raise InputError("found no DICOM slices here", where=found.root)
    if series is not None:
        chosen = _by_name(found, str(series))
    else:
        volumes = [s for s in found.series if s.is_volume]
        if len(volumes) != 1:
            raise InputError(
                f"found {len(volumes)} series that are volumes; wanted one. The series are:{found.table}",
                where=found.root,
                todo="Choose one by its number or its UID (series)" if volumes else None,
            )
        chosen = volumes[0]
    _refuse_broken([b for b in found.broken if chosen.uid.startswith(b.series_uid or "")], found.root)
    return chosen, _notes(found, chosen)


def _look_at(path: Path, name: str) -> Slice | Broken | bool:
    """A slice, a broken one, True for a file that may have been one, False for any other file."""
    try:
        with path.open("rb") as file:
            head = file.read(PREFIX_END)
    except OSError as error:
        return Broken(name, f"it cannot be read: {error.strerror or error}")
    if not begins_as_dicom(head):
        if len(head) < PREFIX_END and not head[:128].strip(b"\0") and b"DICM".startswith(head[128:]):
            return True
        named = path.suffix.lower() in DICOM_SUFFIXES
        return Broken(name, "it is named like a DICOM file and is none") if named else False
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
    except Exception as error:  # pydicom raises whatever its parser trips over
        return Broken(name, f"its header cannot be read ({type(error).__name__})")
    kind = _storage_class(data)
    if kind == MEDIA_DIRECTORY:
        return False
    if "Rows" in data and "Columns" in data and kind:
        return Slice(path, name, data)
    # A header that is cut may end within this very UID, or within that of the series.
    if kind is None or any(c.startswith(kind) for c in SLICE_CLASSES | FRAME_CLASSES):
        uid = str(data.get("SeriesInstanceUID", "") or "") or None
        return Broken(name, "its header ends too early", uid)
    return False


def _storage_class(data: Any) -> str | None:
    meta = getattr(data, "file_meta", None) or {}
    return str(data.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", "") or "") or None


def _split(slices: list[Slice]) -> Series:
    scouts = tuple(s for s in slices if s.is_localizer)
    stack = tuple(s for s in slices if not s.is_localizer)
    uid = slices[0].text("SeriesInstanceUID")
    return Series(uid, stack, scouts) if stack else Series(uid, scouts)


def _rank(series: Series) -> tuple[int, str, str]:
    first = series.slices[0]
    return first.number("SeriesNumber", 1 << 31), series.uid, first.name


def _by_name(found: Found, series: str) -> Series:
    for number, candidate in enumerate(found.series, 1):
        if series in (str(number), candidate.uid):
            return candidate
    raise InputError(
        f"there is no series '{series}'. The series are:{found.table}",
        where=found.root,
        todo=f"Give a number from 1 to {len(found.series)} or a series UID",
    )


def _refuse_broken(broken: Iterable[Broken], root: Path) -> None:
    for item in broken:
        raise InputError(
            f"the file '{item.name}' is damaged: {item.reason}",
            where=root,
            todo="Copy or export the series again",
        )


def _notes(found: Found, chosen: Series) -> tuple[str, ...]:
    notes = []
    if len(found.series) > 1:
        notes.append(f"series {found.series.index(chosen) + 1} of {len(found.series)} was taken: {chosen}")
    if chosen.localizers:
        notes.append(f"left out as localizers: {listed([s.name for s in chosen.localizers])}")
    if found.ignored:
        notes.append(f"ignored, not DICOM images: {listed(found.ignored)}")
    if found.broken:
        notes.append(f"damaged files of other series: {listed([b.name for b in found.broken])}")
    return tuple(notes)


def listed(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
