"""Measure a folder of predictions against a folder of truths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.files import make_folder
from c3s3_seg.metrics import PaperScore, Score, diagonal_mm, labels_in, paper_scores, scores
from c3s3_seg.ownership import check_output, remove_ours
from c3s3_seg.report.cohort import Cohort, cohorts
from c3s3_seg.report.compare import Paired, compare
from c3s3_seg.report.rows import CaseFiles, CaseScore, Failure, Protocol
from c3s3_seg.report.tables import write_cases_csv, write_report_json
from c3s3_seg.workers import Died, each

if TYPE_CHECKING:
    from c3s3_seg.io import Case

# Called with (case that is done, how many are, of how many).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Parameters
    ----------
    protocol
        `clinical`: mm, see `metrics.score`. `paper`: voxels, see `metrics.paper_score`.
    labels
        Name -> value. None: every label of any truth, as `label_1`, `label_2`, ...; `label_1` alone
        where all truths are empty.
    tolerances_mm
        Of the normalised surface distance.
    area_nsd
        Whether to measure it by area too.
    resample
        Whether a prediction on another grid is put on the truth's, which is recorded, or refused.
    workers
        How many processes measure.
    html
        Whether to write `report.html` too; needs plotly.
    images
        A scan, or a folder of scans named like the predictions, for the pictures of the page.
    """

    protocol: Protocol = "clinical"
    labels: Mapping[str, int] | None = None
    tolerances_mm: tuple[float, ...] = (1.0, 2.0)
    area_nsd: bool = False
    resample: bool = False
    workers: int = 1
    html: bool = False
    images: Path | None = None


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
    html_path
        The page, where one was asked for.
    """

    rows: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]
    cohorts: tuple[Cohort, ...]
    labels: tuple[tuple[str, int], ...]
    csv_path: Path
    json_path: Path
    comparison: tuple[Paired, ...] = ()
    html_path: Path | None = None


def evaluate(
    predictions: Path,
    truth: Path,
    out: Path,
    settings: Settings | None = None,
    *,
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
    settings
        How to measure; None: as `Settings()`.
    against
        Another set of predictions of the same cases, measured too and compared case by case.
    progress
        Called with (case, how many are done, all) after each case.

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

    settings = settings or Settings()
    labels = settings.labels
    if labels is not None and (not labels or 0 in labels.values()):
        raise InputError(f"found the labels {dict(labels)}, wanted at least one and none with value 0")
    _check_output(out, settings)
    make_folder(out)
    mine = _measure_all(find_cases([predictions]), truth, settings, progress)
    comparison: tuple[Paired, ...] = ()
    failures = mine.failures
    if against is not None:
        same = replace(settings, labels=dict(mine.labels))
        other = _measure_all(find_cases([against]), truth, same, progress)
        failures += tuple(Failure(f"{f.case} (against)", f.reason) for f in other.failures)
        comparison = compare(mine.rows, other.rows)
    try:
        return _write(out, mine, failures, comparison, settings)
    except BaseException:  # half a report would be taken for one
        for name in ("cases.csv", "report.json", "report.html"):
            remove_ours(out / name)
        raise


def _write(
    out: Path,
    mine: _Measured,
    failures: tuple[Failure, ...],
    comparison: tuple[Paired, ...],
    settings: Settings,
) -> EvaluationResult:
    csv_path, json_path = out / "cases.csv", out / "report.json"
    remove_ours(out / "report.html")  # of an earlier run, it would show other numbers
    write_cases_csv(csv_path, mine.rows)
    write_report_json(json_path, mine.rows, failures, protocol=settings.protocol, comparison=comparison)
    result = EvaluationResult(
        mine.rows, failures, cohorts(mine.rows), mine.labels, csv_path, json_path, comparison
    )
    if settings.html:
        _write_page(out / "report.html", result, mine.files, settings)
        return replace(result, html_path=out / "report.html")
    return result


def _check_output(out: Path, settings: Settings) -> None:
    check_output(out, ["cases.csv", "report.json", *(["report.html"] if settings.html else [])])


def _write_page(path: Path, result: EvaluationResult, files: Sequence[CaseFiles], settings: Settings) -> None:
    from c3s3_seg.report.html import Report, worst_first, write_report_page
    from c3s3_seg.report.views import views

    rows = worst_first(result.rows)
    drawn = views(rows, {f.case: f for f in files}, dict(result.labels), resample=settings.resample)
    report = Report(
        "Masks against the truth", settings.protocol, result.rows, result.failures, result.comparison
    )
    write_report_page(path, report, drawn)


@dataclass(frozen=True)
class _Measured:
    """One set of predictions."""

    rows: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]
    labels: tuple[tuple[str, int], ...]
    files: tuple[CaseFiles, ...]


@dataclass(frozen=True)
class _Work:
    """One case to be measured, as it goes to a process."""

    case: Case
    truth: Path
    labels: tuple[tuple[str, int], ...]
    settings: Settings


def _measure_all(
    cases: Sequence[Case], truth: Path, settings: Settings, progress: Progress | None
) -> _Measured:
    """Every case that has a truth; the others, and those that cannot be measured, are failures."""
    from c3s3_seg.io import match_truth

    pairs = match_truth(cases, truth)
    failures = _unpaired(cases, truth, pairs)
    cases = [case for case in cases if case.name in pairs]
    scans = _scans(cases, settings.images)
    labels = tuple((settings.labels or _labels_of(list(pairs.values()), settings.workers)).items())
    work = [_Work(case, pairs[case.name], labels, settings) for case in cases]
    answers: dict[int, list[CaseScore] | Exception | Died] = {}
    for number, answer in each(_try, work, settings.workers):
        answers[number] = answer
        if progress:
            progress(cases[number].name, len(answers), len(cases))
    rows: list[CaseScore] = []
    for number, case in enumerate(cases):
        answer = answers[number]
        if isinstance(answer, list):
            rows += answer
            continue
        if len(cases) == 1 and isinstance(answer, C3S3Error):
            raise answer
        failures.append(Failure(case.name, _reason(answer)))
    files = tuple(CaseFiles(c.name, c.path, pairs[c.name], scans.get(c.name)) for c in cases)
    return _Measured(tuple(rows), tuple(failures), labels, files)


def _scans(cases: Sequence[Case], images: Path | None) -> dict[str, Path]:
    """Case -> its scan, by name; of a single case the single scan that was given."""
    from c3s3_seg.io import find_cases

    if images is None:
        return {}
    found = find_cases([images])
    if len(found) == len(cases) == 1:
        return {cases[0].name: found[0].path}
    return {scan.name: scan.path for scan in found}


def _try(work: _Work) -> list[CaseScore] | Exception:
    """One bad case must not stop the others, whatever is wrong with it."""
    try:
        return _measure(work)
    except Exception as error:
        return error if isinstance(error, C3S3Error) else RuntimeError(_reason(error))


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


def _labels_of(truths: Sequence[Path], workers: int) -> dict[str, int]:
    found: set[int] = set()
    for _, labels in each(_labels_in_file, truths, workers):
        if not isinstance(labels, Died):
            found.update(labels)
    return {f"label_{value}": value for value in sorted(found or {1})}


def _labels_in_file(path: Path) -> tuple[int, ...]:
    from c3s3_seg.io import load_mask

    try:
        return labels_in(load_mask(path))
    except Exception:  # the case is read again when it is measured, and fails there with its reason
        return ()


def _measure(work: _Work) -> list[CaseScore]:
    from c3s3_seg.io import load_mask
    from c3s3_seg.resample import resample_mask

    settings, labels = work.settings, dict(work.labels)
    prediction, wanted = load_mask(work.case.path), load_mask(work.truth)
    before = prediction.source.notes
    if settings.resample:
        prediction = resample_mask(prediction, wanted.geometry)
    notes = prediction.source.notes[len(before) :]
    diagonal, values = diagonal_mm(wanted.geometry), list(labels.values())
    found: Mapping[int, Score | PaperScore]
    if settings.protocol == "paper":
        found = paper_scores(prediction, wanted, values)
    else:
        tolerances, area = settings.tolerances_mm, settings.area_nsd
        found = scores(prediction, wanted, values, tolerances_mm=tolerances, area_nsd=area)
    return [CaseScore(work.case.name, name, found[n], diagonal, notes) for name, n in labels.items()]


def _reason(answer: Exception | Died) -> str:
    if isinstance(answer, Died):
        return answer.reason
    plain = isinstance(answer, C3S3Error | RuntimeError)
    return str(answer) if plain else f"{type(answer).__name__}: {answer}"
