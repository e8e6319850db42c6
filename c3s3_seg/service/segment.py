"""Segmentation of one study by `batch.predict_cases`: choice of its series, output and outcome.

Only this module knows how a study is read and which of its series are segmented.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from c3s3_seg.batch.job import BatchPlan, Job, Model, primary_weights
from c3s3_seg.batch.predict import predict_cases
from c3s3_seg.batch.records import Refusal
from c3s3_seg.batch.result import BatchProgress
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import C3S3Error, public
from c3s3_seg.inference import BackendRequest, Predictor
from c3s3_seg.inference import Settings as PredictorSettings
from c3s3_seg.io.reading import Reading
from c3s3_seg.service.settings import ServeSettings
from c3s3_seg.system.memory import parse_memory
from c3s3_seg.system.ownership import FILES
from c3s3_seg.system.reading import read_json
from c3s3_seg.version import __version__

# Error -> kind. A study without a series for the model is no failure: it is passed over.
KINDS = {
    "DomainError": "passed over",
    "NoScanError": "passed over",
    "StorageError": "storage",
    "MemoryLimitError": "memory",
    "DefectError": "defect",
}


@dataclass(frozen=True)
class SegmentTask:
    """A study for a worker.

    Parameters
    ----------
    folder
        Folder of the study's files.
    out
        Folder for the results.
    """

    folder: Path
    out: Path


@dataclass(frozen=True)
class Problem:
    """The reason why a series, or a study, was not segmented or stored.

    Parameters
    ----------
    kind
        `passed over`, `scan`, `storage`, `store`, `memory`, `defect` or `worker`.
    reason
        Sentence without patient data.
    """

    kind: str
    reason: str

    @property
    def is_final(self) -> bool:
        """Whether the problem would recur with the same files."""
        return self.kind in ("passed over", "scan")


@dataclass(frozen=True)
class SegmentedSeries:
    """A series that was segmented.

    Parameters
    ----------
    series
        Series UID.
    verdict, warnings
        Verdict of the domain check; its refusals and warnings.
    nothing_found
        Whether the mask is empty.
    volumes_ml
        Label -> volume in ml.
    uncertainty
        Uncertainty as in the JSON of a case; None if the networks were not compared.
    model, weights, version
        Bundle, first 16 digits of the SHA-256 of its primary network's weights, and version of this package.
    seconds_s
        Total time.
    files
        Names of the DICOM objects in the output folder.
    """

    series: str
    verdict: str
    warnings: tuple[str, ...]
    nothing_found: bool
    volumes_ml: dict[str, float]
    uncertainty: dict[str, Any] | None
    model: str
    weights: str
    version: str
    seconds_s: float
    files: tuple[str, ...]


@dataclass(frozen=True)
class SegmentedStudy:
    """The segmented series of a study, and the problems with others."""

    series: tuple[SegmentedSeries, ...] = ()
    problems: tuple[Problem, ...] = field(default_factory=tuple)


def model_of(settings: ServeSettings) -> Model:
    """Return how to open the model: bundle, backend and settings.

    Raises
    ------
    C3S3Error
        If there is no such model.
    """
    memory = settings.limits.memory
    predictor = PredictorSettings(
        uncertainty=settings.output.uncertainty,
        memory_bytes=None if memory is None else parse_memory(memory),
    )
    request = BackendRequest(threads=settings.threads)
    return Model(ModelBundle.find(settings.model).folder.resolve(), request, predictor)


def job_of(settings: ServeSettings, out: Path) -> Job:
    """Return what to write for a study, and which of its series to take.

    A rule in the bundle holds for each series, also for one that came alone: the others may come later.
    """
    task = ModelBundle.find(settings.model).task
    rule = None if settings.allow_out_of_domain else task.series_rule
    return Job(
        out,
        "dicom-seg",
        secondary_capture=settings.output.capture,
        reading=Reading(task.series, frozenset(), rule),
        allow_out_of_domain=settings.allow_out_of_domain,
    )


def segment(task: SegmentTask, predictor: Predictor, job: Job) -> SegmentedStudy:
    """Segment a study, or resume an earlier attempt."""
    refusals: list[Refusal] = []

    def note(progress: BatchProgress) -> None:
        # What an earlier attempt decided is reported once, before the first case.
        outcomes = (*progress.refused, *progress.kept, *((progress.outcome,) if progress.outcome else ()))
        refusals.extend(outcome.refusal for outcome in outcomes if outcome.refusal is not None)

    try:
        result = predict_cases([task.folder], predictor, replace(job, out=task.out), note, _PLAN)
    except C3S3Error as error:
        told = error.what in [refusal.what for refusal in refusals]
        problems = [*map(_refused, refusals), *([] if told else [_of_the_run(error, task.out)])]
        return SegmentedStudy(problems=tuple(problems))
    done = tuple(_series(task.out, row.case) for row in result.rows)
    return SegmentedStudy(done, tuple(map(_refused, refusals)))


_PLAN = BatchPlan(retry_failed=True)  # the queue decides which studies are retried


def problem_of(error: C3S3Error) -> Problem:
    """Return an error as a problem of the study."""
    kind = KINDS.get(type(error).__name__, "scan")
    return Problem(kind, without_table(public(error.what)))


def _of_the_run(error: C3S3Error, out: Path) -> Problem:
    """Return the error that ended the run as a problem: of the scan, or of the output folder (not final)."""
    problem, place = problem_of(error), Path(error.where) if error.where is not None else None
    is_place = place is not None and (place == out or place in out.parents or out in place.parents)
    return replace(problem, kind="storage") if is_place and problem.kind == "scan" else problem


def _refused(refusal: Refusal) -> Problem:
    kind = KINDS.get(refusal.kind, "scan" if refusal.final else "storage")
    return Problem(kind, without_table(public(refusal.what)))


def without_table(text: str) -> str:
    """Return up to 500 characters of a message, without the list of series, which is for a terminal."""
    return text.split(" The series are ")[0][:500]


def _series(out: Path, case: str) -> SegmentedSeries:
    data = read_json(out / f"{case}.json")
    check, made = data.get("domain_check", {}), data.get("made_with", {})
    return SegmentedSeries(
        series=str(data["scan"].get("series_uid") or ""),
        verdict=str(check.get("verdict", "")),
        warnings=tuple(public(text) for text in (*check.get("refusals", ()), *check.get("warnings", ()))),
        nothing_found=bool(data.get("nothing_found")),
        volumes_ml={name: float(value) for name, value in data.get("volume_ml", {}).items()},
        uncertainty=data.get("uncertainty"),
        model=str(made.get("bundle", "")),
        weights=primary_weights(made),
        version=__version__,
        seconds_s=float(data.get("seconds", {}).get("total", 0.0)),
        files=tuple(sorted(name for name in data.get(FILES, {}) if name.endswith(".dcm"))),
    )
