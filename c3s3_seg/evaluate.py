"""Measure a folder of predictions against a folder of truths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.files import make_folder
from c3s3_seg.metrics import diagonal_mm, labels_in, paper_scores, scores
from c3s3_seg.report.cohort import Cohort, cohorts
from c3s3_seg.report.compare import Paired, compare
from c3s3_seg.report.rows import CaseScore, Failure, Protocol
from c3s3_seg.report.tables import write_cases_csv, write_report_json

if TYPE_CHECKING:
    from c3s3_seg.io import Case

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` measured and wrote.

    Parameters
    ----------
    rows
        One for each case and label that could be measured, in the order of the cases.
    failures
        Every case that could not, with its reason.
    cohorts
        Statistics for each label.
    labels
        Pairs (name, value) that were measured.
    csv_path, json_path
        The files that were written.
    comparison
        With the other set of predictions; empty where there is none.
    """

    rows: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]
    cohorts: tuple[Cohort, ...]
    labels: tuple[tuple[str, int], ...]
    csv_path: Path
    json_path: Path
    comparison: tuple[Paired, ...] = ()


def evaluate(
    predictions: Path,
    truth: Path,
    out: Path,
    *,
    protocol: Protocol = "clinical",
    labels: Mapping[str, int] | None = None,
    against: Path | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure every prediction that has a truth and write `cases.csv` and `report.json`.

    Parameters
    ----------
    predictions
        A mask, or a folder of masks; files that are no images are passed over.
    truth
        A mask, or a folder of masks named like the predictions.
    out
        The folder for the two files; it is made if it is missing.
    protocol
        `clinical`: mm, see `metrics.score`. `paper`: voxels, see `metrics.paper_score`.
    labels
        Name -> value. None: every label of any truth, as `label_1`, `label_2`, ...; `label_1` alone
        where all truths are empty.
    against
        Another set of predictions of the same cases, measured too and compared case by case.
    progress
        Called with a line for each case before it is measured.

    Returns
    -------
    EvaluationResult
        A prediction without truth, a truth without prediction and a case that cannot be read or
        measured are failures with their reasons; the other cases go on.

    Raises
    ------
    InputError
        If no prediction has a truth, a value is given for the background, or `out` cannot be written.
    C3S3Error
        What is wrong with a case, where there is only one.
    """
    from c3s3_seg.io import find_cases

    if labels is not None and (not labels or 0 in labels.values()):
        raise InputError(f"found the labels {dict(labels)}, wanted at least one and none with value 0")
    make_folder(out)
    mine = _measure_all(find_cases([predictions]), truth, labels, protocol, progress)
    comparison: tuple[Paired, ...] = ()
    failures = mine.failures
    if against is not None:
        other = _measure_all(find_cases([against]), truth, dict(mine.labels), protocol, progress)
        failures += tuple(Failure(f"{f.case} (against)", f.reason) for f in other.failures)
        comparison = compare(mine.rows, other.rows)
    csv_path, json_path = out / "cases.csv", out / "report.json"
    write_cases_csv(csv_path, mine.rows)
    write_report_json(json_path, mine.rows, failures, protocol=protocol, comparison=comparison)
    groups = cohorts(mine.rows)
    return EvaluationResult(mine.rows, failures, groups, mine.labels, csv_path, json_path, comparison)


@dataclass(frozen=True)
class _Measured:
    """One set of predictions."""

    rows: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]
    labels: tuple[tuple[str, int], ...]


def _measure_all(
    cases: Sequence[Case],
    truth: Path,
    labels: Mapping[str, int] | None,
    protocol: Protocol,
    progress: Progress | None,
) -> _Measured:
    """Every case that has a truth; the others, and those that cannot be measured, are failures."""
    from c3s3_seg.io import match_truth

    pairs = match_truth(cases, truth)
    failures = _unpaired(cases, truth, pairs)
    cases = [case for case in cases if case.name in pairs]
    labels = labels or _labels_of(pairs.values())
    rows: list[CaseScore] = []
    for number, case in enumerate(cases, 1):
        if progress:
            progress(f"{number}/{len(cases)} {case.name}")
        try:
            rows += _measure(case, pairs[case.name], labels, protocol)
        except Exception as error:  # one bad case must not stop the others, whatever is wrong with it
            if len(cases) == 1 and isinstance(error, C3S3Error):
                raise
            failures.append(Failure(case.name, _reason(error)))
    return _Measured(tuple(rows), tuple(failures), tuple(labels.items()))


def _unpaired(cases: Sequence[Case], truth: Path, pairs: Mapping[str, Path]) -> list[Failure]:
    """Predictions without truth and truths without prediction."""
    from c3s3_seg.io import find_cases

    failures = [
        Failure(case.name, f"no truth for this prediction in {truth}")
        for case in cases
        if case.name not in pairs
    ]
    used = {path.resolve() for path in pairs.values()}
    # Predictions and truths may lie in one folder, as case and case_gt.
    used |= {case.path.resolve() for case in cases}
    return failures + [
        Failure(case.name, f"no prediction for this truth, {case.path}")
        for case in find_cases([truth])
        if case.path.resolve() not in used
    ]


def _labels_of(truths: Iterable[Path]) -> dict[str, int]:
    from c3s3_seg.io import load_mask

    found: set[int] = set()
    for path in truths:
        try:
            found.update(labels_in(load_mask(path)))
        except Exception:  # the case is read again when it is measured, and fails there with its reason
            continue
    return {f"label_{value}": value for value in sorted(found or {1})}


def _measure(case: Case, truth: Path, labels: Mapping[str, int], protocol: Protocol) -> list[CaseScore]:
    from c3s3_seg.io import load_mask

    prediction, wanted = load_mask(case.path), load_mask(truth)
    measure = scores if protocol == "clinical" else paper_scores
    diagonal = diagonal_mm(wanted.geometry)
    found = measure(prediction, wanted, list(labels.values()))
    return [CaseScore(case.name, name, found[value], diagonal) for name, value in labels.items()]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, C3S3Error) else f"{type(error).__name__}: {error}"
