"""Find the DICOM series in a folder from the headers: volumes, objects left out, and broken files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.multival import MultiValue

from c3s3_seg.errors import FileName, quantity
from c3s3_seg.io.cases import hidden_files, walk_files
from c3s3_seg.io.detect import DICOM_SUFFIXES, begins_as_dicom, first_bytes
from c3s3_seg.io.dicom.frames import frames, is_enhanced
from c3s3_seg.io.dicom.header import Broken, Slice, look_at
from c3s3_seg.io.dicom.kind import alone_in_series, class_name, is_slice, of_one_kind
from c3s3_seg.io.dicom.volumes import split
from c3s3_seg.io.reading import SeriesAttributes

MOST_LISTED = 30  # series in one line
SEQUENCE = ("SequenceName", "ProtocolName", "ScanningSequence", "PulseSequenceName")


@dataclass(frozen=True)
class Series:
    """The slices of one series, or of one phase of it, and the other objects found among them.

    Parameters
    ----------
    uid
        SeriesInstanceUID; empty where the files have none.
    slices, localizers, captures, others
        Slices of the series, and objects left out: scout views, screen captures, objects of other kinds.
    part
        Phase, if the series holds several: `echo 2`. Else empty.
    notes
        What the user must know of the way in which the phase was separated.
    """

    uid: str
    slices: tuple[Slice, ...]
    localizers: tuple[Slice, ...] = ()
    captures: tuple[Slice, ...] = ()
    others: tuple[Slice, ...] = ()
    part: str = ""
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key by which the series can be chosen: its UID and, if it has several parts, the part."""
        return self.uid + (f"#{self.part}" if self.part else "")

    @property
    def modality(self) -> str:
        """The DICOM modality, or `-`."""
        return self.slices[0].text("Modality") or "-"

    @property
    def description(self) -> str:
        """The SeriesDescription: free text for the user who requests it, never for logs."""
        return "\\".join(_decoded(self.slices[0], "SeriesDescription"))

    @property
    def attributes(self) -> SeriesAttributes:
        """The attributes that a rule is compared with."""
        first = self.slices[0]
        names = [value for keyword in SEQUENCE for value in _decoded(first, keyword) if value]
        kinds = [value for value in first.text("ImageType").split("\\") if value]
        return SeriesAttributes(self.description, first.text("Modality"), tuple(names), tuple(kinds))

    @property
    def study(self) -> str:
        """The StudyInstanceUID; empty if the files have none."""
        return self.slices[0].text("StudyInstanceUID")

    @property
    def is_volume(self) -> bool:
        """Whether the series is a stack of CT, MR or PET slices, by class or by modality and place."""
        return not self.why_not

    @property
    def kind(self) -> str:
        """The kind of a series that is no volume, in words that name no file."""
        first = self.slices[0]
        if first.is_localizer:
            return "a localizer"
        if first.is_capture:
            return "a secondary capture"
        other = next((s for s in self.slices if not is_slice(s)), None)
        return "a single image" if other is None else class_name(other)

    @property
    def why_not(self) -> str:
        """The reason why the series is no volume; empty if it is a volume."""
        if self.slices[0].is_localizer:
            return "a localizer"
        other = next((s for s in self.slices if not is_slice(s)), None)
        if other is not None:
            return f"'{other.name}' is no CT, MR or PET slice with a place: {class_name(other)}"
        return "" if len(self.slices) > 1 else "a single image"

    def __str__(self) -> str:
        first = self.slices[0]
        frames = max(s.number("NumberOfFrames", 1) for s in self.slices)
        count = quantity(len(self.slices), "slice") if frames == 1 else quantity(frames, "frame")
        size = f"{first.text('Columns')} x {first.text('Rows')}"
        return f"{self.modality}, {count}, {size}" + (f", {self.part}" if self.part else "")


def _decoded(item: Slice, keyword: str) -> list[str]:
    """Return the values of an attribute as text, by pydicom, which knows the character set."""
    try:
        value = item.data.get(keyword)
        values = value if isinstance(value, MultiValue) else [value or ""]
        return [str(one).strip() for one in values]
    except Exception:  # pydicom raises errors of any type
        return item.text(keyword).split("\\")


