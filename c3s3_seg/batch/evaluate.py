"""Measure a folder of predictions against a folder of truths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from c3s3_seg.errors import C3S3Error, InputError, Told, shown
from c3s3_seg.metrics.paired_tests import Paired, compare
from c3s3_seg.metrics.results import CaseScore, PaperScore, Score
from c3s3_seg.metrics.scoring import diagonal_mm, diagonal_vox, labels_in, paper_scores, scores
from c3s3_seg.metrics.statistics import Cohort, cohorts
from c3s3_seg.report.label_values import (
    CaseLabels,
    Labels,
    first_names,
    label_remarks,
    labels_of,
    named_beside,
    refuse_mixup,
    uncompared,
)
from c3s3_seg.report.rows import CaseFiles, Failure
from c3s3_seg.report.tables import today, write_cases_csv, write_report_json
from c3s3_seg.system.choices import ScoreProtocol, check_word
from c3s3_seg.system.files import make_folder, printable
from c3s3_seg.system.ownership import check_output, remove_ours
from c3s3_seg.system.process_pool import Died, each
from c3s3_seg.system.progress import Progress

if TYPE_CHECKING:
    from c3s3_seg.geometry.volume import Volume
    from c3s3_seg.io.mask_files import MaskPairs


@dataclass(frozen=True)
class EvaluationSettings:
    """How to measure.

    Parameters
    ----------
    protocol
        `clinical`: mm, see `metrics.score`. `paper`: voxels, see `metrics.paper_score`.
    labels
        Name -> value; of names with one value the first names the label, and the others are what some DICOM
        SEG or RTSTRUCT files call it. None: every label of any truth, by the names in such files, by those in
        the JSON that `predict` writes beside a mask, or as `label_1`, `label_2`, ...; where all truths are
        empty those of the predictions, else `label_1`.
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
        A scan, or a folder of scans named like the predictions: for the pictures of the page, and for the
        grid where prediction and truth are DICOM SEG or RTSTRUCT.

    Raises
    ------
    InputError
        If there is no such protocol.
    """

    protocol: ScoreProtocol = "clinical"
    labels: Mapping[str, int] | None = None
    tolerances_mm: tuple[float, ...] = (1.0, 2.0)
    area_nsd: bool = False
    resample: bool = False
    workers: int = 1
    html: bool = False
    images: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a word that is none."""
        check_word("protocol", self.protocol, ScoreProtocol)


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
    remarks
        What has to be said of the labels of the whole set: those that predictions hold and no truth does.
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
        The same, named like the predictions.
    out
        The folder for the two files; it is made if it is missing.
    settings
        How to measure; None: as `EvaluationSettings()`.
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
        If no prediction has a truth, predictions or truths look like scans, they have no label in common over
        the whole set, a value is given for the background, or `out` cannot be written.
    C3S3Error
        What is wrong with a case, where there is only one.
    """
    settings = settings or EvaluationSettings()
    labels = settings.labels
    if labels is not None and (not labels or 0 in labels.values()):
        raise InputError(f"found the labels {shown(dict(labels))}, wanted at least one and none with value 0")
    _check_output(out, settings)
    make_folder(out)
    mine = _measure_all(predictions, truth, settings, progress)
    comparison: tuple[Paired, ...] = ()
    failures, remarks = mine.failures, mine.remarks
    sides = [("predictions", _side(predictions)), ("truth", _side(truth))]
    if against is not None:
        sides.append(("against", _side(against)))
        other = _measure_all(against, truth, settings, progress, mine)
        failures += tuple(Failure(f"{f.case} (against)", f.reason) for f in other.failures)
        remarks += tuple(f"{remark} (against)" for remark in other.remarks)
        comparison = compare(mine.rows, other.rows)
        remarks += uncompared(mine.rows, other.rows)
    try:
        measured = replace(mine, failures=failures, remarks=remarks, sides=tuple(sides))
        return _write(out, measured, comparison, settings)
    except BaseException:  # half a report would be taken for one
        for name in ("cases.csv", "report.json", "report.html"):
            remove_ours(out / name)
        raise


def _write(
    out: Path, mine: _Measured, comparison: tuple[Paired, ...], settings: EvaluationSettings
) -> EvaluationResult:
    csv_path, json_path = out / "cases.csv", out / "report.json"
    failures, remarks = mine.failures, mine.remarks
    remove_ours(out / "report.html")  # of an earlier run, it would show other numbers
    write_cases_csv(csv_path, mine.rows)
    write_report_json(
        json_path, mine.rows, failures, protocol=settings.protocol, comparison=comparison, remarks=remarks
    )
    result = EvaluationResult(
        mine.rows, failures, cohorts(mine.rows), mine.labels, csv_path, json_path, comparison, None, remarks
    )
    if settings.html:
        _write_page(out / "report.html", result, mine, settings)
        return replace(result, html_path=out / "report.html")
    return result


def _check_output(out: Path, settings: EvaluationSettings) -> None:
    check_output(out, ["cases.csv", "report.json", *(["report.html"] if settings.html else [])])


def _write_page(path: Path, result: EvaluationResult, mine: _Measured, settings: EvaluationSettings) -> None:
    from c3s3_seg.report.case_view import views
    from c3s3_seg.report.html import Report, worst_first, write_report_page

    rows = worst_first(result.rows)
    drawn = views(rows, {f.case: f for f in mine.files}, dict(result.labels), resample=settings.resample)
    title, measured = "Masks against the truth", (result.rows, result.failures, result.comparison)
    report = Report(title, settings.protocol, *measured, result.remarks, mine.sides, today())
    write_report_page(path, report, drawn)


@dataclass(frozen=True)
class _Measured:
    """One set of predictions."""

    rows: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]
    labels: Labels
    files: tuple[CaseFiles, ...]
    remarks: tuple[str, ...]
    sides: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Work:
    """One case to be measured, as it goes to a process."""

    files: CaseFiles
    labels: Labels
    settings: EvaluationSettings


@dataclass(frozen=True)
class _Evaluated:
    """What was measured of a case, and what its masks hold."""

    rows: tuple[CaseScore, ...]
    held: CaseLabels


def _measure_all(
    predictions: Path,
    truth: Path,
    settings: EvaluationSettings,
    progress: Progress | None,
    first: _Measured | None = None,
) -> _Measured:
    """Every case that has a truth; the others, and those that cannot be measured, are failures.

    `first` is the set that this one is compared with: it has the same labels.
    """
    from c3s3_seg.io.mask_files import pair_masks

    pairs = pair_masks(predictions, truth)
    failures = [Failure(case.name, why) for case, why in pairs.alone]
    failures += [Failure(c.name, f"no prediction for this truth, {_public(c.path)}") for c in pairs.missed]
    files = _files(pairs, settings)
    labels, model = first.labels if first else (), ""
    if first and first.files[0].names and files[0].names and settings.labels is None:
        # The same name may have two values. Where the first set is image files, values count: the numbers
        # of the segments beside them.
        labels = ()
    if not (labels or settings.labels):
        labels, model = named_beside(labels_of(files, settings.workers), files)
    labels = labels or first_names(settings.labels)
    refuse_mixup(files, labels)
    work = [_Work(case, labels, settings) for case in files]
    outcomes: dict[int, _Evaluated | Exception | Died] = {}
    for number, outcome in each(_try, work, settings.workers):
        outcomes[number] = outcome
        if progress:
            progress(files[number].case, len(outcomes), len(files))
    measured: list[_Evaluated] = []
    for number, case in enumerate(files):
        outcome = outcomes[number]
        if isinstance(outcome, _Evaluated):
            measured.append(outcome)
            continue
        if len(files) == 1 and isinstance(outcome, C3S3Error):
            raise outcome
        failures.append(Failure(case.case, _without(_reason(outcome), (case.prediction, case.truth))))
    rows = tuple(row for outcome in measured for row in outcome.rows)
    names = dict(files[0].names)
    remarks = label_remarks([outcome.held for outcome in measured], dict(labels), names)
    remarks += (f"the predictions are those of the model {model}",) if model else ()
    return _Measured(rows, tuple(failures), labels, files, remarks)


def _files(pairs: MaskPairs, settings: EvaluationSettings) -> tuple[CaseFiles, ...]:
    """Where the files of each case are; refused where predictions or truths are scans."""
    from c3s3_seg.io.mask_pair import name_values
    from c3s3_seg.io.scan_like import refuse_scans

    predictions = [case.path for case, _ in pairs.pairs]
    truths = [path for _, path in pairs.pairs]
    refuse_scans(truths)
    refuse_scans(predictions)
    names = settings.labels or name_values(truths, predictions)
    scans = _scans([case.name for case, _ in pairs.pairs], settings.images)
    return tuple(
        CaseFiles(case.name, case.path, path, scans.get(case.name), tuple(names.items()))
        for case, path in pairs.pairs
    )


def _scans(cases: Sequence[str], images: Path | None) -> dict[str, Path]:
    """Case -> its scan, by name; of a single case the single scan that was given."""
    from c3s3_seg.io import find_cases

    if images is None:
        return {}
    found = find_cases([images])
    if len(found) == len(cases) == 1:
        return {cases[0]: found[0].path}
    scans = {scan.name: scan.path for scan in found}
    return scans if set(cases) <= set(scans) else {**_series_scans(images), **scans}


def _series_scans(images: Path) -> dict[str, Path]:
    """The series of studies by the names that `predict` gives them: a file stands for its series."""
    from c3s3_seg.io.reading import Reading
    from c3s3_seg.io.studies import find_scans

    with suppress(InputError):  # nothing but image files, whose names are known
        return {case.name: case.paths[0] for case in find_scans([images], Reading()).cases if case.files}
    return {}


def _try(work: _Work) -> _Evaluated | Exception:
    """One bad case must not stop the others, whatever is wrong with it."""
    try:
        return _measure(work)
    except Exception as error:
        return error if isinstance(error, C3S3Error) else RuntimeError(_reason(error))


def _measure(work: _Work) -> _Evaluated:
    from c3s3_seg.geometry.resample import resample_mask
    from c3s3_seg.io.mask_pair import load_pair

    settings, labels, files = work.settings, dict(work.labels), work.files
    prediction, wanted = load_pair(files.prediction, files.truth, dict(files.names), files.scan)
    held = CaseLabels(files.case, labels_in(prediction), labels_in(wanted))
    if settings.resample:
        prediction = resample_mask(prediction, wanted.geometry)
    found = _scores(prediction, wanted, list(labels.values()), settings)
    in_mm, in_voxels = diagonal_mm(wanted.geometry), diagonal_vox(wanted.geometry)
    notes = tuple(f"prediction: {note}" for note in prediction.source.notes)
    notes += tuple(f"truth: {note}" for note in wanted.source.notes)
    rows = tuple(
        CaseScore(files.case, name, found[value], in_mm, notes, in_voxels) for name, value in labels.items()
    )
    return _Evaluated(rows, held)


def _scores(
    prediction: Volume, truth: Volume, values: Sequence[int], settings: EvaluationSettings
) -> Mapping[int, Score | PaperScore]:
    if settings.protocol == "paper":
        return paper_scores(prediction, truth, values)
    tolerances, area = settings.tolerances_mm, settings.area_nsd
    return scores(prediction, truth, values, tolerances_mm=tolerances, area_nsd=area)


def _side(path: Path) -> str:
    """The name of a folder or of a file, without where it lies: pages are passed on."""
    return printable((path if path.is_dir() else _public(path)).resolve().name)


def _public(path: Path) -> Path:
    """What is written of a file: of a DICOM file its folder, as its name may be the patient's."""
    from c3s3_seg.io.image.files import image_suffix

    return path if image_suffix(path) else path.parent


def _without(reason: Told, paths: Sequence[Path]) -> Told:
    """A reason in which files are called by what `_public` says."""
    for path in paths:
        old, new = str(path), str(_public(path))
        reason = Told.of(reason.named.replace(old, new), reason.public.replace(old, new))
    return reason


def _reason(outcome: Exception | Died) -> Told:
    """Why a case failed; names of files in DICOM folders are for the terminal alone."""
    if isinstance(outcome, C3S3Error):
        return outcome.told
    if isinstance(outcome, Died):
        return Told(outcome.reason)
    return Told(str(outcome) if isinstance(outcome, RuntimeError) else f"{type(outcome).__name__}: {outcome}")
