"""One study through `batch.predict_cases`: which series of it, what is written, what became of it.

This is the only place that knows how a study is read and which of its series are segmented.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from c3s3_seg.batch.job import BatchPlan, Job, Model
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

# Error -> kind. A study in which there is nothing for the model is no failure: it is passed over.
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
        Its files.
    out
        Where its results go.
    """

    folder: Path
    out: Path


@dataclass(frozen=True)
class Problem:
    """Why a series, or a study, was not segmented.

    Parameters
    ----------
    kind
        `passed over`, `scan`, `storage`, `memory`, `defect` or `worker`.
    reason
        A sentence without patient data.
    """

    kind: str
    reason: str

    @property
    def is_final(self) -> bool:
        """Whether it would come again with the same files."""
        return self.kind in ("passed over", "scan")


@dataclass(frozen=True)
class SegmentedSeries:
    """A series that was segmented.

    Parameters
    ----------
    series
        UID.
    verdict, warnings
        Of the domain check.
    nothing_found
        Whether the mask is empty.
    volumes_ml
        Label -> volume.
    uncertainty
        As the JSON of a case has it; None where the networks were not compared.
    model, weights, version
        What segmented it.
    seconds_s
        In all.
    files
        DICOM objects in the output folder.
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
    """What became of a study."""

    series: tuple[SegmentedSeries, ...] = ()
    problems: tuple[Problem, ...] = field(default_factory=tuple)


def model_of(settings: ServeSettings) -> Model:
    """How to open the model.

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
    """What to write of a study, and which of its series to take."""
    task = ModelBundle.find(settings.model).task
    rule = task.series if settings.allow_out_of_domain else task.series_rule
    return Job(
        out,
        "dicom-seg",
        secondary_capture=settings.output.capture,
        reading=Reading(None, frozenset(), rule),
        allow_out_of_domain=settings.allow_out_of_domain,
    )


def segment(task: SegmentTask, predictor: Predictor, job: Job) -> SegmentedStudy:
    """Segment a study, or go on where an earlier attempt ended."""
    refusals: list[Refusal] = []

    def note(progress: BatchProgress) -> None:
        if progress.outcome is not None and progress.outcome.refusal is not None:
            refusals.append(progress.outcome.refusal)

    try:
        result = predict_cases([task.folder], predictor, replace(job, out=task.out), note, _PLAN)
    except C3S3Error as error:
        told = error.what in [refusal.what for refusal in refusals]
        problems = [*map(_refused, refusals), *([] if told else [_of_the_run(error, task.out)])]
        return SegmentedStudy(problems=tuple(problems))
    done = tuple(_series(task.out, row.case) for row in result.rows)
    return SegmentedStudy(done, tuple(map(_refused, refusals)))


_PLAN = BatchPlan(retry_failed=True)  # the queue decides what is tried again


def problem_of(error: C3S3Error) -> Problem:
    """What an error means for the study."""
    kind = KINDS.get(type(error).__name__, "scan")
    return Problem(kind, without_table(public(error.what)))


def _of_the_run(error: C3S3Error, out: Path) -> Problem:
    """What ended all of it: about the study, or about the place of its results, which may be good later."""
    problem, place = problem_of(error), Path(error.where) if error.where is not None else None
    is_place = place is not None and (place == out or place in out.parents or out in place.parents)
    return replace(problem, kind="storage") if is_place and problem.kind == "scan" else problem


def _refused(refusal: Refusal) -> Problem:
    kind = KINDS.get(refusal.kind, "scan" if refusal.final else "storage")
    return Problem(kind, without_table(public(refusal.what)))


def without_table(text: str) -> str:
    """A sentence without the list of a study's series: their descriptions are for a terminal."""
    return text.split(" The series are ")[0][:500]


def _series(out: Path, case: str) -> SegmentedSeries:
    data = read_json(out / f"{case}.json")
    check, made = data.get("domain_check", {}), data.get("made_with", {})
    weights = sorted(made.get("weights_sha256", {}).values())
    return SegmentedSeries(
        series=str(data["scan"].get("series_uid") or ""),
        verdict=str(check.get("verdict", "")),
        warnings=tuple(public(text) for text in (*check.get("refusals", ()), *check.get("warnings", ()))),
        nothing_found=bool(data.get("nothing_found")),
        volumes_ml={name: float(value) for name, value in data.get("volume_ml", {}).items()},
        uncertainty=data.get("uncertainty"),
        model=str(made.get("bundle", "")),
        weights=weights[0][:16] if weights else "",
        version=__version__,
        seconds_s=float(data.get("seconds", {}).get("total", 0.0)),
        files=tuple(sorted(name for name in data.get(FILES, {}) if name.endswith(".dcm"))),
    )
