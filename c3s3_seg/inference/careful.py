"""A scan is judged, its region of interest is found, and only then it is segmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.inference.predictor import Prediction, Predictor
from c3s3_seg.inference.region import Box, find_region, parse_box, predict_within
from c3s3_seg.inference.stream import Progress
from c3s3_seg.quality import Verdict, judge_frame, judge_greys
from c3s3_seg.volume import Volume


@dataclass(frozen=True)
class Care:
    """What the user decides.

    Parameters
    ----------
    force
        Judge a scan that would be refused.
    roi
        Where to look, as `parse_box` takes it. None: everywhere or, in a scan larger than those in
        training, where the organ seems to be.
    """

    force: bool = False
    roi: str | None = None


@dataclass(frozen=True)
class Judged:
    """A scan that may be segmented: where to look, and what speaks against it."""

    scan: Volume
    verdict: Verdict
    box: Box | None
    notes: tuple[str, ...]
    forced: bool

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the result should know, a sentence each."""
        return (*self.verdict.refusals, *self.verdict.warnings, *self.notes)

    @property
    def facts(self) -> dict[str, Any]:
        """For the JSON of the case."""
        return {
            "verdict": self.verdict.level,
            "refusals": list(self.verdict.refusals),
            "warnings": list(self.verdict.warnings),
            "forced": self.forced,
            "region": str(self.box) if self.box else None,
            "notes": list(self.notes),
        }


def judge(scan: Volume, predictor: Predictor, care: Care, progress: Progress | None = None) -> Judged:
    """Compare a scan with those that the model was trained on; find the region to look at.

    Raises
    ------
    DomainError
        If the model was not made for such a scan, and it is not forced.
    InputError
        If there is no region to look at.
    """
    task = predictor.task
    box: Box | None = None
    notes: tuple[str, ...] = ()
    if care.roi is not None:  # only that part will be segmented
        box, notes = parse_box(care.roi, scan.geometry), ("region of interest: as it was given",)
    frame = box.crop(scan) if box else scan
    verdict = judge_frame(frame, task.domain, task.modality, task.recipe.spacing_mm)
    verdict.settle(scan, force=care.force)
    if box is None and verdict.larger and task.domain is not None:
        try:
            box, notes = find_region(scan, predictor, task.domain, progress)
        except InputError as error:
            if not care.force:
                raise
            verdict += Verdict((error.what,))
    verdict += judge_greys(box.crop(scan) if box else scan, task.domain)
    verdict.settle(scan, force=care.force)
    return Judged(scan, verdict, box, notes, bool(verdict.refusals) and care.force)


def searches(scan: Volume, predictor: Predictor, care: Care) -> bool:
    """Whether `judge` will run the network, to find where the organ is."""
    task = predictor.task
    if care.roi is not None or task.domain is None:
        return False
    verdict = judge_frame(scan, task.domain, task.modality, task.recipe.spacing_mm)
    return verdict.larger and (care.force or not verdict.refusals)


def segment(judged: Judged, predictor: Predictor, progress: Progress | None = None) -> Prediction:
    """Segment a scan that was judged."""
    return predict_within(judged.scan, judged.box, predictor, progress)
