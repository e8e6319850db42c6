"""One case, from its file to its mask, in named steps: load, check, prepare, predict, write.

Each step is a function of its own, so that a batch can let the steps of neighbouring cases overlap.
What comes after them, the record in the journal, is the business of whoever runs the batch.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from c3s3_seg import __version__
from c3s3_seg.batch.hashes import scan_sha256, sha256
from c3s3_seg.batch.job import Job, Task
from c3s3_seg.batch.outcome import Outcome, Refusal, unforeseen
from c3s3_seg.bundle import Task as ModelTask
from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.files import make_folder, printable, write_whole
from c3s3_seg.inference.careful import Care, Judged, judge, searches, segment
from c3s3_seg.inference.predictor import Prediction, Predictor, Prepared
from c3s3_seg.io import Case, load, load_mask, save
from c3s3_seg.io.dicom_names import Segment
from c3s3_seg.io.formats import check_format, image_suffix_of, save_repaired, write_mask
from c3s3_seg.metrics import diagonal_mm, score
from c3s3_seg.report.rows import CaseScore, PredictionRow
from c3s3_seg.volume import Volume

PROBABILITIES = "probabilities"
MARK = "c3s3_seg"  # the key by which a JSON of ours is known
T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """A scan that was read and found fit, with its truth and the hashes of both."""

    task: Task
    scan: Volume
    truth: Volume | None
    inputs: dict[str, str]
    seconds: dict[str, float]
    judged: Judged | None = None
    prepared: Prepared | None = None


@dataclass(frozen=True)
class Predicted:
    """A scan with its mask."""

    loaded: Loaded
    prediction: Prediction
    seconds: dict[str, float]


@dataclass(frozen=True)
class Steps:
    """The steps of a case with one loaded model, for many cases.

    Parameters
    ----------
    predictor
        The loaded model.
    job
        What to do with each case.
    """

    predictor: Predictor
    job: Job

    def run(self, task: Task) -> Outcome:
        """Everything for one case, one step after the other."""
        return self.write(self.predict(self.read(task)))

    def read(self, task: Task) -> Loaded | Outcome:
        """What can be done while the network is at another case: load, check, prepare."""
        return self.prepare(self.check(self.load(task)))

    def load(self, task: Task) -> Loaded | Outcome:
        """Read the scan and its truth; take their hashes."""
        return _attempt("load", task, lambda: _load(task, self.job))

    def check(self, loaded: Loaded | Outcome) -> Loaded | Outcome:
        """Whether this scan is one to predict."""
        if isinstance(loaded, Outcome):
            return loaded
        return _attempt("check", loaded.task, lambda: _check(loaded, self.predictor, self.job.care), loaded)

    def prepare(self, loaded: Loaded | Outcome) -> Loaded | Outcome:
        """Bring the scan to the model's grid."""
        if isinstance(loaded, Outcome):
            return loaded
        return _attempt("prepare", loaded.task, lambda: _prepare(loaded, self.predictor), loaded)

    def predict(self, loaded: Loaded | Outcome) -> Predicted | Outcome:
        """Run the network; take its answer back to the scan's grid."""
        if isinstance(loaded, Outcome):
            return loaded
        return _attempt(
            "predict", loaded.task, lambda: _predict(loaded, self.predictor, self.job.care), loaded
        )

    def write(self, predicted: Predicted | Outcome) -> Outcome:
        """Score; write the mask and all that goes with it; take the hashes of what was written."""
        if isinstance(predicted, Outcome):
            return predicted
        task = self.predictor.task
        loaded = predicted.loaded
        return _attempt("write", loaded.task, lambda: _write(predicted, self.job, task), loaded)


def predict_case(case: Case, predictor: Predictor, job: Job, truth_path: Path | None) -> PredictionRow:
    """One case, from its file to its mask, without a journal.

    Raises
    ------
    C3S3Error
        If it fails.
    """
    guard(case.path, job.mask_of(case.name), job.out / f"{case.name}.json")
    outcome = Steps(predictor, job).run(Task(case, truth_path))
    if outcome.row is None:
        raise outcome.refusal.error() if outcome.refusal else InputError("the case failed", where=case.path)
    return outcome.row


