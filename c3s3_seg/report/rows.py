"""The rows of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from c3s3_seg.metrics import PaperScore, Score

Protocol = Literal["clinical", "paper"]


@dataclass(frozen=True)
class CaseScore:
    """One label of one case that was measured.

    Parameters
    ----------
    case
        Its name.
    label
        The name of the label.
    score
        What was measured, by the protocol `clinical` or `paper`.
    diagonal_mm
        The diagonal of the image: the worst distance that there can be, which stands in for an
        infinite one in `Statistics.mean_penalised`. None: nothing stands in.
    notes
        What has to be said of how the masks were read and what was done to them on request; a sentence each.
    """

    case: str
    label: str
    score: Score | PaperScore
    diagonal_mm: float | None = None
    notes: tuple[str, ...] = ()


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
