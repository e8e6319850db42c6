"""The rows of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.metrics.results import CaseScore


@dataclass(frozen=True)
class Failure:
    """A case that could not be measured or predicted, and why."""

    case: str
    reason: str


@dataclass(frozen=True)
class PredictionRow:
    """One case that was predicted.

    Parameters
    ----------
    case
        Its name.
    volumes_ml
        Pairs (name of the label, volume in ml).
    seconds_s
        From the file to the written mask.
    scores
        One for each label where a truth was given, else empty.
    notes
        What the reader should know of this case, as sentences.
    verdict
        Of the domain check: `pass`, `warn` or `refuse`; "" where it is not known.
    warnings
        Those of the notes that speak against the result.
    uncertainty_mm
        Pairs (name of the label, 95HD between the masks of two networks in mm); empty if not measured. inf
        where one network found nothing, nan where neither did.
    uncertainty_limit_mm
        Above which a case is uncertain; None where the model has no calibrated limit.
    model
        Name of the model.
    version
        Of this program, when it made the mask.
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
        """Whether the domain check refused the scan, and it was segmented because the user allowed it."""
        return self.verdict == "refuse"

    @property
    def uncertain(self) -> bool | None:
        """Whether a label is beyond the limit or one network alone found it. None: not known."""
        limit_mm = self.uncertainty_limit_mm
        if limit_mm is None or not self.uncertainty_mm:
            return None
        return any(mm > limit_mm for _, mm in self.uncertainty_mm)

    @property
    def needs_review(self) -> bool:
        """Whether a person should look at the result before it is used."""
        return bool(self.warnings or self.empty or self.forced or self.uncertain)

    @property
    def marks(self) -> tuple[str, ...]:
        """Why it needs review, a word each, the most serious first."""
        found = ((self.empty, "empty"), (self.forced, "forced"), (bool(self.uncertain), "uncertain"))
        marks = tuple(word for holds, word in found if holds)
        return marks or (("warning",) if self.needs_review else ())

    @property
    def empty(self) -> bool:
        """Whether no label has a voxel: a mask was written, and it is no result to rely on."""
        return not any(volume_ml > 0 for _, volume_ml in self.volumes_ml)


@dataclass(frozen=True)
class CaseFiles:
    """Where the masks and, if it is known, the scan of a case lie.

    `names` are those in DICOM SEG and RTSTRUCT files, each with its value in the mask.
    """

    case: str
    prediction: Path
    truth: Path
    scan: Path | None = None
    names: tuple[tuple[str, int], ...] = ()
