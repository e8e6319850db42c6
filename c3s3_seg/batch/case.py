"""Process one case, from its file to its mask, in named steps: load, check, prepare, predict, write.

Each step is a function of its own, so that a batch can let the steps of neighbouring cases overlap.
The code that runs the batch writes the record in the journal after these steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from c3s3_seg.batch.additions import add_reports, kept_mask
from c3s3_seg.batch.case_files import RequestedMaps, check_places, file_names, remove_earlier, remove_files
from c3s3_seg.batch.job import CaseTask, Job
from c3s3_seg.batch.output import write_case
from c3s3_seg.batch.records import Loaded, Outcome, Predicted, Refusal, may_be_quoted, trace_of
from c3s3_seg.batch.truths import refuse_0_and_255
from c3s3_seg.bundle import Task as ModelTask
from c3s3_seg.errors import C3S3Error, GeometryError, InputError, as_c3s3_error
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.predictor import Predictor, PreparedScan
from c3s3_seg.io import Case, load_mask, read_case
from c3s3_seg.io.formats import check_format
from c3s3_seg.io.hashes import Watch, input_sha256
from c3s3_seg.io.image.files import image_suffix
from c3s3_seg.io.reading import is_interpolated
from c3s3_seg.report.rows import PredictionRow
from c3s3_seg.system.progress import Progress, silent

T = TypeVar("T")


@dataclass(frozen=True)
class Steps:
    """The steps of a case with one loaded model, for many cases.

    Parameters
    ----------
    predictor
        The loaded model.
    job
        Options for processing each case.
    progress
        Called with the windows and tiles of each case.
    """

    predictor: Predictor
    job: Job
    progress: Progress = silent

    def run(self, task: CaseTask) -> Outcome:
        """Run all steps of one case, one after the other."""
        return self.write(self.predict(self.read(task)))

    def read(self, task: CaseTask) -> Loaded | Outcome:
        """Load, check and prepare a case: the steps that can run while the network has another case."""
        return self.prepare(self.check(self.load(task)))

    def load(self, task: CaseTask) -> Loaded | Outcome:
        """Read the scan, its truth and a kept mask; compute the hashes of scan and truth."""
        return _attempt("load", task, lambda: _load(task, self.job, self.predictor.task))

    def check(self, loaded: Loaded | Outcome) -> Loaded | Outcome:
        """Check the values of the truth, and that the scan may be segmented unless its mask is kept."""
        if isinstance(loaded, Outcome):
            return loaded
        return _attempt("check", loaded.task, lambda: _check(loaded, self.predictor, self.job), loaded)

    def prepare(self, loaded: Loaded | Outcome) -> Loaded | Outcome:
        """Bring the scan to the model's grid, unless this is done or the organ must be found first."""
        if isinstance(loaded, Outcome):
            return loaded
        return _attempt("prepare", loaded.task, lambda: _prepare(loaded, self.predictor), loaded)

    def predict(self, loaded: Loaded | Outcome) -> Predicted | Loaded | Outcome:
        """Find the organ in a larger scan; run the network; resample its probabilities to the scan's grid.

        A case whose mask is kept is returned unchanged.
        """
        if isinstance(loaded, Outcome) or loaded.mask is not None:
            return loaded
        task = loaded.task
        found = _attempt("locate", task, lambda: _locate(loaded, self.predictor, self.progress), loaded)
        ready = self.prepare(found)  # of a larger scan only now, as a step of its own: see `OF_THE_SCAN`
        if isinstance(ready, Outcome) or ready.prepared is None:
            return ready
        prepared = ready.prepared
        return _attempt(
            "predict", task, lambda: _predict(ready, prepared, self.predictor, self.progress), ready
        )

    def write(self, predicted: Predicted | Loaded | Outcome) -> Outcome:
        """Score the mask; write it with all files of the case; compute the hashes of these files."""
        if isinstance(predicted, Outcome):
            return predicted
        task = self.predictor.task
        if isinstance(predicted, Loaded):
            there = predicted
            return _attempt("write", there.task, lambda: add_reports(there, self.job, task), there)
        loaded = predicted.loaded
        outcome = _attempt("write", loaded.task, lambda: write_case(predicted, self.job, task), loaded)
        return outcome if outcome.row is not None else replace(outcome, seconds=predicted.seconds)


def predict_case(case: Case, predictor: Predictor, job: Job, truth_path: Path | None) -> PredictionRow:
    """Process one case, from its file to its mask, without a journal.

    Raises
    ------
    C3S3Error
        If the case fails.
    """
    maps, task = RequestedMaps.of(predictor.task, predictor.settings), CaseTask(case, truth_path)
    names = file_names(job, case.name, maps)
    check_places(task, job.out, names)
    remove_earlier(job.out, task, names, {})
    outcome = Steps(predictor, job).run(task)
    if outcome.row is None:
        remove_files(job.out, names)
        raise outcome.refusal.error() if outcome.refusal else InputError("the case failed", where=case.path)
    return outcome.row


