"""Tabulate several methods and seeds on the same cases: mean, spread over seeds, paired test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from c3s3_seg.metrics.paired_tests import Paired, paired
from c3s3_seg.metrics.statistics import Statistics, statistics, value_range

METRICS = ("dice", "jaccard", "hd95_vox", "asd_vox")
Metrics = Mapping[str, float]
Cases = Mapping[str, Mapping[str, Metrics]]
Cells = Mapping[tuple[str, str, int], Metrics]  # (case, label, seed) -> its metrics


@dataclass(frozen=True)
class Conditions:
    """The conditions of a training run. Rows of one table compare fairly only if these are the same.

    Parameters
    ----------
    machine
        Processor or GPU, as the system names it.
    precision
        Number format of the computation: float32, bfloat16 or float16.
    code
        Versions of c3s3-seg and torch, and a hash of the code that trains and measures.
    start
        Bundle that the run began from, with a hash of its weights; empty: random weights.

    The other texts are empty in a record that is older than these keys.
    """

    machine: str = ""
    precision: str = ""
    code: str = ""
    start: str = ""

    def __str__(self) -> str:
        named = {"machine": self.machine, "precision": self.precision, "code": self.code}
        words = [text or f"{name} not recorded" for name, text in named.items()]
        return ", ".join([*words, *([f"begun from {self.start}"] if self.start else [])])


@dataclass(frozen=True)
class Trained:
    """One run of a study.

    Parameters
    ----------
    entry, seed
        Name of the method, and random seed.
    iterations, seconds
        Number of iterations, and wall clock.
    nets
        Net -> case -> label -> metric -> value, by the paper protocol, after the last iteration.
    conditions
        Machine, precision and code.
    earlier
        Other conditions of a run that was stopped under these and resumed.
    cases
        Hash of the names of the training and validation cases; "" in older records.
    """

    entry: str
    seed: int
    iterations: int
    seconds: float
    nets: Mapping[str, Cases]
    conditions: Conditions = Conditions()
    earlier: tuple[Conditions, ...] = ()
    cases: str = ""


@dataclass(frozen=True)
class StudyRow:
    """One net of one method over its seeds.

    Parameters
    ----------
    entry, net
        Method and net. Each net has a row and nobody picks the better one, so that a method of two nets
        gains nothing over a method of one by having two tries.
    seeds, iterations, seconds
        Number of runs; iterations and mean seconds of one.
    mean, spread
        Metric -> mean over cases, each averaged over its finite values of all labels and seeds; standard
        deviation over seeds of each seed's mean (nan if fewer than two are finite).
    missed
        Number of predictions, over all runs, that were empty and count as (0, 0, 0, 0) in this protocol.
    infinite
        Number of predictions, over all runs, of a label that the truth lacks: their distances are infinite
        and in no mean.
    against
        Metric -> this row minus the same net of the reference, case by case, over the seeds that both have.
        A value counts if it is finite in both rows for the same case, label and seed (`left_out`: the
        others); these values are averaged over each case. Two nets of one architecture (`vnet-a`, `vnet-b`)
        are compared with the single net (`vnet`). Empty for the reference itself, and if the reference has
        no such net or no common seed.
    interval
        Metric -> 95 % interval of the mean over the same cases, as in `Statistics`.
    n, left_out
        Metric -> number of cases in the mean and the interval; number of values (of a case, label and seed)
        that are not finite and in neither.
    common
        Number of seeds that are compared with the reference.
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
    infinite: int
    interval: dict[str, tuple[float, float]]
    n: dict[str, int]
    left_out: dict[str, int]
    common: int


def study_rows(runs: Sequence[Trained], reference: str) -> list[StudyRow]:
    """Return one row for each entry and net, in the order in which they first appear.

    Parameters
    ----------
    runs
        Runs, all on the same validation cases.
    reference
        Entry that the others are compared with.
    """
    keys = dict.fromkeys((run.entry, net) for run in runs for net in run.nets)
    return [_row(entry, net, runs, reference) for entry, net in keys]


