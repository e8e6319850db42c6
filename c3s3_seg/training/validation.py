"""Validate nets with the same predictor that ships, on the scans' own grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from torch import nn

from c3s3_seg.bundle import Task
from c3s3_seg.dataset.check.case_faults import own_labels
from c3s3_seg.inference.backends.runtimes import TorchBackend
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.training.cases import ValidationCase

SCORES = ("dice", "jaccard", "hd95_vox", "asd_vox")


@dataclass(frozen=True)
class Validation:
    """Means over cases and labels in the paper's protocol: in voxels, an empty prediction counts as 0.

    Pairs of case and label that are empty in truth and prediction are in no mean: nothing was missed. A
    prediction of a label that the truth lacks, a false alarm, counts as Dice 0.

    Parameters
    ----------
    candidate
        Name of the net.
    dice, jaccard
        Means over all cases and labels; nan if all are empty in truth and prediction.
    hd95_vox, asd_vox
        Means over the finite distances; nan if no prediction gave one, for example if all are empty.
    per_case
        Case -> label -> {dice, jaccard, hd95_vox, asd_vox}. A label that is predicted and not in the truth
        has infinite distances; one that is empty in both has nan for all four.
    infinite
        Number of infinite distances, which are not in the means.
    lacking
        Pairs (case, label) where the truth has no voxel of the label.
    both_empty
        Number of those where the prediction has none either.
    """

    candidate: str
    dice: float
    jaccard: float
    hd95_vox: float
    asd_vox: float
    per_case: dict[str, dict[str, dict[str, float]]]
    infinite: int = 0
    lacking: frozenset[tuple[str, str]] = frozenset()
    both_empty: int = 0

    @property
    def remark(self) -> str:
        """The remark to print beside the means; empty if every distance is in the means."""
        return f" ({self.infinite} infinite distances left out)" if self.infinite else ""

    @property
    def by_label(self) -> dict[str, float]:
        """Mean Dice of each label over the cases that have it."""
        found: dict[str, list[float]] = {}
        for case, labels in self.per_case.items():
            for name in labels:
                if (case, name) not in self.lacking:
                    found.setdefault(name, []).append(labels[name]["dice"])
        return {name: fmean(values) for name, values in found.items()}

    def record(self, iteration: int) -> dict[str, Any]:
        """Return the record for the history and the card."""
        means = {k: round(getattr(self, k), 4) for k in SCORES}
        counts = {"infinite": self.infinite, "both_empty": self.both_empty}
        left_out = {name: count for name, count in counts.items() if count}
        return {"iteration": iteration, "candidate": self.candidate, **means, **left_out}


def validate(name: str, net: nn.Module, task: Task, cases: Sequence[ValidationCase]) -> Validation:
    """Predict and score every case with one net."""
    from c3s3_seg.metrics.scoring import paper_scores

    predictor = Predictor(replace(task, domain=None), [TorchBackend(net)])
    per_case: dict[str, dict[str, dict[str, float]]] = {}
    missed, lacking, rows = 0, set[tuple[str, str]](), list[dict[str, float]]()
    for case in cases:
        mask = predictor(case.scan).mask
        per_case[case.name] = {}
        found = paper_scores(mask, own_labels(case.truth, task), list(task.label_values.values()))
        for label in task.labels:
            score = found[label.value]
            missed += score.optimistic
            if math.isinf(score.hd95_vox) or score.nothing:
                lacking.add((case.name, label.name))
            numbers = (score.dice, score.jaccard, score.hd95_vox, score.asd_vox)
            # The protocol's zeros would count as a miss in each table that reads these numbers.
            numbers = (math.nan,) * 4 if score.nothing else numbers
            per_case[case.name][label.name] = dict(zip(SCORES, numbers, strict=True))
            if not score.nothing:
                rows.append(per_case[case.name][label.name])
    overlap = {key: fmean(row[key] for row in rows) if rows else math.nan for key in SCORES[:2]}
    distances = {key: _mean_distance([row[key] for row in rows], missed) for key in SCORES[2:]}
    infinite = sum(math.isinf(row["hd95_vox"]) for row in rows)
    return Validation(
        candidate=name,
        per_case=per_case,
        infinite=infinite,
        lacking=frozenset(lacking),
        both_empty=len(cases) * len(task.labels) - len(rows),
        **overlap,
        **distances,
    )


def _mean_distance(values: Sequence[float], missed: int) -> float:
    """Return the mean of the finite values; nan if there are none but the zeros of empty predictions."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if len(finite) > missed else math.nan
