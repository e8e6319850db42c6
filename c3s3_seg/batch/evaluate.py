"""Measure a folder of predictions against a folder of truths, and write the report."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from c3s3_seg.batch.measure import EvaluationSettings, MeasuredSet, measure_set, public_path
from c3s3_seg.errors import InputError, shown
from c3s3_seg.metrics.paired_tests import Paired, compare
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.statistics import Cohort, cohorts
from c3s3_seg.report.label_values import uncompared
from c3s3_seg.report.rows import CaseFiles, Failure
from c3s3_seg.report.tables import today, write_cases_csv, write_report_json
from c3s3_seg.system.files import make_folder
from c3s3_seg.system.names import printable
from c3s3_seg.system.ownership import TODO, check_output, is_ours, read_case, remove_ours
from c3s3_seg.system.progress import Progress

__all__ = ["EvaluationResult", "EvaluationSettings", "evaluate"]

CSV, JSON, PAGE = "cases.csv", "report.json", "report.html"


@dataclass(frozen=True)
class EvaluationResult:
    """The scores that `evaluate` measured and the files that it wrote.

    Parameters
    ----------
    rows
        One score for each case and label that could be measured, in the order of the cases.
    failures
        Every case that could not be measured, with its reason.
    cohorts
        Statistics for each label.
    labels
        Pairs (name, value) of the measured labels.
    csv_path, json_path
        The files that were written.
    comparison
        Comparison with the other set of predictions; empty if there is none.
    html_path
        The page; None if not requested.
    remarks
        Remarks on the labels of the whole set, such as labels that predictions hold and no truth does.
    page_removed
        Whether the page of an earlier evaluation was removed, since it showed other numbers.
    """

    rows: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]
    cohorts: tuple[Cohort, ...]
    labels: tuple[tuple[str, int], ...]
    csv_path: Path
    json_path: Path
    comparison: tuple[Paired, ...] = ()
    html_path: Path | None = None
    remarks: tuple[str, ...] = ()
    page_removed: bool = False


def evaluate(
    predictions: Path,
    truth: Path,
    out: Path,
    settings: EvaluationSettings | None = None,
    *,
    against: Path | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure every prediction that has a truth and write `cases.csv` and `report.json`.

    Parameters
    ----------
    predictions
        A mask (an image file, a DICOM SEG or an RTSTRUCT), or a folder of masks, see `io.mask_files`.
    truth
        A mask or a folder of masks, named like the predictions.
    out
        The folder for the files; created if it is missing.
    settings
        How to measure; None: `EvaluationSettings()`.
    against
        Another set of predictions of the same cases, measured too and compared case by case. Predictions of
        one truth are a pair, whatever their names are. None of its cases ends the evaluation.
    progress
        Called with (case, number done, total number) after each case.

    Returns
    -------
    EvaluationResult
        A prediction without truth, a truth without prediction and a case that cannot be read or
        measured are failures with their reasons; the other cases continue.

    Raises
    ------
    InputError
        If no prediction has a truth, the other set is the truth, predictions or truths look like scans, they
        have no label in common over the whole set, the given labels are empty or include 0, or `out` cannot
        be written, or has files of `predict` in their place: the page of all cases (`settings.html`), or a
        case called `report`.
    C3S3Error
        The error of the case, if there is only one; an error of the page, when the other files are complete.
    """
    settings = settings or EvaluationSettings()
    labels = settings.labels
    if labels is not None and (not labels or 0 in labels.values()):
        raise InputError(f"found the labels {shown(dict(labels))}, wanted at least one and none with value 0")
    if against is not None and os.path.realpath(against) == os.path.realpath(truth):
        what = "the other predictions (--against) and the truth are the same"
        raise InputError(what, where=against, todo="Give other predictions")
    _check_places(out, html=settings.html)
    make_folder(out)
    mine = measure_set(predictions, truth, settings, progress)
    comparison: tuple[Paired, ...] = ()
    failures, remarks = mine.failures, mine.remarks
    sides = [("predictions", _side(predictions)), ("truth", _side(truth))]
    if against is not None:
        sides.append(("against", _side(against)))
        other = measure_set(against, truth, settings, progress, mine)
        twice = {failure.case for failure in other.missed} & {failure.case for failure in mine.missed}
        alone = [f for f in other.failures if not (f in other.missed and f.case in twice)]
        failures += tuple(Failure(f"{failure.case} (against)", failure.reason) for failure in alone)
        remarks += tuple(f"{remark} (against)" for remark in other.remarks)
        others = _named_alike(mine, other)
        comparison = compare(mine.rows, others)
        remarks += uncompared(mine.rows, others)
    removed = _remove(out, PAGE)  # a page of an earlier run would show other numbers
    result = EvaluationResult(
        mine.rows,
        failures,
        cohorts(mine.rows),
        mine.labels,
        out / CSV,
        out / JSON,
        comparison,
        out / PAGE if settings.html else None,
        remarks,
        page_removed=PAGE in removed and not settings.html,
    )
    try:
        _write_scores(result, settings)
    except BaseException:  # half a report would be taken for a whole one
        _remove(out, CSV, JSON)
        raise
    if result.html_path is not None:  # the scores are complete without it
        _write_page(result.html_path, result, mine.files, sides, settings)
    return result


