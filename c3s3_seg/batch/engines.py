"""Choose the engine that processes the cases of a batch: this process, its workers or a cluster."""

from __future__ import annotations

from dataclasses import replace

from c3s3_seg.batch.case_files import RequestedMaps
from c3s3_seg.batch.early import EarlyRead
from c3s3_seg.batch.executor import Engine, in_this_process
from c3s3_seg.batch.job import BatchPlan, CaseTask, Job, Model
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.system.permits import withdraw_permits
from c3s3_seg.system.progress import Progress


def open_engine(
    model: Predictor | Model,
    job: Job,
    plan: BatchPlan,
    held: tuple[int, ...],
    progress: Progress,
    first: CaseTask | None,
) -> Engine:
    """Open the engine that processes the cases, once no task of an earlier run on a cluster writes any more.

    Parameters
    ----------
    model
        The loaded model; or how to open it.
    job, plan
        Same as in `predict_cases`.
    held
        File descriptors of the output folder's lock, which workers keep open.
    progress
        Called with the progress of the cases that this process segments itself.
    first
        The case that certainly comes first; None if that is not known.

    Raises
    ------
    InputError
        If there is a time limit for a case and the model is open already, or a task of an earlier run still
        writes into the folder.
    C3S3Error
        If the model cannot be opened.
    """
    withdraw_permits(job.out, plan.shard)
    if not isinstance(model, Model):
        return _loaded(model, job, plan, progress)
    if plan.cluster is not None:
        from c3s3_seg.batch.cluster import cluster_engine

        limit_s = plan.case_timeout_s
        engine = cluster_engine(model, job, plan.cluster, plan.workers, limit_s, plan.shard)
        return replace(engine, maps=_maps(model))
    if plan.workers > 0 or plan.case_timeout_s is not None:
        from c3s3_seg.batch.worker_pool import worker_engine

        engine = worker_engine(model, job, max(1, plan.workers), held, plan.case_timeout_s)
        return replace(engine, maps=_maps(model))
    return _opened(model, job, progress, first)


def _loaded(predictor: Predictor, job: Job, plan: BatchPlan, progress: Progress) -> Engine:
    """Return the engine for this process, with a model that the caller has opened."""
    if plan.case_timeout_s is not None:
        what = "a case can only be ended in a worker process, which opens the model itself"
        raise InputError(what, todo="Leave the time limit of a case out")
    if plan.workers > 0 or plan.cluster:
        what = "worker processes open the model themselves, and a loaded one was given"
        raise InputError(what, todo="Give a Model in its place, or leave the workers out")
    if not job.origin:  # a mask of another model in the folder would count as a mask of this one
        what = "the job does not say which weights the loaded model has"
        raise InputError(what, todo="Give a Model in its place, or Job(origin=origin(bundle, predictor))")
    run = in_this_process(predictor, job, progress)
    return Engine(run, job.origin, maps=RequestedMaps.of(predictor.task, predictor.settings))


def _opened(model: Model, job: Job, progress: Progress, first: CaseTask | None) -> Engine:
    """Return the engine for this process; read the first case while the networks are opened."""
    bundle = ModelBundle.load(model.bundle)
    early = EarlyRead(first, bundle.task, model.settings, job) if first is not None else None
    try:
        predictor, origin = model.open(bundle)
    except BaseException:
        if early is not None:
            early.close()
        raise
    run = in_this_process(predictor, replace(job, origin=origin), progress, early=early)
    maps = RequestedMaps.of(predictor.task, predictor.settings)
    engine = Engine(run, origin, str(model.bundle), maps=maps)
    if early is None:
        return engine
    early.compile_in(predictor)
    return replace(engine, close=early.close)


def _maps(model: Model) -> RequestedMaps:
    """Return the maps of a model that is opened elsewhere."""
    return RequestedMaps.of(ModelBundle.load(model.bundle).task, model.settings)
