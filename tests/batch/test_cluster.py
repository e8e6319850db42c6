"""Tests of a Dask cluster on this machine: one of two worker processes is killed while it has a case."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import MODEL, masks, worker_processes

from c3s3_seg.batch import BatchPlan, Job, Model, predict_cases, verify
from c3s3_seg.batch.cluster import cluster_engine
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.batch.records import Outcome
from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.io import Case
from c3s3_seg.system.permits import Permits
from c3s3_seg.system.schema import parse

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_two_workers_one_is_killed(small_scans: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    predict_cases([small_scans], MODEL, Job(here, allow_out_of_domain=True))
    killed: list[int] = []

    def kill() -> None:
        """Kill the first worker process once a mask has been written, that is, while it is at work."""
        while not list(there.glob("*.nii.gz")):
            time.sleep(0.005)
        killed.append(worker_processes()[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    result = predict_cases(
        [small_scans],
        MODEL,
        Job(there, allow_out_of_domain=True),
        None,
        BatchPlan(workers=2, cluster="local"),
    )
    thread.join(timeout=10)
    assert killed
    assert not result.failures
    assert masks(there) == masks(here)
    assert verify(there).holds


@pytest.mark.slow
def test_what_goes_wrong_there_is_said_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json"):
        cluster_engine(Model(tmp_path), Job(tmp_path, allow_out_of_domain=True), "local", 1)


def test_no_scheduler_and_no_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from c3s3_seg.batch import cluster

    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    with pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9: the Dask scheduler does not answer"):
        cluster_engine(MODEL, Job(tmp_path, allow_out_of_domain=True), "tcp://127.0.0.1:9", 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install '\.\[cluster\]'"):
        cluster_engine(MODEL, Job(tmp_path, allow_out_of_domain=True), "local", 0)


@pytest.mark.parametrize(
    ("address", "encryption"), [("tls://127.0.0.1:9", False), ("tcp://127.0.0.1:9", True)]
)
def test_an_address_that_does_not_fit_the_configuration_of_dask(
    tmp_path: Path, address: str, encryption: bool
) -> None:
    """The message names the certificates that nobody has set, and does not report a defect."""
    import dask.config
    import distributed  # noqa: F401 - it puts its own settings there

    job = Job(tmp_path, allow_out_of_domain=True)
    with (
        dask.config.set({"distributed.comm.require-encryption": encryption}),
        pytest.raises(InputError, match=rf"{address}: Dask's configuration and .* do not fit \(.*comm\.tls"),
    ):
        cluster_engine(MODEL, job, address, 0)


@contextmanager
def cluster_here(workers: int = 1) -> Iterator[Any]:
    """Run a scheduler and workers in this process."""
    import distributed

    with distributed.LocalCluster(n_workers=workers, processes=False, dashboard_address=None) as here:
        yield here


def test_a_scheduler_without_workers_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from c3s3_seg.batch import cluster

    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with cluster_here(workers=0) as here:
        with pytest.raises(InputError, match=r"does not answer, or has no worker"):
            cluster_engine(MODEL, Job(tmp_path), here.scheduler_address, 0)
        deadline = time.monotonic() + 10
        while here.scheduler.clients.keys() - {"fire-and-forget"} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not here.scheduler.clients.keys() - {"fire-and-forget"}


def test_workers_that_cannot_open_the_model_are_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens if c3s3-seg is not installed for the workers, or if none of them survives opening it."""
    from c3s3_seg.batch import cluster

    def refuse(setup: str) -> None:
        raise ModuleNotFoundError("No module named 'c3s3_seg'")

    monkeypatch.setattr(cluster, "_origin", refuse)
    with (
        cluster_here() as here,
        pytest.raises(
            InputError, match=r"no worker .* \(ModuleNotFoundError: No module.*Install this version"
        ),
    ):
        cluster_engine(MODEL, Job(tmp_path), here.scheduler_address, 0)


ENDED = threading.Event()


def some_model(setup: str) -> dict[str, str]:
    return {"bundle": f"of {len(setup)} letters"}


def case_without_end(*words: str) -> str:
    ENDED.wait(20)
    return " ".join(words)


