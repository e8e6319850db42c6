"""Compare two sets of predictions of the same cases, case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.metrics.results import CaseScore, PaperScore, Score
from c3s3_seg.metrics.statistics import statistics

ROUNDING = 1e-6  # relative to the larger value
TIE = 1e-9  # relative to the largest difference
ABSOLUTE_ERROR = "absolute_error_ml"  # a metric of comparisons alone
EXACT = 50  # pairs; beyond, the normal approximation is used


@dataclass(frozen=True)
class Paired:
    """The comparison of one metric of one label in both sets.

    Parameters
    ----------
    label, metric
        Name of the label, and column name of the metric; values are in its unit.
    n
        Number of cases that have a finite value in both sets.
    left_out
        Number of cases in both sets without two finite values: a miss in either gives no number to subtract.
    mean, against
        Means of the first and of the second set over these n cases.
    difference, low, high
        Mean of first minus second, with its 95% interval as in `Statistics`.
    p
        Two-sided p-value of the Wilcoxon signed-rank test: how often chance alone gives such differences.
        Cases that do not differ are left out. Exact, ties included, for up to 50 cases that differ, then the
        normal approximation with continuity correction. nan below two cases; 1 if no case differs.
    missed, against_missed
        Empty predictions of the first and of the second set whose truth is not empty (over all paired cases).
        They improve a mean distance: the protocol `paper` counts them as 0, `clinical` leaves them out. In a
        study, whose records do not have the truth, the predictions of `both_empty` are left out.
    both_empty, against_both_empty
        Predictions of the first and of the second set that are empty like the truth (over all paired cases).
        The protocol `paper` counts them as 0 too: they improve a mean distance and lower a mean Dice.
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
    missed: int = 0
    against_missed: int = 0
    both_empty: int = 0
    against_both_empty: int = 0


def compare(rows: Sequence[CaseScore], against: Sequence[CaseScore]) -> tuple[Paired, ...]:
    """Compare every metric of every label that both sets have; pair the cases by name and label.

    Parameters
    ----------
    rows, against
        Scores of the two sets, by the same protocol. Cases that only one set has are skipped.
    """
    others = {(row.case, row.label): row.score for row in against}
    pairs = [(row, others[row.case, row.label]) for row in rows if (row.case, row.label) in others]
    results = []
    for label in dict.fromkeys(row.label for row, _ in pairs):
        scores = [(row.score, other) for row, other in pairs if row.label == label]
        mine = [(first.flat(), second.flat()) for first, second in scores]
        for metric in mine[0][0]:
            if metric in ("optimistic", "truth_ml"):
                continue
            values = [(a[metric], b[metric]) for a, b in mine]
            if metric == "volume_error_ml":  # its difference is that of the volumes; of interest is its size
                metric, values = ABSOLUTE_ERROR, [(abs(a), abs(b)) for a, b in values]
            results.append(_counted(paired(label, metric, values), scores))
    return tuple(results)


def _counted(found: Paired, scores: Sequence[tuple[Score | PaperScore, Score | PaperScore]]) -> Paired:
    """Return a comparison with the counts of empty predictions of both sets."""
    first, second = zip(*scores, strict=True)
    return replace(
        found,
        missed=_missed(first),
        against_missed=_missed(second),
        both_empty=sum(score.nothing for score in first),
        against_both_empty=sum(score.nothing for score in second),
    )


def _missed(scores: Sequence[Score | PaperScore]) -> int:
    return sum(
        score.optimistic if isinstance(score, PaperScore) else score.volume_ml == 0 < score.truth_ml
        for score in scores
    )


def paired(label: str, metric: str, pairs: Sequence[tuple[float, float]]) -> Paired:
    """Compare one metric of two sets.

    Parameters
    ----------
    label, metric
        Name of the label and column name of the metric.
    pairs
        (value in the first set, value in the second) for each case; left out unless both are finite.
    """
    values = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=1)]
    differences = values[:, 0] - values[:, 1]
    numbers = statistics(differences.tolist())
    first, second = values.mean(axis=0).tolist() if len(values) else (math.nan, math.nan)
    left_out = len(pairs) - len(values)
    difference = (numbers.mean, numbers.low, numbers.high)
    return Paired(label, metric, len(values), left_out, first, second, *difference, _wilcoxon(values))


def _wilcoxon(values: NDArray[np.float64]) -> float:
    if len(values) < 2:
        return math.nan
    differences = values[:, 0] - values[:, 1]
    # Rounding is no evidence, and it is one-sided: a DICOM SEG has its grid in decimals, a NIfTI in float32.
    meant = differences[np.abs(differences) > ROUNDING * np.abs(values).max(axis=1)]
    if not meant.size:
        return 1.0
    doubled = _doubled_ranks(np.abs(meant))
    positive = int(doubled[meant > 0].sum())
    return _exact(doubled, positive) if meant.size <= EXACT else _normal(doubled, positive)


def _doubled_ranks(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return twice the rank of each size, a whole number; equal sizes share their mean rank.

    Sizes within `TIE` count as equal: the unit (voxels or mm) changes the last digits and must not change p.
    """
    order = np.argsort(sizes, kind="stable")
    starts = np.diff(sizes[order], prepend=-np.inf) > TIE * sizes.max()
    group = np.cumsum(starts) - 1
    count = np.bincount(group)
    ranks = np.empty(sizes.size, np.int64)
    ranks[order] = (2 * np.cumsum(count) - count + 1)[group]
    return ranks


def _exact(doubled: NDArray[np.int64], positive: int) -> float:
    """Return the two-sided p as a share of the 2^n sign assignments, counted by doubled rank sum."""
    ways = np.zeros(int(doubled.sum()) + 1)  # up to 2^50, which float64 holds exactly
    ways[0] = 1.0
    for rank in doubled.tolist():
        ways[rank:] += ways[:-rank].copy()
    tail = min(ways[: positive + 1].sum(), ways[positive:].sum())
    return min(1.0, 2 * float(tail) / 2.0**doubled.size)


def _normal(doubled: NDArray[np.int64], positive: int) -> float:
    """Return the two-sided p; the variance, sum of squared ranks / 4, includes the tie correction."""
    ranks = doubled / 2
    away = max(0.0, abs(positive / 2 - ranks.sum() / 2) - 0.5)
    return math.erfc(away / math.sqrt((ranks**2).sum() / 4) / math.sqrt(2))