def guard(scan: Path, mask: Path, facts: Path) -> None:
    """Never write over a scan, nor over a mask that somebody else put there.

    Raises
    ------
    InputError
        If the mask's place is taken by something that we did not write.
    """
    if not mask.exists():
        return
    if mask.resolve() == scan.resolve():
        raise InputError(
            "the mask would be written over its scan", where=mask, todo="Give another folder with -o"
        )
    ours = False
    with suppress(OSError, ValueError, TypeError):
        ours = MARK in json.loads(facts.read_text(encoding="utf-8"))
    if not ours:
        todo = "Move it away, or give another folder with -o"
        raise InputError("there is a file that an earlier prediction did not write", where=mask, todo=todo)


def _attempt(step: str, task: Task, work: Callable[[], T], loaded: Loaded | None = None) -> T | Outcome:
    """The step's result, or the outcome that says why there is none. A batch goes on in any case."""
    try:
        return work()
    except C3S3Error as error:
        refusal = Refusal.of(error, step)
    except Exception as error:
        ours = unforeseen(error)
        ours.where = task.case.path
        refusal = Refusal.of(ours, step, traceback.format_exc())
    inputs = loaded.inputs if loaded else {}
    if loaded is None:
        with suppress(C3S3Error, OSError):  # so that a scan that is mended is tried again
            inputs = _hashes(task)
    return Outcome(task.case.name, task.place, refusal=refusal, inputs=inputs)


def _load(task: Task, job: Job) -> Loaded:
    started = time.perf_counter()
    inputs = _hashes(task)
    hashed = time.perf_counter()
    how = job.reading
    scan = load(task.case.path, series=how.series, fix=how.fix, rule=how.rule)
    check_format(scan, job.suffix)
    truth = _truth(task.truth, scan) if task.truth is not None else None
    seconds = {"hash": hashed - started, "load": time.perf_counter() - hashed}
    return Loaded(task, scan, truth, inputs, seconds)


def _hashes(task: Task) -> dict[str, str]:
    hashes = {"scan": scan_sha256(task.case.path)}
    return hashes if task.truth is None else {**hashes, "truth": sha256(task.truth)}


def _truth(path: Path, scan: Volume) -> Volume:
    truth = load_mask(path)
    if not truth.geometry.matches(scan.geometry):
        what = f"the truth is on another grid: found {truth.geometry}; the scan has {scan.geometry}"
        raise GeometryError(what, where=path, todo="Give a truth on the scan's grid, or leave --truth out")
    return truth


def _check(loaded: Loaded, predictor: Predictor, care: Care) -> Loaded:
    """Judge the scan, unless that takes the network: where the organ is looked for, `_predict` does it."""
    if searches(loaded.scan, predictor, care):
        return loaded
    return replace(loaded, judged=judge(loaded.scan, predictor, care))


def _prepare(loaded: Loaded, predictor: Predictor) -> Loaded:
    if loaded.judged is None or loaded.judged.box is not None:  # only a part of it will be prepared
        return loaded
    return replace(loaded, prepared=predictor.prepare(loaded.scan))


def _predict(loaded: Loaded, predictor: Predictor, care: Care) -> Predicted:
    judged = loaded.judged or judge(loaded.scan, predictor, care)
    if loaded.prepared is None:
        prediction = segment(judged, predictor)
    else:
        prediction = predictor.restore(loaded.prepared, predictor.network(loaded.prepared))
    seconds = {**loaded.seconds, **prediction.seconds}
    return Predicted(replace(loaded, judged=judged), prediction, seconds)


