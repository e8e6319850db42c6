"""Several methods and seeds on the same cases -> one table: mean, spread over seeds, paired test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from c3s3_seg.metrics.paired_tests import Paired, compare
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.scoring import PaperScore
from c3s3_seg.metrics.statistics import statistics

MIXED = (
    "The runs were not made under the same conditions, so their minutes and scores are not fully comparable:"
)
METRICS = ("dice", "jaccard", "hd95_vox", "asd_vox")
Cases = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Conditions:
    """Under what a run was trained. Rows of one table are compared fairly only under the same.

    Parameters
    ----------
    machine
        The processor or the GPU, as the system names it.
    precision
        In which the networks computed: float32, bfloat16 or float16.
    code
        Versions of c3s3-seg and torch, and a hash of the code that trains and measures.

    An empty text: a record that is older than these keys.
    """

    machine: str = ""
    precision: str = ""
    code: str = ""

    def __str__(self) -> str:
        named = {"machine": self.machine, "precision": self.precision, "code": self.code}
        return ", ".join(text or f"{name} not recorded" for name, text in named.items())


@dataclass(frozen=True)
class Trained:
    """One run of a study.

    Parameters
    ----------
    entry, seed
        Which method, and which beginning.
    iterations, seconds
        What it took.
    nets
        Net -> case -> label -> metric -> value, by the paper protocol, after the last iteration.
    conditions
        Machine, precision and code.
    """

    entry: str
    seed: int
    iterations: int
    seconds: float
    nets: Mapping[str, Cases]
    conditions: Conditions = Conditions()


@dataclass(frozen=True)
class StudyRow:
    """One net of one method over its seeds.

    Parameters
    ----------
    entry, net
        Nobody chooses between the nets of a method: each has a row, so that a method of two nets
        gains nothing over a method of one by being asked twice.
    seeds, iterations, seconds
        Number of runs; iterations and mean seconds of one.
    mean, spread
        Metric -> mean over seeds of the mean over cases and labels; standard deviation over seeds
        (0 for a single one).
    missed
        Predictions over all runs that were empty and count as (0, 0, 0, 0) in this protocol.
    infinite
        Predictions over all runs of a label that the truth does not have: their distances are infinite and
        in no mean.
    against
        Metric -> this row minus the same net of the reference, case by case; each case's values are
        averaged over labels and seeds. The two nets of one architecture (`vnet-a`, `vnet-b`) are compared
        with the one (`vnet`). Empty for the reference itself, and where it has no such net.
    interval
        Metric -> 95 % interval of the mean over cases, each averaged over labels and seeds (bootstrap).
    """

    entry: str
    net: str
    seeds: int
    iterations: int
    seconds: float
    mean: dict[str, float]
    spread: dict[str, float]
    missed: int
    against: dict[str, Paired]
    infinite: int = 0
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)


def study_rows(runs: Sequence[Trained], reference: str) -> list[StudyRow]:
    """One row for each entry and net, in the order in which they first appear.

    Parameters
    ----------
    runs
        All on the same validation cases.
    reference
        The entry that the others are compared with.
    """
    keys = dict.fromkeys((run.entry, net) for run in runs for net in run.nets)
    return [_row(entry, net, runs, reference) for entry, net in keys]


def _row(entry: str, net: str, runs: Sequence[Trained], reference: str) -> StudyRow:
    mine = [run for run in runs if run.entry == entry and net in run.nets]
    theirs = [run for run in runs if run.entry == reference]
    same = net if any(net in run.nets for run in theirs) else net.removesuffix("-a").removesuffix("-b")
    other = [run for run in theirs if same in run.nets]
    values = [_values(run.nets[net]) for run in mine]
    means = {m: [_mean([v[m] for v in one]) for one in values] for m in METRICS}
    cases = _per_case(mine, net)
    paired = compare(cases, _per_case(other, same)) if other and entry != reference else ()
    return StudyRow(
        entry,
        net,
        seeds=len(mine),
        iterations=mine[0].iterations,
        seconds=fmean(run.seconds for run in mine),
        mean={m: _mean(of_seeds) for m, of_seeds in means.items()},
        spread={m: _spread_of(of_seeds) for m, of_seeds in means.items()},
        missed=sum(_missed(v) for one in values for v in one),
        against={pair.metric: pair for pair in paired},
        infinite=sum(math.isinf(v["hd95_vox"]) for one in values for v in one),
        interval={m: _interval([case.score.flat()[m] for case in cases]) for m in METRICS},
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    found = statistics(values)
    return found.low, found.high


def runs_under(runs: Sequence[Trained]) -> dict[Conditions, list[Trained]]:
    """The runs under each of the conditions; of a fair table there is one."""
    found: dict[Conditions, list[Trained]] = {}
    for run in runs:
        found.setdefault(run.conditions, []).append(run)
    return found


def mixture(runs: Sequence[Trained]) -> list[str]:
    """A line for each of several conditions with its runs; none where all runs had the same."""
    found = runs_under(runs)
    return [f"{conditions}: {_named(under)}" for conditions, under in found.items()] * (len(found) > 1)


def _named(runs: Sequence[Trained]) -> str:
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run.entry, []).append(run.seed)
    return ", ".join(f"{entry} (seed {', '.join(map(str, which))})" for entry, which in seeds.items())


def _mean(values: Sequence[float]) -> float:
    """Of the finite ones; nan where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def _spread_of(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]  # `stdev` takes no other
    return stdev(finite) if len(finite) > 1 else 0.0


