"""Measure one set of predictions against the truths: its cases, their labels, their scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from c3s3_seg.errors import C3S3Error, InputError, Told, as_c3s3_error
from c3s3_seg.metrics.results import CaseScore, PaperScore, Score
from c3s3_seg.metrics.scoring import diagonal_mm, diagonal_vox, labels_in, paper_scores, scores
from c3s3_seg.report.label_values import (
    CaseLabels,
    Labels,
    few,
    first_names,
    label_remarks,
    labels_of,
    refuse_mixup,
)
from c3s3_seg.report.mask_metadata import named_beside, origin_remarks, stated_values
from c3s3_seg.report.rows import CaseFiles, Failure
from c3s3_seg.system.choices import ScoreProtocol, check_word
from c3s3_seg.system.process_pool import Died, each
from c3s3_seg.system.progress import Progress

if TYPE_CHECKING:
    from c3s3_seg.geometry.volume import Volume
    from c3s3_seg.io.mask_files import MaskPairs


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of an evaluation.

    Parameters
    ----------
    protocol
        `clinical`: mm, see `metrics.scoring.score`. `paper`: voxels, see `paper_score` there.
    labels
        Name -> value. If several names have one value, the first names the label, and the others are its
        names in some DICOM SEG or RTSTRUCT files. None: every label of any truth, by the names in such files,
        by those in the JSON that `predict` writes beside a mask, or as `label_1`, `label_2`, ...; if all
        truths are empty, the labels of the predictions, else `label_1`.
    tolerances_mm
        Tolerances of the normalised surface distance.
    area_nsd
        Whether to measure this distance by area too.
    resample
        Whether a prediction on another grid is resampled to the truth's, with a note, or refused.
    workers
        Number of processes that measure.
    html
        Whether to write `report.html` too; needs plotly.
    images
        A scan, or a folder of scans named like the predictions, or with `_0000` as in nnU-Net: for the
        pictures of the page, and for the grid if prediction and truth are DICOM SEG or RTSTRUCT.

    Raises
    ------
    InputError
        If the protocol is unknown.
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
        """Raise if the protocol is unknown."""
        check_word("protocol", self.protocol, ScoreProtocol)


@dataclass(frozen=True)
class MeasuredSet:
    """The measurements of one set of predictions.

    Parameters
    ----------
    rows
        One score for each case and label that could be measured, in the order of the cases.
    failures
        Every case that could not be measured, with its reason.
    labels
        Pairs (name, value) of the measured labels.
    files
        Files of the cases that have a truth, measured or not.
    remarks
        Remarks on the labels of the whole set, one sentence each.
    missed
        The failures of truths without a prediction; `failures` has them too.
    """

    rows: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]
    labels: Labels
    files: tuple[CaseFiles, ...]
    remarks: tuple[str, ...]
    missed: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class _Work:
    """One case to be measured, as sent to a process."""

    files: CaseFiles
    labels: Labels
    settings: EvaluationSettings


@dataclass(frozen=True)
class _Evaluated:
    """The scores of a case, and the labels that its masks hold."""

    rows: tuple[CaseScore, ...]
    held: CaseLabels


def measure_set(
    predictions: Path,
    truth: Path,
    settings: EvaluationSettings,
    progress: Progress | None,
    first: MeasuredSet | None = None,
) -> MeasuredSet:
    """Measure every case that has a truth; the others, and those that cannot be measured, are failures.

    Parameters
    ----------
    predictions, truth
        A mask or a folder of masks each, same as in `evaluate`.
    settings
        How to measure.
    progress
        Called with (case, number done, total number) after each case; None: not called.
    first
        The set with which this one is compared, with the same labels. None: no comparison.

    Raises
    ------
    C3S3Error
        Same as in `evaluate`.
    """
    from c3s3_seg.io.mask_files import pair_masks

    pairs = pair_masks(predictions, truth)
    missed = tuple(
        Failure(case.name, f"no prediction for this truth, {public_path(case.path)}") for case in pairs.missed
    )
    failures = [*(Failure(case.name, why) for case, why in pairs.alone), *missed]
    files = _files(pairs, settings, first)
    labels = _labels(files, settings, first)
    refuse_mixup(files, labels)
    measured: list[_Evaluated] = []
    for case, outcome in zip(files, _outcomes(files, labels, settings, progress), strict=True):
        if isinstance(outcome, _Evaluated):
            measured.append(outcome)
        elif len(files) == 1 and not failures and first is None and isinstance(outcome, C3S3Error):
            raise outcome
        else:
            failures.append(Failure(case.case, _without(_reason(outcome), (case.prediction, case.truth))))
    rows = tuple(row for outcome in measured for row in outcome.rows)
    remarks = label_remarks([outcome.held for outcome in measured], dict(labels), dict(files[0].names))
    remarks += origin_remarks(files, references=first is None)
    unseen = [case.case for case in files if case.scan is None]
    if settings.images is not None and unseen:
        remarks += (f"no scan among the images has the name of these masks: {few(unseen)}",)
    return MeasuredSet(rows, tuple(failures), labels, files, remarks, missed)


def _labels(files: Sequence[CaseFiles], settings: EvaluationSettings, first: MeasuredSet | None) -> Labels:
    """Return the labels to measure, with the names that files beside the predictions give them."""
    if settings.labels:
        return (first.labels if first else ()) or first_names(settings.labels)
    # The same name may have different values in the two sets. If the first set is image files, the values
    # decide: they are the numbers of the segments in the other set.
    renumbered = first is not None and bool(first.files[0].names and files[0].names)
    if first is not None and first.labels and not renumbered:
        return first.labels
    return named_beside(labels_of(files, settings.workers), files)


def _outcomes(
    files: Sequence[CaseFiles], labels: Labels, settings: EvaluationSettings, progress: Progress | None
) -> list[_Evaluated | C3S3Error | Died]:
    """Return the outcome of each case, in the order of the files."""
    work = [_Work(case, labels, settings) for case in files]
    outcomes: dict[int, _Evaluated | C3S3Error | Died] = {}
    for number, outcome in each(_try, work, settings.workers):
        outcomes[number] = outcome
        if progress:
            progress(files[number].case, len(outcomes), len(files))
    return [outcomes[number] for number in range(len(files))]


def _files(
    pairs: MaskPairs, settings: EvaluationSettings, first: MeasuredSet | None
) -> tuple[CaseFiles, ...]:
    """Return the paths of each case's files; raise if predictions or truths look like scans.

    A mask of the second set may have another name than the scan, and shares its truth with one of the first.
    """
    from c3s3_seg.io.mask_pair import name_values
    from c3s3_seg.io.scan_like import refuse_scans

    predictions = [case.path for case, _ in pairs.pairs]
    truths = [path for _, path in pairs.pairs]
    refuse_scans(truths)
    refuse_scans(predictions)
    others = [case.prediction for case in first.files] if first else []
    stated = {} if settings.labels else stated_values([*others, *predictions, *truths])
    names = settings.labels or name_values(truths, predictions, stated)
    known = {case.truth: case.scan for case in first.files} if first else {}
    scans = {} if settings.images is None else _scans([case.name for case, _ in pairs.pairs], settings.images)
    if settings.images is not None and not (scans or any(known.values())):
        what = f"no scan here has the name of a mask; the masks are {few([c.name for c, _ in pairs.pairs])}"
        todo = "Name the scans like the masks, or CASE_0000 as nnU-Net does"
        raise InputError(what, where=settings.images, todo=todo)
    return tuple(
        CaseFiles(case.name, case.path, path, scans.get(case.name) or known.get(path), tuple(names.items()))
        for case, path in pairs.pairs
    )


def _scans(cases: Sequence[str], images: Path) -> dict[str, Path]:
    """Return case -> its scan, by name; for a single case, the single scan that was given."""
    from c3s3_seg.io import find_cases
    from c3s3_seg.io.cases import CHANNEL

    found = find_cases([images])
    if len(found) == len(cases) == 1:
        return {cases[0]: found[0].path}
    scans = {scan.name.removesuffix(CHANNEL): scan.path for scan in found}
    scans |= {scan.name: scan.path for scan in found}
    if not set(cases) <= set(scans):
        scans = {**_series_scans(images), **scans}
    return {case: scans[case] for case in cases if case in scans}


def _series_scans(images: Path) -> dict[str, Path]:
    """Return the series of studies by the names that `predict` gives them: a file stands for its series."""
    from c3s3_seg.io.reading import Reading
    from c3s3_seg.io.studies import find_scans

    with suppress(InputError):  # only image files, whose names are known
        cases = [case for case in find_scans([images], Reading()).cases if case.files]
        # A file stands for its series in its folder; a series in several folders is read from all.
        return {c.name: c.paths[0] if len({p.parent for p in c.paths}) == 1 else c.path for c in cases}
    return {}


def _try(work: _Work) -> _Evaluated | C3S3Error:
    """Measure a case or return its error: one bad case must not stop the others, whatever is wrong."""
    try:
        return _measure(work)
    except Exception as error:
        paths = (work.files.prediction, work.files.truth)
        return as_c3s3_error(error, quote=all(public_path(path) == path for path in paths))


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


def public_path(path: Path) -> Path:
    """Return the path to record for a file: a DICOM file's folder, as its name may be the patient's."""
    from c3s3_seg.io.image.files import image_suffix

    return path if image_suffix(path) else path.parent


def _without(reason: Told, paths: Sequence[Path]) -> Told:
    """Return a reason in which files are named by their `public_path`."""
    for path in sorted(paths, key=lambda path: -len(str(path))):
        # The whole name: that of a file "1" is also the begin of "10" beside it.
        name = re.compile(rf"{re.escape(str(path))}(?![\w-]|\.\w)")
        new = str(public_path(path)).replace("\\", r"\\")
        reason = Told.of(name.sub(new, reason.named), name.sub(new, reason.public))
    return reason


def _reason(outcome: C3S3Error | Died) -> Told:
    """Return why a case failed; names of files in DICOM folders are only for the terminal."""
    return Told(outcome.reason) if isinstance(outcome, Died) else outcome.told
