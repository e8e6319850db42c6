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
    """

    case: str
    volumes_ml: tuple[tuple[str, float], ...]
    seconds_s: float
    scores: tuple[CaseScore, ...] = ()
    notes: tuple[str, ...] = ()

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