def _row(entry: str, net: str, runs: Sequence[Trained], reference: str) -> StudyRow:
    mine = [run for run in runs if run.entry == entry and net in run.nets]
    theirs = [run for run in runs if run.entry == reference]
    same = net if any(net in run.nets for run in theirs) else net.removesuffix("-a").removesuffix("-b")
    other = [run for run in theirs if same in run.nets]
    cells, others = _cells(mine, net), _cells(other, same)
    common = {run.seed for run in mine} & {run.seed for run in other} if entry != reference else set()
    found = {m: _over_cases(cells, m) for m in METRICS}
    return StudyRow(
        entry,
        net,
        seeds=len(mine),
        iterations=mine[0].iterations,
        seconds=fmean(run.seconds for run in mine),
        mean={m: numbers.mean for m, numbers in found.items()},
        spread={m: _spread_of([_over_cases(_cells([run], net), m).mean for run in mine]) for m in METRICS},
        missed=sum(map(_missed, cells.values())),
        against={m: _against(m, cells, others) for m in METRICS} if common else {},
        infinite=sum(math.isinf(metrics["hd95_vox"]) for metrics in cells.values()),
        interval={m: (numbers.low, numbers.high) for m, numbers in found.items()},
        n={m: numbers.n for m, numbers in found.items()},
        left_out={m: sum(not math.isfinite(metrics[m]) for metrics in cells.values()) for m in METRICS},
        common=len(common),
    )


def _cells(runs: Sequence[Trained], net: str) -> Cells:
    return {
        (case, label, run.seed): metrics
        for run in runs
        for case, labels in run.nets[net].items()
        for label, metrics in labels.items()
    }


def _over_cases(cells: Cells, metric: str) -> Statistics:
    """Return mean and interval over the same units: cases, each averaged over its finite values."""
    by_case: dict[str, list[float]] = {}
    for (case, _, _), metrics in cells.items():
        if math.isfinite(metrics[metric]):
            by_case.setdefault(case, []).append(metrics[metric])
    return statistics([fmean(values) for values in by_case.values()], within=value_range(metric))


def _against(metric: str, mine: Cells, theirs: Cells) -> Paired:
    """Compare case by case, each averaged over the labels and seeds whose value is finite in both."""
    both = {cell: (mine[cell][metric], theirs[cell][metric]) for cell in mine if cell in theirs}
    finite = {cell: pair for cell, pair in both.items() if all(map(math.isfinite, pair))}
    by_case: dict[str, list[tuple[float, float]]] = {}
    for (case, _, _), pair in finite.items():
        by_case.setdefault(case, []).append(pair)
    units = [(fmean(a for a, _ in pairs), fmean(b for _, b in pairs)) for pairs in by_case.values()]
    missed = [sum(_missed(cells[cell]) for cell in both) for cells in (mine, theirs)]
    found = paired("all", metric, units)
    return replace(found, left_out=len(both) - len(finite), missed=missed[0], against_missed=missed[1])


def runs_under(runs: Sequence[Trained]) -> dict[Conditions, list[Trained]]:
    """Return the runs by their conditions, all that a run had; a fair table has one key."""
    found: dict[Conditions, list[Trained]] = {}
    for run in runs:
        for conditions in dict.fromkeys((*run.earlier, run.conditions)):
            found.setdefault(conditions, []).append(run)
    return found


def mixture(runs: Sequence[Trained]) -> list[str]:
    """Return a line for each of several conditions with its runs; empty if all runs had the same."""
    found = runs_under(runs)
    return [f"{conditions}: {_named(under)}" for conditions, under in found.items()] * (len(found) > 1)


def _named(runs: Sequence[Trained]) -> str:
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run.entry, []).append(run.seed)
    return ", ".join(f"{entry} (seed {', '.join(map(str, which))})" for entry, which in seeds.items())


def _spread_of(means: Sequence[float]) -> float:
    finite = [mean for mean in means if math.isfinite(mean)]  # `stdev` takes finite values only
    return stdev(finite) if len(finite) > 1 else math.nan


def _missed(metrics: Metrics) -> bool:
    return metrics["dice"] == 0 and metrics["hd95_vox"] == 0
