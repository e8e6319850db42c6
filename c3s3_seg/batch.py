"""Many scans with one loaded model: each becomes a mask and a JSON, or a row that says why not."""

from __future__ import annotations

import csv
import io as text_io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from c3s3_seg import __version__
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.files import make_folder, write_whole
from c3s3_seg.inference.predictor import Prediction, Predictor
from c3s3_seg.io import Case, find_cases, load, load_mask, match_truth, save
from c3s3_seg.metrics import diagonal_mm, score
from c3s3_seg.report.rows import CaseScore, Failure, PredictionRow
from c3s3_seg.volume import Volume

Suffix = Literal["nii.gz", "nrrd", "mha"]
PROBABILITIES = "probabilities"
UNCERTAINTY = "uncertainty"
MARK = "c3s3_seg"  # the key by which a JSON of ours is known


@dataclass(frozen=True)
class Job:
    """What to do with each case.

    Parameters
    ----------
    out
        Folder for masks, JSON files and summary.csv.
    suffix
        File format of masks and probabilities.
    truth
        A file or a folder of masks to score against.
    picture
        Whether to draw each case as `<case>.png`.
    origin
        What produced the masks, for the JSON: bundle, hashes, backend, settings.
    """

    out: Path
    suffix: Suffix = "nii.gz"
    truth: Path | None = None
    picture: bool = False
    origin: dict[str, Any] | None = None


@dataclass(frozen=True)
class BatchResult:
    """What became of the cases, in their order."""

    rows: tuple[PredictionRow, ...]
    failures: tuple[Failure, ...]


def origin(bundle: ModelBundle, predictor: Predictor) -> dict[str, Any]:
    """What will have produced the masks: for the JSON of each case."""
    networks = bundle.networks[: len(predictor.backends)]
    return {
        "bundle": bundle.task.name,
        "weights_sha256": {n.weights: bundle.manifest.files[n.weights] for n in networks},
        **predictor.record(),
    }


def predict_cases(
    inputs: Sequence[Path],
    predictor: Predictor,
    job: Job,
    tell: Callable[[str, int, int], None] | None = None,
) -> BatchResult:
    """Segment files, DICOM folders and folders of cases.

    Parameters
    ----------
    inputs
        What `c3s3_seg.io.find_cases` takes.
    predictor
        The loaded model.
    job
        Where to and what else.
    tell
        Called with (case, its number, all) before each case.

    Raises
    ------
    C3S3Error
        If nothing can be predicted: no case, no truth where one was asked for, an unusable output
        folder, or a single case that fails. Among several cases a failing one becomes a row.
    """
    cases = find_cases(inputs)
    truths = match_truth(cases, job.truth) if job.truth is not None else {}
    make_folder(job.out)
    rows: list[PredictionRow] = []
    failures: list[Failure] = []
    for number, case in enumerate(cases, start=1):
        if tell is not None:
            tell(case.name, number, len(cases))
        try:
            rows.append(predict_case(case, predictor, job, truths.get(case.name)))
        except C3S3Error as error:
            if len(cases) == 1:
                raise
            failures.append(Failure(case.name, str(error)))
    result = BatchResult(tuple(rows), tuple(failures))
    write_whole(job.out / "summary.csv", _summary(result).encode())
    return result


def predict_case(case: Case, predictor: Predictor, job: Job, truth_path: Path | None) -> PredictionRow:
    """One case, from its file to its mask. Everything is checked before anything is written."""
    started = time.perf_counter()
    mask_path = job.out / f"{case.name}.{job.suffix}"
    _guard(case.path, mask_path, job.out / f"{case.name}.json")
    scan = load(case.path)
    truth = _truth(truth_path, scan) if truth_path is not None else None
    prediction = predictor(scan)
    scores = _score(case.name, prediction.mask, truth, predictor.task.label_values)
    save(prediction.mask, mask_path)
    for name, probability in prediction.probabilities.items():
        folder = job.out / PROBABILITIES  # apart, so that `evaluate` does not take them for masks
        make_folder(folder)
        save(probability, folder / f"{case.name}.{name}.{job.suffix}")
    if prediction.doubt is not None:
        make_folder(job.out / UNCERTAINTY)
        save(prediction.doubt.map, job.out / UNCERTAINTY / f"{case.name}.{job.suffix}")
    if job.picture:
        _draw(case, scan, prediction.mask, truth, job.out)
    seconds, volumes = time.perf_counter() - started, tuple(prediction.volume_ml.items())
    row = PredictionRow(case.name, volumes, seconds, scores, prediction.notes)
    facts = _facts(case, scan, prediction, row, job)
    write_whole(job.out / f"{case.name}.json", json.dumps(facts, indent=1).encode())
    return row