def _check_places(out: Path, *, html: bool) -> None:
    """Check before long work that the files can be written, and replace none but those of an evaluation."""
    check_output(out, [CSV, JSON, *([PAGE] if html else [])])
    if read_case(out / JSON) is not None:
        what = "`predict` wrote this record of a case, and `evaluate` would replace it"
        raise InputError(what, where=out / JSON, todo=TODO)
    if html and _is_of_predict(out / PAGE):
        what = "`predict` wrote this page of all its cases, and `evaluate` would replace it"
        raise InputError(what, where=out / PAGE, todo=TODO)


def _is_of_predict(page: Path) -> bool:
    if not is_ours(page):  # without a page, the modules for pages are not needed
        return False
    from c3s3_seg.report.page import is_folder_page

    return is_folder_page(page)


def _remove(out: Path, *names: str) -> list[str]:
    """Remove files of an earlier evaluation; the page of all cases of `predict` has the same name, and stays.

    Returns the names of the files that were there and are not any more.
    """
    there = [name for name in names if (out / name).exists() and not _is_of_predict(out / name)]
    for name in there:
        remove_ours(out / name)
    return [name for name in there if not (out / name).exists()]


def _named_alike(first: MeasuredSet, other: MeasuredSet) -> tuple[CaseScore, ...]:
    """Return the scores of the other set, each under the first set's name of the case with the same truth."""
    known, found = _by_truth(first.files), _by_truth(other.files)
    names = {
        cases[0]: known[truth][0]
        for truth, cases in found.items()
        if len(cases) == len(known.get(truth, ())) == 1  # of several, only equal names are a pair
    }
    return tuple(replace(row, case=names.get(row.case, row.case)) for row in other.rows)


def _by_truth(files: Sequence[CaseFiles]) -> dict[Path, list[str]]:
    cases: dict[Path, list[str]] = defaultdict(list)
    for case in files:
        cases[case.truth].append(case.case)
    return cases


def _write_scores(result: EvaluationResult, settings: EvaluationSettings) -> None:
    write_cases_csv(result.csv_path, result.rows)
    write_report_json(
        result.json_path,
        result.rows,
        result.failures,
        protocol=settings.protocol,
        comparison=result.comparison,
        remarks=result.remarks,
    )


def _write_page(
    path: Path,
    result: EvaluationResult,
    files: Sequence[CaseFiles],
    sides: Sequence[tuple[str, str]],
    settings: EvaluationSettings,
) -> None:
    """Write the page of a result. `sides`: pairs (role, name) of the sets that were compared."""
    from c3s3_seg.report.case_view import views
    from c3s3_seg.report.html import Report, worst_first, write_report_page

    rows = worst_first(result.rows)
    drawn = views(rows, {f.case: f for f in files}, dict(result.labels), resample=settings.resample)
    title, measured = "Masks against the truth", (result.rows, result.failures, result.comparison)
    report = Report(title, settings.protocol, *measured, result.remarks, sides, today())
    write_report_page(path, report, drawn)


def _side(path: Path) -> str:
    """Return the name of a folder or file without its location, since pages are passed on."""
    return printable((path if path.is_dir() else public_path(path)).resolve().name)
