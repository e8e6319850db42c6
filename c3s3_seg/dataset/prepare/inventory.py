"""The scans, masks and unusable files found in a folder, each with its place, the latter with a reason."""

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
from c3s3_seg.io import load
from c3s3_seg.io.dicom_objects.segmentation import Drawing, load_drawing
from c3s3_seg.io.image.files import ROUNDED, as_labels, image_stem, image_suffix, load_image, put_on
from c3s3_seg.io.reading import Reading
from c3s3_seg.system.choices import Repair
from c3s3_seg.system.names import printable

OVERLAP = "structures overlap, the label named later was taken"

Kind = Literal["image", "dicom", "hdf5", "drawing", "structures"]
Split = Literal["", "labelled", "unlabelled", "validation", "test"]


def place_of(path: Path, root: Path) -> str:
    """Return a path relative to the source, as in `Part.place`."""
    return os.fspath(path.relative_to(root))


@dataclass(frozen=True)
class Part:
    """A scan or a mask as stored in the source.

    Parameters
    ----------
    kind
        `image`: NIfTI, NRRD, MHA. `drawing`: DICOM SEG or RTSTRUCT. `structures`: one mask file for each.
    place
        Place relative to the source: for the terminal, never for a file, as a folder of DICOM files may
        have a patient's name.
    files
        All files of the part; the first is the file to read, if only one is read.
    key
        DICOM: the series, and its phase. HDF5: the array.
    spacing_mm
        HDF5: spacing of the voxels.
    drawing
        Contents and references of a SEG or RTSTRUCT.
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
        """The place in a form that a file may hold."""
        if self.kind == "dicom":
            return f"a DICOM series, {quantity(len(self.files), 'file')}"
        return "a DICOM SEG or RTSTRUCT" if self.kind == "drawing" else printable(self.place)

    def public_of(self, scan: Part) -> str:
        """Return the place of a mask; beside a DICOM scan without folders, which may name patients."""
        if scan.kind != "dicom" or self.kind not in ("image", "structures"):
            return self.public
        count = max(1, len(self.names))
        return "an image file" if count == 1 else quantity(count, "image file")

    @property
    def path(self) -> PurePath:
        """The path relative to the source, without suffix; for a DICOM series the path of its folder."""
        if self.kind == "dicom":
            return PurePath(self.place.partition(": ")[0])
        path = PurePath(self.place)
        return path.parent / (image_stem(Path(path)) if image_suffix(Path(path)) else path.stem)

    @property
    def phase(self) -> str:
        """The key that distinguishes the part from others in the same files."""
        return self.key.partition("#")[2] if self.kind == "dicom" else self.key

    def scan(self, root: Path, repair: frozenset[Repair]) -> Volume:
        """Read the part as a scan.

        Raises
        ------
        C3S3Error
            For the reasons of `io.load`.
        """
        if self.kind == "dicom":
            from c3s3_seg.io.dicom.load import load_listed

            return load_listed(self.files, root, Reading(self.key, repair))
        if self.kind == "hdf5":
            from c3s3_seg.io.image.hdf5 import load_hdf5

            return load_hdf5(self.files[0], self.key, self.spacing_mm)
        return load(self.files[0], repair=repair & {"orthonormal"})

    def mask(self, grid: Geometry, values: Mapping[str, int], repair: frozenset[Repair]) -> Volume:
        """Read the part as a mask on the grid of its scan; `values` are those of its names, if any.

        Raises
        ------
        C3S3Error
            For the reasons of `io.load_mask` and `load_drawing`.
        """
        mend = "orthonormal" in repair
        if self.drawing is not None:
            return load_drawing(self.drawing, grid, values)
        if self.kind == "hdf5":
            found = as_labels(self.scan(Path(), frozenset()))
            notes = tuple(note for note in found.source.notes if note.startswith(ROUNDED))
            return grid.volume(found.array, Source(notes=notes))
        if self.kind == "structures":
            return self._merged(grid, values, mend)
        return _on_grid(self.files[0], grid, mend)

    def _merged(self, grid: Geometry, values: Mapping[str, int], mend: bool) -> Volume:
        """Merge all structures into one mask; where two overlap, the label named later wins, with a note."""
        merged = np.zeros(grid.shape, dtype=np.uint16)
        files, notes = dict(zip(self.names, self.files, strict=True)), []
        for name, value in values.items():
            mask = _on_grid(files[name], grid, mend)
            notes += [f"{note} ('{name}')" for note in mask.source.notes]
            inside = mask.array > 0
            both = np.count_nonzero(inside & (merged > 0) & (merged != value))
            if both:
                notes.append(f"{OVERLAP}: {both} voxels of '{name}' had another label")
            merged[inside] = value
        return Volume(merged, grid, Source(self.files[0], notes=tuple(notes)))


def _on_grid(path: Path, grid: Geometry, mend: bool) -> Volume:
    """Read a mask with the repair of its scan: both have the header of one program, and its fault."""
    return put_on(permuted_onto(as_labels(load_image(path, orthonormal=mend)), grid), grid)


@dataclass(frozen=True)
class Scan:
    """A scan that was found.

    Parameters
    ----------
    part
        Files of the scan.
    stem
        Preferred name of the case; empty for DICOM, whose names may be those of patients.
    patient
        Key shared by all scans of one person. In memory only: it may be an id. Empty: unknown.
    grid
        Grid of the scan; None if not known yet.
    modality
        Modality as in DICOM; empty if unknown.
    series, slices
        DICOM: UIDs of the series and its instances.
    trail
        Names in its path, see `pairing.trail`.
    split
        Split in the layout; empty if still to be decided.
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
        Files of the mask.
    grid
        Grid of its image files; None for other kinds.
    values
        Foreground values; None for a drawing, which has names.
    trail
        Same as for a scan.
    origin
        Whether the mask is a prediction of this program, or its correction.
    """

    part: Part
    grid: Geometry | None = None
    values: tuple[int, ...] | None = None
    trail: tuple[str, ...] = ()
    origin: MaskOrigin = ""


@dataclass(frozen=True)
class RefusedFile:
    """A file that cannot be used, the reason and the remedy. For the terminal: `place` may name a patient."""

    place: str
    reason: str

    def __post_init__(self) -> None:
        """Give each text a version without names of files in DICOM folders, for `errors.public`."""
        object.__setattr__(self, "place", Told(self.place, named=True))
        object.__setattr__(self, "reason", Told(self.reason, named=True))


def reason_of(error: Exception) -> str:
    """Return the text of an error for a table, without its place, which is in another column."""
    if is_out_of_memory(error):
        error = as_c3s3_error(error)
    if not isinstance(error, C3S3Error):
        kind = type(error).__name__  # a library's message may quote a header: it is not kept
        return Told.of(f"{kind}: {error}", kind)
    end = "." + (f" {error.todo}." if error.todo else "")
    return Told.of(error.what.named + end, error.what.public + end)


@dataclass(frozen=True)
class ScanMaskPair:
    """A scan, and its mask if it has one; `note` states how they were matched, if this must be reported."""

    scan: Scan
    mask: Mask | None = None
    note: str = ""

    @property
    def origin(self) -> MaskOrigin:
        """The origin of the mask; empty if there is no mask."""
        return self.mask.origin if self.mask is not None else ""


@dataclass
class Discovery:
    """The scans, masks and refusals found so far, before masks are paired with scans."""

    scans: list[Scan] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Inventory:
    """The inventory of a folder.

    Parameters
    ----------
    pairs
        Scans to take.
    refused
        Files that cannot be used.
    passed
        Reason -> number of files passed over as no scans or not wanted, which is no fault.
    labels
        Name -> value, if the layout states them.
    assumed
        Assumptions that must be reported: sentences without their full stop.
    patients_by
        Rule that identified patients -> (number of scans, number of patients).
    """

    pairs: tuple[ScanMaskPair, ...]
    refused: tuple[RefusedFile, ...] = ()
    passed: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    patients_by: Mapping[str, tuple[int, int]] = field(default_factory=dict)
