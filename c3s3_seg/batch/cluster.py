"""The cases on a Dask cluster: other machines, a scheduler that retries, results through the same journal.

Dask is an engine that exists and is looked after; nothing of it is rebuilt here. Each worker process
opens the model once and takes one case at a time. Scans and the output folder must have the same
paths on every machine.
Dask sends Python objects as pickles: a scheduler must be reached by nobody but its own users.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from c3s3_seg.batch.case import Steps
from c3s3_seg.batch.engine import Engine
from c3s3_seg.batch.job import Job, Model, Task, sendable
from c3s3_seg.batch.outcome import Outcome, Refusal
from c3s3_seg.errors import C3S3Error, InputError, MissingError
from c3s3_seg.inference.hardware import available_processors
from c3s3_seg.schema import parse

TRIES = 2  # how many workers a case may take down before it is the case's fault
QUEUED = 3  # cases per worker that wait on the cluster; the others wait here
CONNECT_S = 30
GPU = "GPU"  # workers started with `dask worker --resources GPU=1` hold one model each per GPU

_opened: dict[str, tuple[Steps, dict[str, Any]]] = {}  # of this worker process: a model is opened once


def cluster_engine(model: Model, job: Job, address: str, workers: int) -> Engine:
    """Connect to a cluster, or start one on this machine, and open the model on one worker.

    Parameters
    ----------
    model, job
        What each worker opens and does.
    address
        `local`, or that of a scheduler: `tcp://HOST:PORT`.
    workers
        Of a local cluster; 0: 2.

    Raises
    ------
    MissingError
        If Dask is not installed.
    InputError
        If the scheduler does not answer, or has no worker.
    C3S3Error
        If the model cannot be opened there.
    """
    if importlib.util.find_spec("distributed") is None:
        todo = "pip install 'c3s3-seg[cluster]'"
        raise MissingError("a cluster needs Dask, which is not installed", todo=todo)
    stack = ExitStack()
    try:
        client = stack.enter_context(_connect(address, workers or 2, stack))
        setup = _setup(_placed(model, address, workers or 2), _absolute(job))
        origin = client.submit(_origin, setup, pure=False, resources=_resources(client)).result()
    except BaseException:
        stack.close()
        raise
    if "refused" in origin:
        stack.close()
        raise parse(Refusal, origin["refused"], address).error()
    return Engine(lambda tasks: _run(client, setup, tasks), origin, str(model.bundle), stack.close)


def _connect(address: str, workers: int, stack: ExitStack) -> Any:
    dask: Any = importlib.import_module("distributed")  # its classes have no types
    if address == "local":
        # Status pages are for whoever runs a cluster; a batch takes no fixed port.
        cluster = dask.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        )
        return dask.Client(stack.enter_context(cluster), set_as_default=False)
    try:
        client = dask.Client(address, timeout=CONNECT_S, set_as_default=False)
        client.wait_for_workers(1, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        what = f"the Dask scheduler does not answer, or has no worker ({error})"
        todo = "Start it: dask scheduler, and dask worker tcp://HOST:PORT"
        raise InputError(what, where=address, todo=todo) from error
    return client


def _placed(model: Model, address: str, workers: int) -> Model:
    """On this machine the processors are shared out; elsewhere a runtime takes what its worker may."""
    if address != "local" or model.threads is not None:
        return model
    return replace(model, threads=max(1, available_processors() // workers))


def _absolute(job: Job) -> Job:
    return replace(job, out=job.out.absolute())


def _setup(model: Model, job: Job) -> str:
    return json.dumps({"model": asdict(model), "job": asdict(job)}, default=sendable)


def _resources(client: Any) -> dict[str, int] | None:
    """One GPU a case, where workers say that they have one."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {GPU: 1} if any(GPU in worker.get("resources", {}) for worker in workers) else None


def _run(client: Any, setup: str, tasks: Iterable[Task]) -> Iterator[Outcome]:
    """Keep the cluster busy without sending it everything at once; outcomes as they come."""
    source = iter(tasks)
    resources = _resources(client)
    waiting: dict[Any, Task] = {}
    dask: Any = importlib.import_module("distributed")
    line = dask.as_completed(loop=client.loop)

    def send(count: int) -> None:
        for task in (task for _, task in zip(range(count), source, strict=False)):
            placed = replace(task, case=replace(task.case, path=Path(task.place)))
            text = json.dumps(asdict(placed), default=os.fspath)
            future = client.submit(_one, setup, text, pure=False, retries=TRIES, resources=resources)
            waiting[future] = task
            line.add(future)

    send(QUEUED * max(1, len(client.scheduler_info(n_workers=-1)["workers"])))
    for future in line:
        yield _outcome(future, waiting.pop(future))
        send(1)


def _outcome(future: Any, task: Task) -> Outcome:
    if future.status == "finished":
        return parse(Outcome, json.loads(future.result()), "cluster")
    reason = f"the cluster gave it up: {type(future.exception()).__name__}: {future.exception()}"
    error = InputError(reason, where=task.case.path, todo="--retry-failed tries again")
    return Outcome(task.case.name, task.place, refusal=Refusal.of(error, "worker"))


def _open(setup: str) -> tuple[Steps, dict[str, Any]]:
    if setup not in _opened:
        facts = json.loads(setup)
        predictor, origin = parse(Model, facts["model"], "cluster").open()
        job = replace(parse(Job, facts["job"], "cluster"), origin=origin)
        _opened.clear()  # of an earlier run: its memory is wanted
        _opened[setup] = Steps(predictor, job), origin
    return _opened[setup]


def _origin(setup: str) -> dict[str, Any]:
    """Runs on a worker."""
    try:
        return _open(setup)[1]
    except C3S3Error as error:
        return {"refused": asdict(Refusal.of(error, "open"))}


def _one(setup: str, text: str) -> str:
    """Runs on a worker: one case, as JSON in and JSON out."""
    steps, _ = _open(setup)
    return json.dumps(asdict(steps.run(parse(Task, json.loads(text), "cluster"))), default=os.fspath)
