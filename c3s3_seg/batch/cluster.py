"""Process cases on a Dask cluster: other machines, a scheduler that retries, results in the same journal.

Each worker process opens the model once and takes one case at a time. Scans and the output folder must have
the same paths on every machine. Dask can neither stop a case that has begun, nor one on a worker that is cut
off: see `permits`.

Dask sends Python objects as pickles: whoever can connect to a scheduler or a worker can run code as its user.
A local cluster uses TLS with a key that is made for this run; a scheduler elsewhere must be protected by
its operators.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from c3s3_seg.batch.executor import Engine, in_this_process
from c3s3_seg.batch.job import CaseTask, Job, Model, refuse_other_model, sendable
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.batch.worker_pool import worker_engine
from c3s3_seg.errors import C3S3Error, InputError, MissingError, to_install
from c3s3_seg.system.permits import Permits, permitted
from c3s3_seg.system.process import quiet_libraries
from c3s3_seg.system.schema import parse
from c3s3_seg.system.shard import Shard

TRIES = 2  # repeats of a case that raised; dead workers count against Dask's own `allowed-failures`
QUEUED = 3  # cases per worker that wait on the cluster; the others wait in this process
CONNECT_S = 30
WAIT_S = 600.0  # for a worker that is cut off and still has the case that this worker was given
LONGEST = 300  # characters shown of a Dask message
GPU = "GPU"  # workers started with `dask worker --resources GPU=1` hold one model each per GPU
# First code of a local worker: a terminal sends Ctrl-C to all, and only this process is to end the others.
IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"

_opened: dict[str, Engine] = {}  # engines of this worker process: a model is opened once
_one_at_a_time = threading.Lock()  # a Dask worker may have several threads


def cluster_engine(
    model: Model,
    job: Job,
    address: str,
    workers: int,
    limit_s: float | None = None,
    share: Shard | None = None,
) -> Engine:
    """Connect to a cluster, or start one on this machine, and open the model on one worker.

    Parameters
    ----------
    model, job
        The model that each worker opens, and the options for its cases.
    address
        `local`, or the address of a scheduler: `tcp://HOST:PORT`.
    workers
        Number of workers of a local cluster; 0: 2.
    limit_s
        Seconds that a case may take; None: no limit.
    share
        Share of the run; None: the whole run.

    Raises
    ------
    MissingError
        If Dask is not installed.
    InputError
        If the scheduler does not answer, has no worker, or requires TLS that is not configured here; or if
        a worker lacks the package or dies on opening the model.
    C3S3Error
        If a worker reports that the model cannot be opened.
    """
    if importlib.util.find_spec("distributed") is None:
        todo = to_install("cluster")
        raise MissingError("a cluster needs Dask, which is not installed", todo=todo)
    stack, permits = ExitStack(), Permits(job.out.absolute(), share)
    stack.callback(permits.close)  # after the client: it sends no more
    try:
        client = stack.enter_context(_connect(address, workers or 2, stack))
        setup = _setup(_placed(model, address, workers or 2), job, limit_s)
        origin = _opened_there(client, setup, address)
    except BaseException:
        stack.close()
        raise
    if "refused" in origin:
        stack.close()
        raise parse(Refusal, origin["refused"], address).error()
    run = partial(_run, client, setup, json.dumps(origin), permits)
    return Engine(run, origin, str(model.bundle), stack.close)


def _opened_there(client: Any, setup: str, address: str) -> dict[str, Any]:
    """Return the origin or refusal from a worker. Dask raises if it died or the package is missing."""
    try:
        future = client.submit(_origin, setup, pure=False, resources=_resources(client))
        origin: dict[str, Any] = future.result()
    except Exception as error:
        what = f"no worker of the cluster can open the model ({_line(error)})"
        todo = "Install this version of c3s3-seg where the workers are started, and give them more memory"
        raise InputError(what, where=address, todo=todo) from error
    return origin


def _line(error: BaseException | None) -> str:
    """Return an error of Dask as one line: some are pages long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {lines[0][:LONGEST]}' if lines else ''}"


def _connect(address: str, workers: int, stack: ExitStack) -> Any:
    dask: Any = importlib.import_module("distributed")  # its classes have no types
    if address == "local":
        # Dask's status pages have no authentication: serve none at all, and on a loopback port only.
        routes: dict[str, list[str]] = {
            f"distributed.{role}.http.routes": [] for role in ("scheduler", "worker")
        }
        settings: Any = importlib.import_module("dask.config")
        with settings.set(routes | {"distributed.worker.preload": [IGNORE_CTRL_C]}):
            cluster = dask.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                security=_security(dask),
                silence_logs=50,
            )
        return dask.Client(stack.enter_context(cluster), set_as_default=False)
    try:
        client = dask.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError, too
        raise _silent(address, error) from error
    except (TypeError, RuntimeError) as error:
        # Either tls:// without certificates, or tcp:// where TLS is required.
        what = f"Dask's configuration and the address of the scheduler do not fit ({_line(error)})"
        todo = (
            "For tls://HOST:PORT set distributed.comm.tls; with distributed.comm.require-encryption give it"
        )
        raise InputError(what, where=address, todo=todo) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except OSError as error:
        client.close()
        raise _silent(address, error) from error
    return client


def _silent(address: str, error: Exception) -> InputError:
    what = f"the Dask scheduler does not answer, or has no worker ({error})"
    return InputError(what, where=address, todo="Start it: dask scheduler, and dask worker tcp://HOST:PORT")


