"""Write the files of a case: its mask, its JSON, and on request pictures, pages and maps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c3s3_seg.batch.case_files import PROBABILITIES, UNCERTAINTY, case_json, remove_files
from c3s3_seg.batch.job import Job
from c3s3_seg.batch.records import Loaded, Outcome, Predicted
from c3s3_seg.bundle import Label
from c3s3_seg.bundle import Task as ModelTask
from c3s3_seg.errors import public
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.io import Case, save
from c3s3_seg.io.dicom_objects.codes import Maker, Segment
from c3s3_seg.io.formats import image_suffix_of, refers_to_source, save_repaired, write_mask
from c3s3_seg.io.hashes import refuse_changed
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.report.rows import PredictionRow
from c3s3_seg.system.files import make_own_folder, write_whole
from c3s3_seg.system.names import printable
from c3s3_seg.system.ownership import MARK, PROGRAM
from c3s3_seg.system.reading import sha256
from c3s3_seg.system.schema import plain
from c3s3_seg.version import __version__

if TYPE_CHECKING:
    from c3s3_seg.report.prediction_page import Uncertainty as ShownUncertainty


def write_case(predicted: Predicted, job: Job, model: ModelTask) -> Outcome:
    """Score a mask; write it with all files of the case; compute the hashes of the written files.

    Raises
    ------
    C3S3Error
        If a file cannot be written.
    """
    written: list[Path] = []
    try:
        return _write(predicted, job, model, written)
    except BaseException:  # no file of a failed case may look like a result
        remove_files(job.out, [str(path.relative_to(job.out)) for path in written])
        raise


def _write(predicted: Predicted, job: Job, model: ModelTask, written: list[Path]) -> Outcome:
    """Write the files of a case; a file is in `written` before it is begun."""
    started = time.perf_counter()
    loaded, prediction = predicted.loaded, predicted.prediction
    case, scan = loaded.task.case, loaded.scan
    if refers_to_source(job.suffix, secondary_capture=job.secondary_capture):
        # The scan's headers are read once more: they must be those of the slices that were segmented.
        refuse_changed(case.path, loaded.inputs["scan"], case.paths)
    scores = score_case(case.name, prediction.mask, loaded.truth, model.label_values)
    record = job.out / f"{case.name}.json"
    written += [job.mask_of(case.name), record]
    early = {**_scan_record(predicted), "labels": model.label_values}
    known = save_mask(prediction.mask, case.name, job, model, early)
    repaired = save_repaired(scan, job.out, case.name, job.suffix)
    written += [repaired] if repaired is not None else []
    _save_probabilities(case, prediction, job, written)
    _save_uncertainty(case, prediction, job, written)
    disagreement = prediction.uncertainty.map if prediction.uncertainty else None
    result = Result(loaded, prediction.mask, model, disagreement)
    write_pictures(result, job, written)
    spent = {**predicted.seconds, "write": time.perf_counter() - started}
    row = _row(case.name, prediction, sum(spent.values()), scores, job)
    metadata = _metadata(predicted, row, spent, job, model)
    write_page(result, row, metadata, job, written)
    hashing = time.perf_counter()
    content, outputs = case_json(metadata, job.out, written[2:], known)
    write_whole(record, content)
    outputs[record.name] = sha256(record)
    spent["hash"] = spent.get("hash", 0.0) + time.perf_counter() - hashing
    return Outcome(case.name, loaded.task.place, row, None, loaded.inputs, outputs, spent)


def save_mask(
    mask: Volume,
    case: str,
    job: Job,
    model: ModelTask,
    metadata: dict[str, Any],
    others: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write a mask and, just before it has its name, the case's JSON with its hash.

    After a kill nobody could tell whether a person has edited a mask whose hash is unknown.

    Parameters
    ----------
    mask, case, job, model
        The mask, the name of its case, the options and the model's task.
    metadata
        Content of the JSON, without files.
    others
        File -> sha256 of other files of the case that the JSON is to list.

    Returns
    -------
    dict
        File name of the mask -> sha256.
    """
    path = job.mask_of(case)
    known: dict[str, str] = {}

    def record_mask(aside: Path) -> None:
        known[path.name] = sha256(aside)
        content, _ = case_json(metadata, job.out, (), {**known, **(others or {})})
        write_whole(job.out / f"{case}.json", content)

    write_mask(mask, path, job.suffix, segments(model), job.maker, record_mask)
    return known


