"""Compute statistics over cases; every infinite or undefined value that is left out is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.metrics.results import CaseScore, PaperScore

RESAMPLES = 2000
LEAST_UNITS = 5  # no interval below, as nothing is known of the shape of the distribution
ENOUGH_UNITS = 30  # Student t below, as the percentile bootstrap is too narrow
WORST_CASES = 5


@dataclass(frozen=True)
class Statistics:
    """The statistics of one metric over the cases of one label.

    Parameters
    ----------
    n, infinite, undefined
        Numbers of cases, of infinite values (one mask empty) and of nan values (both masks empty).
    mean, sd, median, q1, q3
        Statistics of the finite values. `sd` has n - 1 in its denominator, quartiles interpolate linearly.
    low, high
        95% interval of the mean: none below 5 finite values, Student t from 5 to 29, and from 30 on the
        percentile bootstrap over cases with 2,000 resamples and a fixed seed. Its ends are not beyond the
        values that the metric can have.
    mean_penalised
        Mean with the image diagonal in place of each infinite value, and of the 0 that the protocol `paper`
        gives a miss: the value of `mean` if a miss cost the largest possible distance. nan if a diagonal that
        is needed is unknown.

    All are nan if there is nothing to compute them from (`sd`: fewer than two values).
    """

    n: int
    infinite: int
    undefined: int
    mean: float
    sd: float
    median: float
    q1: float
    q3: float
    low: float
    high: float
    mean_penalised: float


@dataclass(frozen=True)
class Cohort:
    """The statistics of all cases of one label.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Number of measured cases.
    optimistic
        Number of missed cases that the paper protocol counted with a distance of 0: the prediction is empty,
        the truth is not.
    both_empty
        Number of cases in which both masks are empty. The protocol `paper` counts them as 0 in every mean,
        `clinical` as a Dice of 1 without a distance.
    metrics
        Pairs (column, statistics), in the order of the score's columns; without `optimistic`.
    worst_cases
        Names of up to five cases, the lowest Dice first; no case in which both masks are empty.
    """

    label: str
    cases: int
    optimistic: int
    both_empty: int
    metrics: tuple[tuple[str, Statistics], ...]
    worst_cases: tuple[str, ...]

    def of(self, column: str) -> Statistics:
        """Return the statistics of one column.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        return dict(self.metrics)[column]


def cohorts(rows: Sequence[CaseScore]) -> tuple[Cohort, ...]:
    """Return the statistics of each label, in order of first appearance; () if there are no rows."""
    labels = dict.fromkeys(row.label for row in rows)
    return tuple(_cohort(label, [row for row in rows if row.label == label]) for label in labels)


def value_range(column: str) -> tuple[float, float]:
    """Return the lowest and the highest value that a column of a score can have."""
    if column.startswith(("dice", "jaccard", "nsd")):
        return 0.0, 1.0
    return (-math.inf if column == "volume_error_ml" else 0.0), math.inf


def statistics(
    values: Sequence[float],
    worst: Sequence[float | None] | None = None,
    *,
    missed: Sequence[bool] | None = None,
    within: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
) -> Statistics:
    """Return the statistics of one metric.

    Parameters
    ----------
    values
        One value for each case; inf and nan are counted separately.
    worst
        For each case the replacement of an infinite value in `mean_penalised`, in the metric's unit.
    missed
        Whether each case is a miss with a distance of 0, which is replaced there too; None: none is.
    within
        Lowest and highest possible value, as from `value_range`: the interval ends there.
    seed
        Seed of the bootstrap.
    """
    all_values = np.asarray(values, dtype=np.float64)
    infinite, undefined = np.isinf(all_values), np.isnan(all_values)
    finite = all_values[np.isfinite(all_values)]
    q1, median, q3 = np.percentile(finite, (25, 50, 75)) if finite.size else (math.nan,) * 3
    low, high = np.clip(_interval(finite, seed), *within)
    return Statistics(
        n=all_values.size,
        infinite=int(infinite.sum()),
        undefined=int(undefined.sum()),
        mean=float(finite.mean()) if finite.size else math.nan,
        sd=float(finite.std(ddof=1)) if finite.size > 1 else math.nan,
        median=float(median),
        q1=float(q1),
        q3=float(q3),
        low=float(low),
        high=float(high),
        mean_penalised=_penalised(np.where(missed, np.inf, all_values) if missed else all_values, worst),
    )


def _cohort(label: str, rows: Sequence[CaseScore]) -> Cohort:
    columns = [name for name in rows[0].score.flat() if name != "optimistic"]
    optimistic = [isinstance(row.score, PaperScore) and row.score.optimistic for row in rows]
    flat = [row.score.flat() for row in rows]
    metrics = []
    for name in columns:
        # A diagonal is in mm or in voxels: it can only replace values in the same unit.
        unit = name.rpartition("_")[2]
        worst = [{"mm": row.diagonal_mm, "vox": row.diagonal_vox}.get(unit) for row in rows]
        missed = optimistic if unit == "vox" else None
        values = [scores[name] for scores in flat]
        found = statistics(values, worst, missed=missed, within=value_range(name))
        metrics.append((name, found))
    there = [row for row in rows if not row.score.nothing]
    ordered = sorted(there, key=lambda row: (row.score.dice, row.case))
    both_empty, worst_cases = len(rows) - len(there), tuple(row.case for row in ordered[:WORST_CASES])
    return Cohort(label, len(rows), sum(optimistic), both_empty, tuple(metrics), worst_cases)


def _penalised(values: NDArray[np.float64], worst: Sequence[float | None] | None) -> float:
    stand_ins = worst or [None] * values.size
    pairs = zip(values.tolist(), stand_ins, strict=True)
    filled = [(math.nan if w is None else w) if math.isinf(v) else v for v, w in pairs if not math.isnan(v)]
    return float(np.mean(filled)) if filled else math.nan


def _interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    if values.size < LEAST_UNITS:
        return math.nan, math.nan
    return _student(values) if values.size < ENOUGH_UNITS else _bootstrap(values, seed)


def _student(values: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.special import stdtrit

    mean = float(values.mean())
    half = float(stdtrit(values.size - 1, 0.975) * values.std(ddof=1)) / math.sqrt(values.size)
    return mean - half, mean + half


def _bootstrap(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    # Drawn in blocks, so that a cohort of 100,000 cases needs no table of 2,000 times its size.
    rows = max(1, min(RESAMPLES, 1_000_000 // values.size))
    means: list[NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), values.size)
        means.append(values[rng.integers(values.size, size=shape)].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)
