"""What was measured of one label of one case."""

from __future__ import annotations

from dataclasses import dataclass

from c3s3_seg.metrics.scoring import PaperScore, Score


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
    diagonal_mm, diagonal_vox
        The diagonal of the image in mm and in voxels: the worst distance that there can be, which stands in
        for an infinite one in `Statistics.mean_penalised`. None: nothing stands in.
    notes
        What has to be said of how the masks were read and what was done to them on request; a sentence each.
    """

    case: str
    label: str
    score: Score | PaperScore
    diagonal_mm: float | None = None
    notes: tuple[str, ...] = ()
    diagonal_vox: float | None = None