@dataclass(frozen=True, eq=False)
class Result:
    """The data that reports show of a case.

    Parameters
    ----------
    loaded
        The scan and its truth.
    mask
        The mask on the scan's grid.
    model
        The task of the model whose labels the mask holds.
    uncertainty
        Map of the networks' disagreement on the same grid; None if not measured.
    """

    loaded: Loaded
    mask: Volume
    model: ModelTask
    uncertainty: Volume | None = None


def write_pictures(result: Result, job: Job, written: list[Path]) -> None:
    """Write the preview and the secondary capture if they are requested."""
    case = result.loaded.task.case.name
    if job.preview:
        written.append(job.out / f"{case}.png")
        _draw(result, job, written[-1])
    if job.secondary_capture:
        written.append(job.out / f"{case}.sc.dcm")
        _secondary_capture(result, job, written[-1])


def _row(
    case: str, prediction: Prediction, seconds_s: float, scores: tuple[CaseScore, ...], job: Job
) -> PredictionRow:
    uncertainty = prediction.uncertainty
    return PredictionRow(
        case,
        tuple(prediction.volume_ml.items()),
        seconds_s,
        scores,
        prediction.notes,
        verdict=prediction.check.level,
        warnings=prediction.warnings,
        uncertainty_mm=tuple(uncertainty.hd95_mm.items()) if uncertainty else (),
        uncertainty_limit_mm=uncertainty.threshold_mm if uncertainty else None,
        model=job.maker.name,
        version=__version__,
    )


def segments(task: ModelTask) -> tuple[Segment, ...]:
    """Return the labels of a task as DICOM segments."""
    return tuple(_segment(label) for label in task.labels)


def _segment(label: Label) -> Segment:
    code = label.code
    if code is None:
        return Segment(label.name, label.value)
    whole, modifier, category = (
        None if one is None else (one.value, one.scheme, one.meaning)
        for one in (code, code.modifier, code.category)
    )
    return Segment(label.name, label.value, whole, modifier, category)


def _save_probabilities(case: Case, prediction: Prediction, job: Job, written: list[Path]) -> None:
    folder = job.out / PROBABILITIES
    for name, probability in prediction.probabilities.items():
        make_own_folder(folder)
        written.append(folder / f"{case.name}.{name}.{image_suffix_of(job.suffix)}")
        save(probability, written[-1], note=PROGRAM)


def _save_uncertainty(case: Case, prediction: Prediction, job: Job, written: list[Path]) -> None:
    if prediction.uncertainty is None:
        return
    make_own_folder(job.out / UNCERTAINTY)
    written.append(job.out / UNCERTAINTY / f"{case.name}.{image_suffix_of(job.suffix)}")
    found = prediction.uncertainty.map
    save(found.geometry.volume(found.array, prediction.mask.source), written[-1], note=PROGRAM)


def score_case(
    case: str, mask: Volume, truth: Volume | None, labels: dict[str, int]
) -> tuple[CaseScore, ...]:
    """Return the scores of each label; () without a truth."""
    if truth is None:
        return ()
    from c3s3_seg.metrics.scoring import diagonal_mm
    from c3s3_seg.metrics.scoring import scores as measure

    worst = diagonal_mm(mask.geometry)
    found = measure(mask, truth, list(labels.values()))
    return tuple(CaseScore(case, name, found[value], worst) for name, value in labels.items())


def _draw(result: Result, job: Job, path: Path) -> None:
    from c3s3_seg.report.overlay import Overlay, overlay_png

    loaded, labels = result.loaded, result.model.label_values
    title, footer = printable(loaded.task.case.name), _made_by(job.maker)
    overlay_png(Overlay(loaded.scan, result.mask, labels, loaded.truth, title, footer), path)


