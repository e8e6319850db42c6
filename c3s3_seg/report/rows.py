"""Rows of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.metrics.results import CaseScore

FORCED = "the domain check refused this scan; it was segmented because scans out of the domain were allowed"


@dataclass(frozen=True)
class Failure:
    """A case that could not be measured or predicted, and the reason.

    `verdict` is that of the domain check; "" if it is not known.
    """

    case: str
    reason: str
    verdict: str = ""


@dataclass(frozen=True)
class PredictionRow:
    """One case that was predicted.

    Parameters
    ----------
    case
        Name of the case.
    volumes_ml
        Pairs (name of the label, volume in ml).
    seconds_s
        Seconds from reading the file to the written mask.
    scores
        Scores, one for each label, if a truth was given, else empty.
    notes
        Notes on this case for the reader, as sentences.
    verdict
        Verdict of the domain check: `pass`, `warn`, `refuse` or `unchecked`; "" if unknown.
    warnings
        Notes that speak against the result.
    uncertainty_mm
        Pairs (name of the label, 95HD between the masks of two networks in mm); empty if not measured. inf
        if one network found nothing, nan if neither did.
    uncertainty_limit_mm
        Limit above which a case is uncertain; None if the model has no calibrated limit.
    model
        Name of the model.
    version
        Version of this program that made the mask.
    """

    case: str
    volumes_ml: tuple[tuple[str, float], ...]
    seconds_s: float
    scores: tuple[CaseScore, ...] = ()
    notes: tuple[str, ...] = ()
    verdict: str = ""
    warnings: tuple[str, ...] = ()
    uncertainty_mm: tuple[tuple[str, float], ...] = ()
    uncertainty_limit_mm: float | None = None
    model: str = ""
    version: str = ""

    @property
    def forced(self) -> bool:
        """Whether the domain check refused the scan, which was segmented because the user allowed it."""
        return self.verdict == "refuse"

    @property
    def cautions(self) -> tuple[str, ...]:
        """All that a reader should know before using the result: `FORCED` if it holds, then the notes."""
        return ((FORCED,) if self.forced else ()) + self.notes

    @property
    def uncertain(self) -> bool | None:
        """Whether a label is beyond the limit or found by one network alone. None: not known."""
        limit_mm = self.uncertainty_limit_mm
        if limit_mm is None or not self.uncertainty_mm:
            return None
        return any(mm > limit_mm for _, mm in self.uncertainty_mm)

    @property
    def needs_review(self) -> bool:
        """Whether a person should inspect the result before its use."""
        return bool(self.warnings or self.empty or self.forced or self.uncertain)

    @property
    def marks(self) -> tuple[str, ...]:
        """The reasons for review, one word each, the most serious first."""
        found = ((self.empty, "empty"), (self.forced, "forced"), (bool(self.uncertain), "uncertain"))
        marks = tuple(word for holds, word in found if holds)
        return marks or (("warning",) if self.needs_review else ())

    @property
    def empty(self) -> bool:
        """Whether no label has a voxel; the mask was written, but should not be relied on."""
        return not any(volume_ml > 0 for _, volume_ml in self.volumes_ml)


@dataclass(frozen=True)
class CaseFiles:
    """The paths of the masks and, if known, the scan of a case.

    `names` holds the label names in DICOM SEG and RTSTRUCT files, each with its value in the mask.
    """

    case: str
    prediction: Path
    truth: Path
    scan: Path | None = None
    names: tuple[tuple[str, int], ...] = ()