@dataclass(frozen=True)
class Found:
    """All series and files found in a folder, and the number of hidden DICOM files, which are not read."""

    root: Path
    series: tuple[Series, ...]
    broken: tuple[Broken, ...]
    ignored: tuple[str, ...]
    hidden: int = 0

    @property
    def table(self) -> str:
        """One line with number, modality, slices and size of each series; no patient, date or description."""
        lines = [f"{s} ({s.why_not})" if s.why_not else str(s) for s in self.series[:MOST_LISTED]]
        more = len(self.series) - len(lines)
        end = f"; and {more} more" if more else ""
        return "; ".join(f"{n}: {line}" for n, line in enumerate(lines, 1)) + end

    @property
    def alone(self) -> int:
        """The number of slices that look like one volume, but are each the only one of a series."""
        return alone_in_series(s.slices[0] for s in self.series if len(s.slices) == 1)


def look_through(
    root: Path, files: Iterable[Path] | None = None, among: Iterable[Path] | None = None
) -> Found:
    """Read the header of every DICOM file below a folder and group the files by series.

    Parameters
    ----------
    root
        The folder.
    files
        Files below the folder to inspect; None: all.
    among
        Files below the folder whose order numbers the files in messages; None: the inspected files.
    """
    groups: dict[str, list[Slice]] = {}
    broken: list[Broken] = []
    ignored: list[str] = []
    stubs: list[Path] = []
    suffixes = set(DICOM_SUFFIXES)
    every = list(walk_files(root) if files is None else files)
    names = _names(root, every if among is None else sorted({*among, *every}))
    for path in every:
        item = look_at(path, names[path])
        if isinstance(item, Slice):
            several = frames(item) if is_enhanced(item) else (item,)
            suffixes.add(path.suffix.lower())
            if isinstance(several, Broken):
                broken.append(several)
                continue
            # The UIDs may be blank; then a folder is a series.
            key = item.text("SeriesInstanceUID") or f"unnamed in {path.parent}"
            groups.setdefault(key, []).extend(several)
        elif isinstance(item, Broken):
            broken.append(item)
        elif item:
            stubs.append(path)
        else:
            ignored.append(names[path])
    for path in stubs:
        # The content does not show the kind of the file, so its suffix decides: is it that of a slice?
        name = names[path]
        if path.suffix.lower() in suffixes:
            broken.append(Broken(name, "it is empty, or ends before its header"))
        else:
            ignored.append(name)
    series = [part for slices in groups.values() for part in _parts(slices)]
    # The sort is stable: the parts of a series keep their order.
    hidden = sum(begins_as_dicom(first_bytes(path)) for path in hidden_files(root)) if files is None else 0
    return Found(root, tuple(sorted(series, key=_rank)), tuple(broken), tuple(sorted(ignored)), hidden)


def _names(root: Path, files: Sequence[Path]) -> dict[Path, FileName]:
    """Return each file's name for messages: its path below the folder, and its number, which is public."""
    return {
        path: FileName(str(path.relative_to(root)), f"file {number} of {len(files)}")
        for number, path in enumerate(files, 1)
    }


def _parts(slices: list[Slice]) -> list[Series]:
    uid = slices[0].text("SeriesInstanceUID")
    captures = tuple(s for s in slices if s.is_capture)
    scouts = tuple(s for s in slices if s.is_localizer and not s.is_capture)
    stack = [s for s in slices if not (s.is_localizer or s.is_capture)]
    if not stack:
        return [Series(uid, scouts or captures)]
    stack, others = of_one_kind(stack)
    return [Series(uid, p.slices, scouts, captures, others, p.label, p.notes) for p in split(stack)]


def _rank(series: Series) -> tuple[int, str, str]:
    first = series.slices[0]
    return first.number("SeriesNumber", 1 << 31), series.uid, "" if series.part else first.name