def _secondary_capture(result: Result, job: Job, path: Path) -> None:
    from c3s3_seg.io.dicom_objects.secondary_capture import write_capture
    from c3s3_seg.report.overlay import Overlay, overlay_pixels

    scan, labels = result.loaded.scan, result.model.label_values
    # The title is the model's name, not the case's: a folder may be named after the patient.
    shown = Overlay(scan, result.mask, labels, title=job.maker.name, footer=_made_by(job.maker))
    write_capture(overlay_pixels(shown), scan.source, path, job.maker)


def _made_by(maker: Maker) -> str:
    """Return the model, its weights and this program's version as text."""
    return f"model {maker.name} ({maker.serial[:8]}), c3s3-seg {__version__}"


def made_by(job: Job) -> str:
    """Return model, weights and version as a sentence, with the date unless times are left out."""
    from c3s3_seg.report.tables import today

    text = _made_by(job.maker)
    return f"{text[0].upper()}{text[1:]}" + ("." if job.deterministic else f", {today()}.")


def write_page(
    result: Result, row: PredictionRow, metadata: dict[str, Any], job: Job, written: list[Path]
) -> None:
    """Write the HTML report if it is requested."""
    if not job.html:
        return
    from c3s3_seg.report.prediction_page import PredictedCase, write_prediction_page

    written.append(job.out / f"{row.case}.html")
    shown = PredictedCase(
        printable(row.case),
        result.loaded.scan,
        result.mask,
        result.model.label_values,
        dict(row.volumes_ml),
        truth=result.loaded.truth,
        scores=row.scores,
        flags=row.cautions,
        uncertainty=_shown_uncertainty(result.uncertainty, row),
        made=made_by(job),
        metadata=metadata,
    )
    write_prediction_page(written[-1], shown)


def _shown_uncertainty(uncertainty: Volume | None, row: PredictionRow) -> ShownUncertainty | None:
    from c3s3_seg.report.prediction_page import Uncertainty

    words = "Where the bundle's two networks differ: half the sum of the differences of their probabilities"
    if uncertainty is None:
        return None
    hd95_mm, limit_mm = dict(row.uncertainty_mm), row.uncertainty_limit_mm
    return Uncertainty(uncertainty, words, hd95_mm=hd95_mm, limit_mm=limit_mm)


def _metadata(
    predicted: Predicted, row: PredictionRow, spent: dict[str, float], job: Job, model: ModelTask
) -> dict[str, Any]:
    prediction = predicted.prediction
    return {
        **_scan_record(predicted),
        "labels": model.label_values,
        "volume_ml": prediction.volume_ml,
        "scores": {s.label: plain(s.score.flat()) for s in row.scores},
        "seconds": {} if job.deterministic else {**spent, "total": row.seconds_s},
        "tiles": prediction.tiles,
        "tile": list(prediction.tile),
        "postprocessed": prediction.postprocessed,
        "nothing_found": row.empty,
        "notes": list(prediction.remarks),
        "warnings": list(row.warnings),
        "uncertainty": _uncertainty(prediction),
        "domain_check": prediction.check.record(),
        "made_with": job.origin or {},
    }


def _scan_record(predicted: Predicted) -> dict[str, Any]:
    """Return the entries of a case's JSON that are known before its mask."""
    loaded = predicted.loaded
    scan, grid = loaded.scan, loaded.scan.geometry
    return {
        MARK: __version__,
        "case": loaded.task.case.name,
        "scan": {
            "path": str(loaded.task.case.path),
            "sha256": loaded.inputs["scan"],
            "modality": scan.source.modality,
            "series_uid": scan.source.series_uid,
            "shape": list(grid.shape),
            "spacing_mm": grid.spacing_mm.tolist(),
            "notes": [public(note) for note in scan.source.notes],
        },
    }


def _uncertainty(prediction: Prediction) -> dict[str, Any] | None:
    uncertainty = prediction.uncertainty
    if uncertainty is None:
        return None
    return {
        "hd95_mm": plain(uncertainty.hd95_mm),
        "threshold_mm": uncertainty.threshold_mm,
        "flagged": uncertainty.flagged,
    }