def _attempt(step: str, task: CaseTask, work: Callable[[], T], loaded: Loaded | None = None) -> T | Outcome:
    """Return the step's result, or an outcome with the reason of its failure; a batch continues then."""
    before = [] if loaded else _watched(task)
    try:
        return work()
    except C3S3Error as error:
        refusal = Refusal.of(as_c3s3_error(error), step, scan=task.case.path)
    except Exception as error:
        quote = may_be_quoted(task.case.path)
        ours = as_c3s3_error(error, quote=quote)
        ours.where = task.case.path
        refusal = Refusal.of(ours, step, trace_of(error, quote=quote))
    inputs = loaded.inputs if loaded else _settled(task, before)
    seconds = loaded.seconds if loaded else {}
    return Outcome(task.case.name, task.place, refusal=refusal, inputs=inputs, seconds=seconds)


def _watched(task: CaseTask) -> list[Watch]:
    with suppress(C3S3Error, OSError):
        scan = Watch(task.case.path, task.case.paths or None)
        return [scan] if task.truth is None else [scan, Watch(task.truth)]
    return []


def _settled(task: CaseTask, before: list[Watch]) -> dict[str, str]:
    """Return the hashes of refused inputs, so that a scan that is repaired is tried again.

    Empty if an input was still being written while it was read: its present content was never inspected.
    """
    with suppress(C3S3Error, OSError):
        inputs = input_sha256(task.case.path, task.truth, task.case.paths)
        for watch in before:
            watch.check()
        return inputs if before else {}
    return {}


def _load(task: CaseTask, job: Job, model: ModelTask) -> Loaded:
    started = time.perf_counter()
    scan = read_case(task.case, job.reading, hashed=True)
    check_format(scan, job.suffix, secondary_capture=job.secondary_capture)
    truth = _truth(task.truth, scan, job.reading.repair) if task.truth is not None else None
    found = {"scan": scan.source.sha256, "truth": truth.source.sha256 if truth else None}
    inputs = {key: value for key, value in found.items() if value is not None}
    mask = kept_mask(task, job, scan, model.label_values)
    return Loaded(task, scan, truth, inputs, {"load": time.perf_counter() - started}, mask=mask)


def _truth(path: Path, scan: Volume, repair: Collection[str]) -> Volume:
    if not image_suffix(path) and is_interpolated(scan.source.notes):
        what = "the truth was drawn on the acquired slices; on the interpolated ones it would be background"
        todo = "Leave --truth out; evaluate compares masks of the acquired slices (--format dicom-seg)"
        raise GeometryError(what, where=path, todo=todo)
    # A drawing in DICOM may leave out empty slices, or have no voxels: it is read on the grid of its scan.
    # An image that was drawn on the scan has its fault, and gets its repair.
    grid, orthonormal = None if image_suffix(path) else scan.geometry, "orthonormal" in repair
    truth = load_mask(path, grid=grid, hashed=True, orthonormal=orthonormal)
    if not truth.geometry.matches(scan.geometry):
        what = f"the truth is on another grid: found {truth.geometry}; the scan has {scan.geometry}"
        what += truth.geometry.distance_note(scan.geometry)
        raise GeometryError(what, where=path, todo="Give a truth on the scan's grid, or leave --truth out")
    return truth


def _check(loaded: Loaded, predictor: Predictor, job: Job) -> Loaded:
    if loaded.truth is not None:
        refuse_0_and_255(loaded.truth, predictor.task.label_values)
    if loaded.mask is not None:  # it was checked when it was segmented
        return loaded
    checked = predictor.check(loaded.scan, roi=job.roi, allow_out_of_domain=job.allow_out_of_domain)
    return replace(loaded, checked=checked)


def _prepare(loaded: Loaded, predictor: Predictor) -> Loaded:
    """Prepare the scan, unless the organ must be found first: see `_locate`."""
    if loaded.checked is None or loaded.checked.search or loaded.prepared is not None:
        return loaded
    return replace(loaded, prepared=predictor.prepare(loaded.checked))


def _locate(loaded: Loaded, predictor: Predictor, progress: Progress) -> Loaded:
    """Find the organ in a larger scan, which takes the network."""
    if loaded.checked is None or loaded.prepared is not None:
        return loaded
    return replace(loaded, checked=predictor.locate(loaded.checked, progress))


def _predict(loaded: Loaded, prepared: PreparedScan, predictor: Predictor, progress: Progress) -> Predicted:
    prediction = predictor.to_scan_grid(prepared, predictor.network(prepared, progress))
    return Predicted(loaded, prediction, {**loaded.seconds, **prediction.seconds})
