"""Validation goes through the very predictor that ships, on the scans' own grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import nn

from c3s3_seg.bundle import Task
from c3s3_seg.inference.backends import TorchBackend
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.training.data import ValidationCase


@dataclass(frozen=True)
class Validation:
    """Means over cases and labels in the paper protocol: voxels, an empty prediction counts as 0.

    Parameters
    ----------
    candidate
        The net's name.
    per_case
        Case -> label -> {dice, jaccard, hd95_vox, asd_vox}.
    """

    candidate: str
    dice: float
    jaccard: float
    hd95_vox: float
    asd_vox: float
    per_case: dict[str, dict[str, dict[str, float]]]

    def record(self, iteration: int) -> dict[str, Any]:
        """For the history and the card."""
        means = {k: round(getattr(self, k), 4) for k in ("dice", "jaccard", "hd95_vox", "asd_vox")}
        return {"iteration": iteration, "candidate": self.candidate, **means}


def validate(name: str, net: nn.Module, task: Task, cases: Sequence[ValidationCase]) -> Validation:
    """Predict and score every case with one net."""
    from c3s3_seg.metrics import paper_scores

    predictor = Predictor(task, [TorchBackend(net)])
    per_case: dict[str, dict[str, dict[str, float]]] = {}
    for case in cases:
        mask = predictor(case.scan).mask
        per_case[case.name] = {}
        found = paper_scores(mask, case.truth, list(task.label_values.values()))
        for label in task.labels:
            score = found[label.value]
            per_case[case.name][label.name] = {
                "dice": score.dice,
                "jaccard": score.jaccard,
                "hd95_vox": score.hd95_vox,
                "asd_vox": score.asd_vox,
            }
    rows = [row for labels in per_case.values() for row in labels.values()]
    means = {key: fmean(row[key] for row in rows) for key in rows[0]}
    return Validation(candidate=name, per_case=per_case, **means)