def test_a_scheduler_that_ends_is_the_fault_of_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distributed

    from c3s3_seg.batch import cluster

    monkeypatch.setattr(cluster, "_origin", some_model)
    monkeypatch.setattr(cluster, "_one", case_without_end)
    with cluster_here() as here:
        engine = cluster_engine(MODEL, Job(tmp_path), here.scheduler_address, 0)

        client = engine.run.args[0]  # type: ignore[attr-defined]

        def end() -> None:
            """Cancel all futures, as the client does once it has waited too long for a scheduler."""
            while len(here.scheduler.tasks) < cluster.QUEUED:
                time.sleep(0.01)
            client.cancel([distributed.Future(key, client) for key in list(client.futures)])

        threading.Thread(target=end, daemon=True).start()
        with pytest.raises(InputError, match=r"the Dask scheduler has ended.*the same command goes on"):
            list(engine.run([CaseTask(Case(f"case-{n}", tmp_path / f"{n}.nii.gz")) for n in range(9)]))
        ENDED.set()
        engine.close()


@pytest.mark.slow
def test_a_local_cluster_answers_to_its_own_key_alone() -> None:
    """Neither a client without TLS nor one with another key can run code on the cluster."""
    from contextlib import ExitStack
    from urllib.error import HTTPError
    from urllib.request import urlopen

    import distributed

    from c3s3_seg.batch import cluster

    with ExitStack() as stack:
        client = stack.enter_context(cluster._connect("local", 1, stack))
        assert client.submit(sum, [1, 2]).result() == 3
        facts = client.scheduler_info()
        workers = [worker["nanny"] for worker in facts["workers"].values()]
        for address in (facts["address"], *facts["workers"], *workers):
            assert address.startswith("tls://127.0.0.1:")
        ports = [facts["services"]["dashboard"]]
        ports += [worker["services"]["dashboard"] for worker in facts["workers"].values()]
        for port in ports:
            for page in ("status", "json/identity.json", "info/main/workers.html", "health", "metrics"):
                with pytest.raises(HTTPError, match="404"):
                    urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10)
        plain = facts["address"].replace("tls", "tcp")
        with pytest.raises(OSError, match=r"Timed out|timeout|closed|connect"):
            distributed.Client(plain, timeout=3, set_as_default=False)
        other = cluster._security(distributed)
        with pytest.raises(OSError, match=r"Timed out|timeout|closed|connect|certificate"):
            distributed.Client(facts["address"], timeout=3, security=other, set_as_default=False)


@pytest.mark.slow
def test_a_local_worker_leaves_ctrl_c_to_the_process_that_started_it() -> None:
    from contextlib import ExitStack

    from c3s3_seg.batch import cluster

    with ExitStack() as stack:
        client = stack.enter_context(cluster._connect("local", 1, stack))
        worker = client.submit(os.getpid, pure=False).result()
        os.kill(worker, signal.SIGINT)
        assert client.submit(os.getpid, pure=False).result() == worker


def test_a_worker_in_another_folder_finds_scan_and_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from c3s3_seg.batch.cluster import _sent, _setup

    monkeypatch.chdir(tmp_path)
    task = CaseTask(Case("a", Path("scans/a.nii.gz")), Path("truths/a.nii.gz"))
    there = parse(CaseTask, json.loads(_sent(task)), "test")
    assert there.case.path == tmp_path / "scans" / "a.nii.gz"
    assert there.truth == tmp_path / "truths" / "a.nii.gz"
    assert parse(CaseTask, json.loads(_sent(replace(task, truth=None))), "test").truth is None
    setup = json.loads(_setup(Model(Path("runs/bundle")), Job(Path("out")), None))
    assert setup["model"]["bundle"] == str(tmp_path / "runs" / "bundle")
    assert setup["job"]["out"] == str(tmp_path / "out")


def test_a_machine_with_another_model_makes_no_masks_of_the_run(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle there has the same path but other weights; the run's record names the first weights."""
    from c3s3_seg.batch import cluster

    monkeypatch.setattr(cluster, "quiet_libraries", lambda: None)  # this process is the worker
    setup = cluster._setup(MODEL, Job(tmp_path, allow_out_of_domain=True), None)
    origin, task = cluster._origin(setup), CaseTask(Case("case-0", small_scans / "case-0.nii.gz"))
    told = []
    for known in (origin, origin | {"weights_sha256": {"model.onnx": "0" * 64}}):
        permit = str(Permits(tmp_path).give())
        answer = cluster._one(setup, json.dumps(known), cluster._sent(task), permit)
        told.append(parse(Outcome, json.loads(answer), "test"))
    assert told[0].row is not None
    assert told[1].refusal is not None
    assert "not the one that this run began with" in told[1].refusal.what
    assert not told[1].refusal.final


def test_without_a_key_no_local_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import distributed

    from c3s3_seg.batch import cluster

    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert cluster._security(distributed).require_encryption  # openssl creates a certificate
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingError, match=r"talks TLS.*openssl"):
        cluster._security(distributed)
