"""What was found in a folder: scans, masks, and what cannot be used, each with its place and its reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from c3s3_seg.dataset.prepare.predictions import MaskOrigin
from c3s3_seg.errors import C3S3Error, Told, as_c3s3_error, is_out_of_memory, quantity
from c3s3_seg.geometry.axis_order import permuted_onto
from c3s3_seg.geometry.volume import Geometry, Source, Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.io.dicom_objects.segmentation import Drawing, load_drawing
from c3s3_seg.io.image.files import ROUNDED, as_labels, image_stem, image_suffix
from c3s3_seg.io.reading import Reading
from c3s3_seg.system.choices import Repair
from c3s3_seg.system.names import printable

OVERLAP = "structures overlap, the label named later was taken"

Kind = Literal["image", "dicom", "hdf5", "drawing", "structures"]
Split = Literal["", "labelled", "unlabelled", "validation", "test"]


def place_of(path: Path, root: Path) -> str:
    """A path as `Part.place` has it: relative to the source."""
    return os.fspath(path.relative_to(root))


@dataclass(frozen=True)
class Part:
    """A scan or a mask as it lies in the source.

    Parameters
    ----------
    kind
        `image`: NIfTI, NRRD, MHA. `drawing`: a DICOM SEG or RTSTRUCT. `structures`: a mask file for each.
    place
        Where it is, relative to the source: for the terminal, never for a file, as a folder of DICOM
        files may have a patient's name.
    files
        All that it is made of; the first one is the file to read, where one is.
    key
        DICOM: which series, and which phase of it. HDF5: which array.
    spacing_mm
        HDF5: of the voxels.
    drawing
        What a SEG or RTSTRUCT refers to.
    names
        Structures: the label of each file.
    """

    kind: Kind
    place: str
    files: tuple[Path, ...]
    key: str = ""
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    drawing: Drawing | None = None
    names: tuple[str, ...] = ()

    @property
    def public(self) -> str:
        """Where it is, as a file may say it."""
        if self.kind == "dicom":
            return f"a DICOM series, {quantity(len(self.files), 'file')}"
        return "a DICOM SEG or RTSTRUCT" if self.kind == "drawing" else printable(self.place)

    @property
    def path(self) -> PurePath:
        """Relative to the source, without suffix: of a file its own, of a DICOM series that of its folder."""
        if self.kind == "dicom":
            return PurePath(self.place.partition(": ")[0])
        path = PurePath(self.place)
        return path.parent / (image_stem(Path(path)) if image_suffix(Path(path)) else path.stem)

    @property
    def phase(self) -> str:
        """What tells it apart from others in the same files."""
        return self.key.partition("#")[2] if self.kind == "dicom" else self.key

    def scan(self, root: Path, repair: frozenset[Repair]) -> Volume:
        """Read it as a scan.

        Raises
        ------
        C3S3Error
            As `io.load` does.
        """
        if self.kind == "dicom":
            from c3s3_seg.io.dicom.load import load_listed

            return load_listed(self.files, root, Reading(self.key, repair))
        if self.kind == "hdf5":
            from c3s3_seg.io.image.hdf5 import load_hdf5

            return load_hdf5(self.files[0], self.key, self.spacing_mm)
        return load(self.files[0], repair=repair & {"orthonormal"})

    def mask(self, grid: Geometry, values: Mapping[str, int]) -> Volume:
        """Read it as a mask on the grid of its scan; `values` are those of its names, where it has any.

        Raises
        ------
        C3S3Error
            As `io.load_mask` and `load_drawing` do.
        """
        if self.drawing is not None:
            return load_drawing(self.drawing, grid, values)
        if self.kind == "hdf5":
            found = as_labels(self.scan(Path(), frozenset()))
            notes = tuple(note for note in found.source.notes if note.startswith(ROUNDED))
            return grid.volume(found.array, Source(notes=notes))
        if self.kind == "structures":
            return self._merged(grid, values)
        return _on_grid(self.files[0], grid)

    def _merged(self, grid: Geometry, values: Mapping[str, int]) -> Volume:
        """All structures in one mask; where two overlap, the label named later is taken, with a note."""
        merged = np.zeros(grid.shape, dtype=np.uint16)
        files, notes = dict(zip(self.names, self.files, strict=True)), []
        for name, value in values.items():
            mask = _on_grid(files[name], grid)
            notes += [f"{note} ('{name}')" for note in mask.source.notes]
            inside = mask.array > 0
            both = np.count_nonzero(inside & (merged > 0) & (merged != value))
            if both:
                notes.append(f"{OVERLAP}: {both} voxels of '{name}' had another label")
            merged[inside] = value
        return Volume(merged, grid, Source(self.files[0], notes=tuple(notes)))


def _on_grid(path: Path, grid: Geometry) -> Volume:
    mask = permuted_onto(load_mask(path), grid)
    return mask if mask.geometry is grid else load_mask(path, grid=grid)


@dataclass(frozen=True)
class Scan:
    """A scan that was found.

    Parameters
    ----------
    part
        Where it lies.
    stem
        The name that it would have; empty for DICOM, whose names may be those of patients.
    patient
        What is the same for all scans of one person. In memory only: it may be an id. Empty: unknown.
    grid
        Where it is known without reading the voxels.
    modality
        As DICOM has it; empty where it is not known.
    series, slices
        DICOM: UIDs of the series and its instances.
    trail
        What its path is called, see `pairing.trail`.
    split
        What the layout says it is for; empty where that is to be decided.
    """

    part: Part
    stem: str = ""
    patient: str = ""
    grid: Geometry | None = None
    modality: str = ""
    series: str = ""
    slices: frozenset[str] = frozenset()
    trail: tuple[str, ...] = ()
    split: Split = ""


@dataclass(frozen=True)
class Mask:
    """A mask that was found.

    Parameters
    ----------
    part
        Where it lies.
    grid
        Of an image file.
    values
        Foreground values in it; None where it is a drawing, which has names.
    trail
        As for a scan.
    origin
        Whether it is a prediction of this program, or the correction of one.
    """

    part: Part
    grid: Geometry | None = None
    values: tuple[int, ...] | None = None
    trail: tuple[str, ...] = ()
    origin: MaskOrigin = ""


@dataclass(frozen=True)
class RefusedFile:
    """What cannot be used, why, and what to do. For the terminal: the place may name a patient."""

    place: str
    reason: str

    def __post_init__(self) -> None:
        """Each has a version without names of files in DICOM folders: `errors.public`."""
        object.__setattr__(self, "place", Told(self.place, named=True))
        object.__setattr__(self, "reason", Told(self.reason, named=True))


def reason_of(error: Exception) -> str:
    """An error as a table says it: its place is in another column."""
    if is_out_of_memory(error):
        error = as_c3s3_error(error)
    if not isinstance(error, C3S3Error):
        kind = type(error).__name__  # what a library says may quote a header: it is not kept
        return Told.of(f"{kind}: {error}", kind)
    end = "." + (f" {error.todo}." if error.todo else "")
    return Told.of(error.what.named + end, error.what.public + end)


@dataclass(frozen=True)
class ScanMaskPair:
    """A scan, and its mask where it has one; `note` says how they were matched, where that has to be said."""

    scan: Scan
    mask: Mask | None = None
    note: str = ""

    @property
    def origin(self) -> MaskOrigin:
        """Of its mask; empty where it has none."""
        return self.mask.origin if self.mask is not None else ""


@dataclass
class Discovery:
    """What has been found so far, before masks are given to scans."""

    scans: list[Scan] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Inventory:
    """All that was found.

    Parameters
    ----------
    pairs
        Scans to take.
    refused
        What cannot be used.
    passed
        Reason -> how many were passed over, being no scans or not wanted: no fault.
    labels
        Name -> value, where the layout says so.
    assumed
        What was taken for granted and has to be said: sentences without their full stop.
    patients_by
        What a patient was known by -> how many scans, of how many patients.
    """

    pairs: tuple[ScanMaskPair, ...]
    refused: tuple[RefusedFile, ...] = ()
    passed: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    patients_by: Mapping[str, tuple[int, int]] = field(default_factory=dict)
