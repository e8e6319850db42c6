"""Read one case of a data set once: find its own faults, and measure it for the comparison of cases."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from c3s3_seg.bundle.domain import STEPS, Floats, intensity_quantiles, sampled
from c3s3_seg.dataset.check.case_faults import CaseDefect, mask_defect, scan_defect
from c3s3_seg.dataset.check.mask_statistics import MaskStatistics, measure_mask
from c3s3_seg.dataset.check.thumbnail import Thumbnail, make_thumbnail
from c3s3_seg.dataset.voxels import voxels_sha256
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.report.findings import Finding
from c3s3_seg.system.choices import Intensities
from c3s3_seg.system.reading import sha256

FEW_VALUES = 8  # an image with at most so many different values looks like a mask; clean: 38 (atria) and more


@dataclass(frozen=True)
class SummaryJob:
    """One case to be inspected.

    Parameters
    ----------
    name, kind
        Name of the case; labelled, unlabelled, validation or test.
    scan, mask
        Files of the case; the mask is None if there is none.
    labels
        Name -> value of the labels that the mask may hold.
    sha256
        Hashes of `image` and `label` in the record, if there is a record.
    empty
        Whether the mask may hold nothing but background.
    """

    name: str
    kind: str
    scan: Path
    mask: Path | None
    labels: Mapping[str, int]
    sha256: Mapping[str, str]
    empty: bool = False


@dataclass(frozen=True, eq=False)
class CaseSummary:
    """The measurements by which a case is compared with others.

    Parameters
    ----------
    spacing_mm, shape
        Sequences (3,) along the axes nearest to left, back and head.
    axes
        Directions of the file's axes, such as `LPS`.
    voxels
        Hash of the voxels along the patient's axes: the same for the same scan in another format.
    intensities, scaled_intensities
        Quantiles of the intensities, see `domain`.
    at_top
        Share of the voxels that have the largest value.
    few_values
        Whether the image holds so few different values that it may be a mask.
    thumbnail
        Small copy of the case.
    mask
        Statistics of the mask, if there is a usable one.
    one_value
        Whether so many voxels have the same value that the intensities cannot be scaled: those are zeros.
    """

    spacing_mm: Floats
    shape: tuple[int, ...]
    axes: str
    voxels: str
    intensities: Floats
    scaled_intensities: Floats
    at_top: float
    few_values: bool
    thumbnail: Thumbnail
    mask: MaskStatistics | None
    one_value: bool = False


@dataclass(frozen=True, eq=False)
class CheckedCase:
    """A case that was inspected: its findings, and its summary if the case could be read."""

    name: str
    kind: str
    findings: tuple[Finding, ...]
    summary: CaseSummary | None = None

    @property
    def mask(self) -> MaskStatistics | None:
        """The statistics of the mask, if there is a usable one."""
        return self.summary.mask if self.summary else None


def look(work: SummaryJob) -> CheckedCase:
    """Read and inspect a case; every fault becomes a finding, never an error."""
    try:
        return _look(work)
    except Exception as error:  # an unforeseen error: one bad case must not stop the others
        return CheckedCase(work.name, work.kind, (_unreadable(work, work.scan, error),))


def _look(work: SummaryJob) -> CheckedCase:
    findings = _changed(work)
    try:
        scan = load(work.scan)
    except Exception as error:
        return CheckedCase(work.name, work.kind, (*findings, _unreadable(work, work.scan, error)))
    defect = scan_defect(scan)
    if defect:
        return CheckedCase(work.name, work.kind, (*findings, _finding(work, defect)))
    mask, wrong = _mask(work, scan)
    return CheckedCase(work.name, work.kind, (*findings, *wrong), _summarize(scan, mask, work.labels))


def _mask(work: SummaryJob, scan: Volume) -> tuple[Volume | None, list[Finding]]:
    """Return the mask if it is usable, and its faults, which are no errors in an unlabelled case."""
    if work.mask is None:
        return None, []
    try:
        mask = load_mask(work.mask)
    except Exception as error:
        return None, [_spared(work, _unreadable(work, work.mask, error))]
    if not mask.geometry.matches(scan.geometry):
        found = f"the mask has {mask.geometry}; its image {scan.geometry}"
        found += mask.geometry.distance_note(scan.geometry)
        defect = CaseDefect(
            "other-grid", found, "one grid", "Resample the mask to the image that it was drawn on"
        )
        return None, [_spared(work, _finding(work, defect))]
    wrong = mask_defect(mask, work.labels, required=work.kind == "labelled" and not work.empty)
    if wrong is None:
        return scan.geometry.volume(mask.array, mask.source), []
    return None, [_spared(work, replace(_finding(work, wrong), shown=(work.name,)))]


def _summarize(scan: Volume, mask: Volume | None, labels: Mapping[str, int]) -> CaseSummary:
    axes = list(scan.geometry.patient_axes[0])
    few = np.unique(sampled(scan.array))
    absolute, scaled = _quantiles(scan, "absolute"), _quantiles(scan, "scaled")
    zeros = np.zeros(len(STEPS))  # these put the scan far from the others
    return CaseSummary(
        spacing_mm=scan.geometry.spacing_mm[axes],
        shape=tuple(scan.geometry.shape[axis] for axis in axes),
        axes=scan.geometry.letters,
        voxels=voxels_sha256(scan),
        intensities=zeros if absolute is None else absolute,
        scaled_intensities=zeros if scaled is None else scaled,
        at_top=float((scan.array == scan.array.max()).mean()),
        few_values=len(few) <= FEW_VALUES,
        thumbnail=make_thumbnail(scan, mask),
        mask=measure_mask(mask, labels) if mask is not None else None,
        one_value=scaled is None,
    )


def _quantiles(scan: Volume, intensities: Intensities) -> Floats | None:
    """Return the quantiles; None if almost all voxels are equal."""
    try:
        return intensity_quantiles(scan, intensities)
    except C3S3Error:
        return None


def _changed(work: SummaryJob) -> list[Finding]:
    """Report files that differ from the hashes in the record."""
    files = {"image": work.scan, "label": work.mask}
    changed = []
    for key, path in files.items():
        known = work.sha256.get(key)
        with suppress(InputError):  # the later read of the file reports why
            if known and path is not None and sha256(path) != known:
                changed.append(f"{path.parent.name}/{path.name}")
    if not changed:
        return []
    found = f"{' and '.join(changed)} changed after the index was written"
    todo = "Prepare the data set again, or restore the file"
    wanted = "the sha256 of the record"
    return [Finding("warning", "changed-file", (work.name,), found, wanted, todo)]


def _unreadable(work: SummaryJob, path: Path, error: Exception) -> Finding:
    known = isinstance(error, C3S3Error)
    what = error.what if isinstance(error, C3S3Error) else f"{type(error).__name__}: {error}"
    todo = (error.todo if isinstance(error, C3S3Error) else None) or "Export it again, or leave the case out"
    found = f"{path.parent.name}/{path.name}: {what}"
    return Finding("error", "unreadable", (work.name,), found, "a whole file" if known else "", todo)


def _finding(work: SummaryJob, defect: CaseDefect) -> Finding:
    return Finding("error", defect.check, (work.name,), defect.found, defect.wanted, defect.todo)


def _spared(work: SummaryJob, finding: Finding) -> Finding:
    if work.kind != "unlabelled":
        return finding
    todo = f"{finding.todo}; it is not used as long as the case is unlabelled"
    return replace(finding, severity="warning", todo=todo)
