"""Two sets of predictions of the same cases, compared case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.statistics import statistics

ROUNDING = 1e-6  # of the value


@dataclass(frozen=True)
class Paired:
    """One metric of one label in both sets.

    Parameters
    ----------
    label, metric
        What was compared; the metric by its column name, in its unit.
    n
        Cases that have a finite value in both sets.
    left_out
        Cases of both sets that have not: a miss in either is no number to subtract.
    mean, against
        Means of the first and of the second set over these n cases.
    difference, low, high
        Mean of first minus second, with its 95% bootstrap interval.
    p
        Wilcoxon signed-rank test, two-sided: how often chance alone gives differences like these.
        nan below two cases; 1 where no case differs.
    """

    label: str
    metric: str
    n: int
    left_out: int
    mean: float
    against: float
    difference: float
    low: float
    high: float
    p: float


def compare(rows: Sequence[CaseScore], against: Sequence[CaseScore]) -> tuple[Paired, ...]:
    """Every metric of every label that both sets have; cases are paired by name and label.

    Parameters
    ----------
    rows, against
        Both of one protocol. Cases that only one of them has are passed over.
    """
    others = {(row.case, row.label): row.score.flat() for row in against}
    pairs = [(row, others[row.case, row.label]) for row in rows if (row.case, row.label) in others]
    results = []
    for label in dict.fromkeys(row.label for row, _ in pairs):
        mine = [(row.score.flat(), other) for row, other in pairs if row.label == label]
        for metric in mine[0][0]:
            if metric not in ("optimistic", "truth_ml"):
                results.append(_paired(label, metric, [(a[metric], b[metric]) for a, b in mine]))
    return tuple(results)


def _paired(label: str, metric: str, pairs: Sequence[tuple[float, float]]) -> Paired:
    values = np.asarray(pairs, dtype=np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    differences = values[:, 0] - values[:, 1]
    numbers = statistics(differences.tolist())
    first, second = values.mean(axis=0).tolist() if len(values) else (math.nan, math.nan)
    left_out = len(pairs) - len(values)
    difference = (numbers.mean, numbers.low, numbers.high)
    return Paired(label, metric, len(values), left_out, first, second, *difference, _wilcoxon(values))


def _wilcoxon(values: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    if len(values) < 2:
        return math.nan
    differences = values[:, 0] - values[:, 1]
    # Rounding is no evidence, and it goes one way: a DICOM SEG has its grid in decimals, a NIfTI in float32.
    reach = np.maximum(ROUNDING * np.abs(values).max(axis=1), 1e-12)
    meant = np.where(np.abs(differences) < reach, 0.0, differences)
    return float(wilcoxon(meant).pvalue) if meant.any() else 1.0