def _guard(scan: Path, mask: Path, facts: Path) -> None:
    """Never write over a scan, nor over a mask that somebody else put there."""
    if not mask.exists():
        return
    if mask.resolve() == scan.resolve():
        raise InputError(
            "the mask would be written over its scan", where=mask, todo="Give another folder with -o"
        )
    try:
        ours = MARK in json.loads(facts.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        todo = "Move it away, or give another folder with -o"
        raise InputError("there is a file that an earlier prediction did not write", where=mask, todo=todo)


def _truth(path: Path, scan: Volume) -> Volume:
    truth = load_mask(path)
    if not truth.geometry.matches(scan.geometry):
        what = f"the truth is on another grid: found {truth.geometry}; the scan has {scan.geometry}"
        raise GeometryError(what, where=path, todo="Give a truth on the scan's grid, or leave --truth out")
    return truth


def _score(case: str, mask: Volume, truth: Volume | None, labels: dict[str, int]) -> tuple[CaseScore, ...]:
    if truth is None:
        return ()
    worst = diagonal_mm(mask.geometry)
    return tuple(CaseScore(case, name, score(mask, truth, value), worst) for name, value in labels.items())


def _draw(case: Case, scan: Volume, mask: Volume, truth: Volume | None, out: Path) -> None:
    from c3s3_seg.report.picture import overlay_png

    masks = {"prediction": mask} | ({"truth": truth} if truth is not None else {})
    overlay_png(scan, masks, out / f"{case.name}.png", title=case.name)


def _facts(case: Case, scan: Volume, prediction: Prediction, row: PredictionRow, job: Job) -> dict[str, Any]:
    grid = scan.geometry
    return {
        MARK: __version__,
        "case": case.name,
        "scan": {
            "path": str(case.path),
            "modality": scan.source.modality,
            "series_uid": scan.source.series_uid,
            "shape": list(grid.shape),
            "spacing_mm": grid.spacing_mm.tolist(),
            "notes": list(scan.source.notes),
        },
        "volume_ml": prediction.volume_ml,
        "scores": {s.label: {k: _number(v) for k, v in s.score.flat().items()} for s in row.scores},
        "seconds": {**prediction.seconds, "total": row.seconds_s},
        "tiles": prediction.tiles,
        "tile": list(prediction.tile),
        "tidied": prediction.tidied,
        "notes": list(prediction.notes),
        "doubt": _doubt(prediction),
        "made_with": job.origin or {},
    }


def _doubt(prediction: Prediction) -> dict[str, Any] | None:
    doubt = prediction.doubt
    if doubt is None:
        return None
    between = {name: _number(mm) for name, mm in doubt.hd95_mm.items()}
    return {"hd95_mm": between, "threshold_mm": doubt.threshold_mm, "flagged": doubt.flagged}


def _number(value: float) -> float | str | None:
    """JSON knows no infinity and no nan: "inf" and null, as in report.json."""
    if value != value:
        return None
    return "inf" if value == float("inf") else value


def _summary(result: BatchResult) -> str:
    """One line a case and label; failed cases carry their reason."""
    scored = [score.score.flat() for row in result.rows for score in row.scores]
    columns = list(scored[0]) if scored else []
    rest = [c for c in columns if c != "volume_ml"]
    buffer = text_io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["case", "label", "volume_ml", "seconds", *rest, "error"])
    for row in result.rows:
        values = {score.label: score.score.flat() for score in row.scores}
        for label, volume in row.volumes_ml:
            numbers = [values[label][c] if label in values else "" for c in rest]
            writer.writerow([row.case, label, f"{volume:.3f}", f"{row.seconds_s:.2f}", *numbers, ""])
    for failure in result.failures:
        writer.writerow([failure.case, "", "", "", *[""] * len(rest), failure.reason])
    return buffer.getvalue()