def _security(dask: Any) -> Any:
    """Return TLS settings with a key for this cluster only: other users of this machine reach its ports.

    Raises
    ------
    MissingError
        If no program or package that can make a key is installed.
    """
    try:
        return dask.Security.temporary()
    except ImportError:  # Dask needs the package cryptography; the program openssl is as good
        certificate, key = _key_of_openssl()
    roles = ("client", "scheduler", "worker")
    pairs = {
        f"tls_{role}_{what}": text for role in roles for what, text in (("cert", certificate), ("key", key))
    }
    return dask.Security(require_encryption=True, tls_ca_file=certificate, **pairs)


def _key_of_openssl() -> tuple[str, str]:
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=dask-internal -keyout - -out -"
    try:
        reply = subprocess.run(words.split(), capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        todo = "pip install cryptography, or install the program openssl"
        raise MissingError(
            "a local cluster talks TLS, and nothing here can make a key for it", todo=todo
        ) from error
    begin = reply.index("-----BEGIN CERTIFICATE-----")
    end = reply.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----\n")
    return reply[begin:end], reply[:begin] + reply[end:]


def _placed(model: Model, address: str, workers: int) -> Model:
    """Return the model with its share of this machine's resources; unchanged on a cluster elsewhere."""
    return model.among(workers) if address == "local" else model


def _setup(model: Model, job: Job, limit_s: float | None) -> str:
    """Return the setup for a worker as JSON, with absolute paths: its current folder is another one."""
    model, job = replace(model, bundle=model.bundle.absolute()), replace(job, out=job.out.absolute())
    return json.dumps({"model": asdict(model), "job": asdict(job), "limit_s": limit_s}, default=sendable)


def _resources(client: Any) -> dict[str, int] | None:
    """Return the demand of one GPU per case if any worker reports a GPU; else None."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {GPU: 1} if any(GPU in worker.get("resources", {}) for worker in workers) else None


def _run(
    client: Any, setup: str, origin: str, permits: Permits, tasks: Iterable[CaseTask]
) -> Iterator[Outcome]:
    """Yield outcomes as they come; keep the cluster busy without sending it everything at once."""
    source = iter(tasks)
    resources = _resources(client)
    waiting: dict[Any, tuple[CaseTask, Path]] = {}
    dask: Any = importlib.import_module("distributed")
    line = dask.as_completed(loop=client.loop)

    def send(count: int) -> None:
        for task in (task for _, task in zip(range(count), source, strict=False)):
            permit = permits.give()
            words = (setup, origin, _sent(task), str(permit))
            future = client.submit(_one, *words, pure=False, retries=TRIES, resources=resources)
            waiting[future] = task, permit
            line.add(future)

    send(QUEUED * max(1, len(client.scheduler_info(n_workers=-1)["workers"])))
    for future in line:
        if future.status == "cancelled":  # all waiting cases are, and no case is at fault
            what = "the Dask scheduler has ended, or has cancelled the cases"
            raise InputError(what, todo="Start it again; the same command goes on")
        task, permit = waiting.pop(future)
        permits.take_back(permit)  # before the case is recorded: from now on no worker may write its files
        yield _outcome(future, task)
        send(1)


def _sent(task: CaseTask) -> str:
    """Return a case as JSON with absolute paths: the worker's current folder is another one."""
    truth = None if task.truth is None else task.truth.absolute()
    placed = replace(task, case=replace(task.case, path=Path(task.place)), truth=truth)
    return json.dumps(asdict(placed), default=os.fspath)


def _outcome(future: Any, task: CaseTask) -> Outcome:
    if future.status == "finished":
        return parse(Outcome, json.loads(future.result()), "cluster")
    reason = f"the cluster gave it up: {_line(future.exception())}"
    return _refused(task, InputError(reason, where=task.case.path, todo="--retry-failed tries again"))


def _open(setup: str) -> Engine:
    """Return the engine of this run: in this process or, with a time limit, in one that can be ended."""
    if setup not in _opened:
        quiet_libraries()  # this process is a Dask worker
        request = json.loads(setup)
        model, job = parse(Model, request["model"], "cluster"), parse(Job, request["job"], "cluster")
        for engine in _opened.values():  # of an earlier run: its memory is needed
            engine.close()
        _opened.clear()
        if request["limit_s"] is not None:
            _opened[setup] = worker_engine(model, job, 1, (), request["limit_s"])
        else:
            predictor, origin = model.open()
            run = in_this_process(predictor, replace(job, origin=origin), overlap=False)
            _opened[setup] = Engine(run, origin)
    return _opened[setup]


def _origin(setup: str) -> dict[str, Any]:
    """Return the origin of the opened model, or its refusal; runs on a worker."""
    try:
        with _one_at_a_time:
            return _open(setup).origin
    except C3S3Error as error:
        return {"refused": asdict(Refusal.of(error, "open"))}


def _one(setup: str, origin: str, text: str, permit: str) -> str:
    """Process one case, as JSON in and JSON out, unless another worker has done so; runs on a worker."""
    task = parse(CaseTask, json.loads(text), "cluster")
    with _one_at_a_time, ExitStack() as stack:
        try:
            held = stack.enter_context(permitted(Path(permit), WAIT_S))
        except InputError as error:
            return _answer(_refused(task, error))
        answer = held.outcome or _answer(_processed(setup, origin, task))
        held.finish(answer)
        return answer


def _processed(setup: str, origin: str, task: CaseTask) -> Outcome:
    engine = _open(setup)
    try:
        refuse_other_model(json.loads(origin), engine.origin, platform.node())
    except InputError as error:
        return _refused(task, error)
    (outcome,) = engine.run([task])
    return outcome


def _refused(task: CaseTask, error: InputError) -> Outcome:
    return Outcome(task.case.name, task.place, refusal=Refusal.of(error, "worker"))


def _answer(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome), default=os.fspath)
