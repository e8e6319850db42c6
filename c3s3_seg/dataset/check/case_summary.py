"""One case of a data set read once: what is wrong with it alone, and what it is compared by."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from c3s3_seg.bundle.domain import Floats, intensity_quantiles, sampled
from c3s3_seg.dataset.check.case_faults import CaseDefect, mask_defect, scan_defect
from c3s3_seg.dataset.check.mask_statistics import MaskStatistics, measure_mask
from c3s3_seg.dataset.check.thumbnail import Thumbnail, make_thumbnail
from c3s3_seg.dataset.voxels import voxels_sha256
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.report.findings import Finding
from c3s3_seg.system.reading import sha256

FEW_VALUES = 8  # an image with no more different values looks like a mask; clean: 38 (atria) and more


@dataclass(frozen=True)
class SummaryJob:
    """One case to be looked at.

    Parameters
    ----------
    name, kind
        The case; labelled, unlabelled, validation or test.
    scan, mask
        Its files; the mask None where there is none.
    labels
        Name -> value of what the mask may hold.
    sha256
        `image` and `label`: what the record says of the files, where there is a record.
    empty
        Whether its mask may hold nothing but background.
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
    """What a case is compared with others by.

    Parameters
    ----------
    spacing_mm, shape
        (3,) along the axes nearest to left, back and head.
    axes
        Where the file's axes run, as `LPS`.
    voxels
        Hash of the voxels along the patient's axes: the same for the same scan in another format.
    intensities, scaled_intensities
        Quantiles, see `domain`.
    at_top
        Share of the voxels that have the largest value.
    few_values
        Whether the image holds so few different values that it may be a mask.
    thumbnail
        The small copy.
    mask
        Of the mask, where there is one that can be used.
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


@dataclass(frozen=True, eq=False)
class CheckedCase:
    """A case that was looked at: its findings, and its summary where it could be read."""

    name: str
    kind: str
    findings: tuple[Finding, ...]
    summary: CaseSummary | None = None

    @property
    def mask(self) -> MaskStatistics | None:
        """Of its mask, if there is a good one."""
        return self.summary.mask if self.summary else None


def look(work: SummaryJob) -> CheckedCase:
    """Read a case and look at it; whatever is wrong is a finding, never an error."""
    try:
        return _look(work)
    except Exception as error:  # what nobody thought of: one bad case must not stop the others
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
    """The mask if it can be used, and what is wrong with it; of an unlabelled case that is no error."""
    if work.mask is None:
        return None, []
    try:
        mask = load_mask(work.mask)
    except Exception as error:
        return None, [_spared(work, _unreadable(work, work.mask, error))]
    if not mask.geometry.matches(scan.geometry):
        found = f"the mask has {mask.geometry}; its image {scan.geometry}"
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
    return CaseSummary(
        spacing_mm=scan.geometry.spacing_mm[axes],
        shape=tuple(scan.geometry.shape[axis] for axis in axes),
        axes=scan.geometry.letters,
        voxels=voxels_sha256(scan),
        intensities=_quantiles(scan, absolute=True),
        scaled_intensities=_quantiles(scan, absolute=False),
        at_top=float((scan.array == scan.array.max()).mean()),
        few_values=len(few) <= FEW_VALUES,
        thumbnail=make_thumbnail(scan, mask),
        mask=measure_mask(mask, labels) if mask is not None else None,
    )


def _quantiles(scan: Volume, *, absolute: bool) -> Floats:
    try:
        return intensity_quantiles(scan, "absolute" if absolute else "scaled")
    except C3S3Error:  # almost all voxels are alike; then the scan is far from the others
        return np.zeros(19)


def _changed(work: SummaryJob) -> list[Finding]:
    """Files that are no longer those that the record knows."""
    files = {"image": work.scan, "label": work.mask}
    changed = []
    for key, path in files.items():
        known = work.sha256.get(key)
        with suppress(InputError):  # whoever reads it says why it cannot be read
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