def _values(cases: Cases) -> list[Mapping[str, float]]:
    return [metrics for labels in cases.values() for metrics in labels.values()]


def _missed(metrics: Mapping[str, float]) -> bool:
    return metrics["dice"] == 0 and metrics["hd95_vox"] == 0


def _per_case(runs: Sequence[Trained], net: str) -> list[CaseScore]:
    """Each case once: its metrics averaged over labels and seeds."""
    rows = []
    for case in runs[0].nets[net]:
        values = [metrics for run in runs for metrics in run.nets[net][case].values()]
        means = {m: fmean(v[m] for v in values) for m in METRICS}
        score = PaperScore(**means, optimistic=any(map(_missed, values)))
        rows.append(CaseScore(case, "all", score, None))
    return rows


def study_markdown(rows: Sequence[StudyRow], reference: str, mixed: Sequence[str] = ()) -> str:
    """The table for a README or a log, and of `mixture` what it mixes."""
    head = ["method", "net", "seeds", "iterations", "min a run", "Dice", "95HD (voxel)", "ASD (voxel)"]
    head += [f"Dice minus {reference} [95 %], p", f"95HD minus {reference} [95 %], p"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row.entry, row.net, str(row.seeds), str(row.iterations), f"{row.seconds / 60:.0f}"]
        cells += [_spread(row, "dice", 3), _spread(row, "hd95_vox", 2), _spread(row, "asd_vox", 2)]
        cells += [_difference(row, "dice", 3), _difference(row, "hd95_vox", 2)]
        lines.append("| " + " | ".join(cells) + " |")
    missed = sum(row.missed for row in rows)
    if missed:
        lines.append(f"\n{missed} predictions were empty; this protocol counts them as (0, 0, 0, 0).")
    infinite = sum(row.infinite for row in rows)
    if infinite:
        lines.append(
            f"\n{infinite} infinite distances (a label that the truth does not have) are in no mean."
        )
    if mixed:
        lines += [f"\n{MIXED}\n", *(f"- {line}" for line in mixed)]
    return "\n".join(lines) + "\n"


def _spread(row: StudyRow, metric: str, decimals: int) -> str:
    text = f"{row.mean[metric]:.{decimals}f}"
    return f"{text} ± {row.spread[metric]:.{decimals}f}" if row.seeds > 1 else text


def _difference(row: StudyRow, metric: str, decimals: int) -> str:
    pair = row.against.get(metric)
    if pair is None:
        return ""
    ends = f"{pair.low:+.{decimals}f}, {pair.high:+.{decimals}f}"
    return f"{pair.difference:+.{decimals}f} [{ends}], {pair.p:.3f}"