def _write(predicted: Predicted, job: Job, model: ModelTask) -> Outcome:
    started = time.perf_counter()
    loaded, prediction = predicted.loaded, predicted.prediction
    case, scan = loaded.task.case, loaded.scan
    scores = _score(case.name, prediction.mask, loaded.truth, model.label_values)
    written = [job.mask_of(case.name)]
    write_mask(prediction.mask, written[0], job.suffix, segments(model), job.maker)
    repaired = save_repaired(scan, job.out, case.name)
    written += [repaired] if repaired is not None else []
    written += _save_probabilities(case, prediction, job)
    if job.picture:
        written.append(_draw(case, scan, prediction.mask, loaded.truth, job.out))
    spent = {**predicted.seconds, "write": time.perf_counter() - started}
    volumes = tuple(prediction.volume_ml.items())
    row = PredictionRow(case.name, volumes, sum(spent.values()), scores)
    facts = _facts(predicted, row, spent, job)
    if job.html:
        written.append(_write_page(predicted, facts, model, job.out))
    written.append(job.out / f"{case.name}.json")
    write_whole(written[-1], json.dumps(facts, indent=1).encode())
    hashing = time.perf_counter()
    outputs = {str(path.relative_to(job.out)): sha256(path) for path in written}
    spent["hash"] = spent.get("hash", 0.0) + time.perf_counter() - hashing
    return Outcome(case.name, loaded.task.place, row, None, loaded.inputs, outputs, spent, _verdict(loaded))


def _verdict(loaded: Loaded) -> str:
    return loaded.judged.verdict.level if loaded.judged else ""


def segments(task: ModelTask) -> tuple[Segment, ...]:
    """The labels of a task as DICOM names them."""
    return tuple(
        Segment(x.name, x.value, (x.code.value, x.code.scheme, x.code.meaning) if x.code else None)
        for x in task.labels
    )


def _save_probabilities(case: Case, prediction: Prediction, job: Job) -> list[Path]:
    folder = job.out / PROBABILITIES  # apart, so that `evaluate` does not take them for masks
    written = []
    for name, probability in prediction.probabilities.items():
        make_folder(folder)
        written.append(folder / f"{case.name}.{name}.{image_suffix_of(job.suffix)}")
        save(probability, written[-1])
    return written


def _score(case: str, mask: Volume, truth: Volume | None, labels: dict[str, int]) -> tuple[CaseScore, ...]:
    if truth is None:
        return ()
    worst = diagonal_mm(mask.geometry)
    return tuple(CaseScore(case, name, score(mask, truth, value), worst) for name, value in labels.items())


def _draw(case: Case, scan: Volume, mask: Volume, truth: Volume | None, out: Path) -> Path:
    from c3s3_seg.report.picture import overlay_png

    masks = {"prediction": mask} | ({"truth": truth} if truth is not None else {})
    overlay_png(scan, masks, out / f"{case.name}.png", title=printable(case.name))
    return out / f"{case.name}.png"


def _write_page(predicted: Predicted, facts: dict[str, Any], model: ModelTask, out: Path) -> Path:
    from c3s3_seg.report.prediction_page import PredictedCase, write_prediction_page

    scan, prediction, name = predicted.loaded.scan, predicted.prediction, predicted.loaded.task.case.name
    shown = PredictedCase(
        printable(name), scan, prediction.mask, model.label_values, prediction.volume_ml, facts=facts
    )
    write_prediction_page(out / f"{name}.html", shown)
    return out / f"{name}.html"


def _facts(predicted: Predicted, row: PredictionRow, spent: dict[str, float], job: Job) -> dict[str, Any]:
    loaded, prediction = predicted.loaded, predicted.prediction
    scan, grid = loaded.scan, loaded.scan.geometry
    return {
        MARK: __version__,
        "case": row.case,
        "scan": {
            "path": str(loaded.task.case.path),
            "sha256": loaded.inputs["scan"],
            "modality": scan.source.modality,
            "series_uid": scan.source.series_uid,
            "shape": list(grid.shape),
            "spacing_mm": grid.spacing_mm.tolist(),
            "notes": list(scan.source.notes),
        },
        "volume_ml": prediction.volume_ml,
        "scores": {s.label: {k: _number(v) for k, v in s.score.flat().items()} for s in row.scores},
        "seconds": {} if job.deterministic else {**spent, "total": row.seconds_s},
        "tiles": prediction.tiles,
        "gate": loaded.judged.facts if loaded.judged else None,
        "made_with": job.origin or {},
    }


def _number(value: float) -> float | str | None:
    """JSON knows no infinity and no nan: "inf" and null, as in report.json."""
    if value != value:
        return None
    return "inf" if value == float("inf") else value
