"""Tests of workers: real processes that are really killed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.batches import MODEL, masks
from helpers.command import run
from onnx import TensorProto, helper

from c3s3_seg.batch import BatchPlan, Job, Model, predict_cases
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.batch.records import Outcome
from c3s3_seg.batch.worker_pool import Pool, reason_of_death
from c3s3_seg.bundle import WEIGHTS, Label, ModelBundle, Network
from c3s3_seg.bundle import Task as BundleTask
from c3s3_seg.bundle.preprocessing import Intensity, Recipe
from c3s3_seg.errors import InputError
from c3s3_seg.inference import BackendRequest, Settings
from c3s3_seg.io import Case, load, save

pytestmark = pytest.mark.slow
CASES = [f"case-{n}" for n in range(5)]  # the cases of `small_scans`


def tasks(scans: Path) -> list[CaseTask]:
    return [CaseTask(Case(p.name.removesuffix(".nii.gz"), p)) for p in sorted(scans.iterdir())]


def kill_when_busy(pool: Pool, times: int) -> threading.Thread:
    """Start a thread that kills `times` workers that have a case in hand, each only once."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < times:
            for worker in list(pool._workers):
                if worker.tasks and worker.process.pid not in killed:
                    os.kill(worker.process.pid, signal.SIGKILL)
                    killed.add(worker.process.pid)
            time.sleep(0.001)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_workers_do_what_one_process_does(small_scans: Path, tmp_path: Path) -> None:
    (small_scans / "case-9.nii.gz").write_bytes(b"no scan")
    one, two = tmp_path / "one", tmp_path / "two"
    predict_cases([small_scans], MODEL, Job(one, allow_out_of_domain=True))
    plan = BatchPlan(workers=2, case_timeout_s=300)  # a limit that suffices changes nothing
    result = predict_cases([small_scans], MODEL, Job(two, allow_out_of_domain=True), None, plan)
    assert masks(one) == masks(two)
    assert [row.case for row in result.rows] == CASES
    assert [f.case for f in result.failures] == ["case-9"]


def test_a_killed_worker_costs_nothing(small_scans: Path, tmp_path: Path) -> None:
    with closing(Pool(MODEL, Job(tmp_path, allow_out_of_domain=True), 1, ())) as pool:
        kill_when_busy(pool, 1)
        outcomes: list[Outcome] = list(pool.run(tasks(small_scans)))
    assert sorted(o.case for o in outcomes) == CASES
    assert all(o.row is not None for o in outcomes)


def test_a_case_that_kills_twice_fails_with_the_reason(small_scans: Path, tmp_path: Path) -> None:
    with closing(Pool(MODEL, Job(tmp_path, allow_out_of_domain=True), 1, ())) as pool:
        kill_when_busy(pool, 2)
        outcomes = list(pool.run(tasks(small_scans)[:1]))
    assert outcomes[0].failure is not None
    assert "the worker that had this case died: killed by signal 9 (SIGKILL" in outcomes[0].failure.reason
    assert outcomes[0].refusal is not None
    assert not outcomes[0].refusal.final  # it is tried again by the next run


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_cannot_be_replaced_is_done_without(
    small_scans: Path, tmp_path: Path, count: int
) -> None:
    """If the model is gone or the memory is full, the workers that have a model process the cases."""
    bundle = tmp_path / "bundle"
    shutil.copytree(MODEL.bundle, bundle)
    with closing(Pool(replace(MODEL, bundle=bundle), Job(tmp_path / "out"), count, ())) as pool:
        while not all(worker.ready for worker in pool._workers):
            pool._listen()
        bundle.rename(tmp_path / "elsewhere")
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        pool._workers[0].process.wait()
        if count == 1:
            with pytest.raises(InputError, match=r"no manifest\.json"):
                list(pool.run(tasks(small_scans)))
            return
        outcomes = list(pool.run(tasks(small_scans)))
    assert sorted(outcome.case for outcome in outcomes) == CASES


@pytest.mark.parametrize("count", [1, 2])
def test_where_no_process_can_be_started_any_more_the_others_go_on(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The worker died as memory ran out, and there is no memory for its replacement either."""

    def refuse(*words: object, **more: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with closing(Pool(MODEL, Job(tmp_path, allow_out_of_domain=True), count, ())) as pool:
        monkeypatch.setattr("c3s3_seg.batch.worker_pool.subprocess.Popen", refuse)
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        if count == 1:
            with pytest.raises(InputError, match=r"started: Cannot allocate memory\. Give fewer --workers"):
                list(pool.run(tasks(small_scans)))
            return
        outcomes = list(pool.run(tasks(small_scans)))
    assert sorted(outcome.case for outcome in outcomes) == CASES


def test_a_worker_with_another_model_than_the_run_began_with_is_refused(
    small_scans: Path, tmp_path: Path
) -> None:
    """The bundle's folder was rewritten meanwhile; the record of the run names the first weights."""
    bundle = tmp_path / "bundle"
    shutil.copytree(MODEL.bundle, bundle)
    with closing(Pool(replace(MODEL, bundle=bundle), Job(tmp_path / "out"), 1, ())) as pool:
        bundle.rename(tmp_path / "before")
        endless(tmp_path).rename(bundle)
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"is not the one that this run began with\. Leave the folder"):
            list(pool.run(tasks(small_scans)))


def test_no_more_workers_than_cases(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration file states how many workers the machine bears, whatever the number of cases."""
    started: list[object] = []

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *words: object, **more: object) -> None:
            started.append(words)
            super().__init__(*words, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("c3s3_seg.batch.worker_pool.subprocess.Popen", Counted)
    job = Job(tmp_path, allow_out_of_domain=True)
    result = predict_cases([small_scans / "case-0.nii.gz"], MODEL, job, None, BatchPlan(workers=5))
    assert (len(result.rows), len(started)) == (1, 1)


def test_what_cannot_start_is_said(small_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json"):
        predict_cases(
            [small_scans],
            Model(tmp_path),
            Job(tmp_path / "out", allow_out_of_domain=True),
            None,
            BatchPlan(workers=1),
        )


def test_reasons() -> None:
    assert reason_of_death(-11, "").startswith("killed by signal 11 (SIGSEGV, a fault")
    assert reason_of_death(1, "MemoryError: 3 GB") == "exit code 1, its last words: MemoryError: 3 GB"


def test_no_process_unless_asked(small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(*words: object, **more: object) -> None:
        raise AssertionError(f"a process was started: {words}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    predict_cases([small_scans], Model(WEIGHTS / "phantom"), Job(tmp_path / "out", allow_out_of_domain=True))
    with pytest.raises(AssertionError, match="a process was started"):
        predict_cases(
            [small_scans], MODEL, Job(tmp_path / "out2", allow_out_of_domain=True), None, BatchPlan(workers=1)
        )


def endless(folder: Path) -> Path:
    """Write a bundle whose graph loops for ever if a scan has a bright voxel and answers otherwise."""
    brightest = helper.make_node("ReduceMax", ["scan"], ["top"], keepdims=0)
    limit = helper.make_node("Constant", [], ["limit"], value=onnx.numpy_helper.from_array(np.float32(0.9)))
    bright = helper.make_node("Greater", ["top", "limit"], ["bright"])

    def volume(name: str, channels: int = 1) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "x", "y", "z"])

    def scalar(name: str, kind: int = TensorProto.BOOL) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [])

    same = [helper.make_node("Identity", [a], [b]) for a, b in (("on", "still"), ("v", "w"))]
    given = [scalar("step", TensorProto.INT64), scalar("on"), volume("v")]
    body = helper.make_graph(same, "body", given, [scalar("still"), volume("w")])
    loop = helper.make_node("Loop", ["", "bright", "scan"], ["same"], body=body)
    low = helper.make_node("Sub", ["limit", "same"], ["low"])
    both = helper.make_node("Concat", ["low", "same"], ["logits"], axis=1)
    graph = helper.make_graph(
        [brightest, limit, bright, loop, low, both], "g", [volume("scan")], [volume("logits", 2)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    recipe = Recipe((2.0, 2.0, 2.0), Intensity("window", 0, 1000))
    task = BundleTask("endless", "MR", (Label("a", 1),), recipe, (16, 16, 16))
    files = {"model.safetensors": b"", "model.onnx": model.SerializeToString()}
    return ModelBundle.create(folder / "b", task, files, (Network("model", "vnet", 1),), {}).folder


def brighten(path: Path) -> None:
    scan = load(path)
    scan.array[3, 3, 3] = 5000
    save(scan, path)


def test_the_memory_is_that_of_all_workers(tmp_path: Path) -> None:
    """The workers share the memory, on a local cluster too, without the part that this process takes."""
    from c3s3_seg.batch.cluster import _placed
    from c3s3_seg.batch.job import STARTER_BYTES

    model = replace(MODEL, settings=Settings(memory_bytes=2_100_000_000))
    for shared in (model.among(4), _placed(model, "local", 4), _placed(model, "local", 2).among(2)):
        settings = shared.settings
        assert settings.processes == 4
        assert settings.own_memory_bytes is not None
        assert 4 * settings.own_memory_bytes + STARTER_BYTES <= 2_100_000_000
    assert _placed(model, "tcp://h:1", 4).settings == model.settings  # the limit is that of each machine
    with pytest.raises(InputError, match="2 workers and the process that starts them do not fit"):
        replace(MODEL, settings=Settings(memory_bytes=100_000_001)).among(2)
    assert MODEL.among(3).settings.memory_bytes is None


def test_the_threads_are_those_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deterministic model used to have one thread in workers, but several on a local cluster."""
    from c3s3_seg.batch.cluster import _placed

    monkeypatch.setattr("c3s3_seg.batch.job.available_processors", lambda: 8)
    free = replace(MODEL, backend=replace(MODEL.backend, threads=None))
    for model, threads in ((free, 4), (free.with_threads(3), 3), (replace(free, deterministic=True), 1)):
        assert model.among(2).backend.threads == threads
        assert _placed(model, "local", 2).backend.threads == threads
        assert _placed(model, "tcp://h:1", 2) == model


def test_each_worker_keeps_to_its_share(small_scans: Path, tmp_path: Path) -> None:
    """800 MB suffice for one process of OpenVINO, and not for three."""
    out, job = tmp_path / "out", Job(tmp_path / "out", allow_out_of_domain=True)
    model = replace(MODEL, settings=Settings(memory_bytes=800_000_000))
    result = predict_cases([small_scans], model, job, None, BatchPlan(workers=3))
    assert len(result.failures) == 5
    assert "a memory of 0.23 GB was allowed" in result.failures[0].reason
    assert "3 workers share the memory. Allow more with --max-memory, or give fewer --workers." in (
        result.failures[0].reason
    )
    assert masks(out) == {}
    # The cases are tried again, because the failure was not their fault.
    result = predict_cases([small_scans], model, job, None, BatchPlan(workers=1))
    assert len(result.rows) == 5


LIMIT_S = 2.5  # enough for a case on a busy machine, where the others take a second


@pytest.mark.parametrize(("backend", "workers"), [("openvino", 0), ("onnx", 2)])
def test_a_case_that_never_ends_fails_and_the_others_go_on(
    small_scans: Path, tmp_path: Path, backend: str, workers: int
) -> None:
    brighten(small_scans / "case-1.nii.gz")
    words = ["predict", small_scans, "-o", tmp_path / "out", "--model", endless(tmp_path)]
    words += ["--backend", backend, "--case-timeout", LIMIT_S, "--workers", workers]
    answer = run(*words)
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    assert sorted(masks(tmp_path / "out")) == [f"case-{n}.nii.gz" for n in (0, 2, 3, 4)]
    cases = json.loads((tmp_path / "out" / "provenance.json").read_text())["cases"]
    (refusal,) = (case["refusal"] for case in cases if case["state"] == "failed")
    assert refusal["what"] == f"the case was not finished within {LIMIT_S} s"
    assert refusal["where"] == str(small_scans / "case-1.nii.gz")


def test_a_case_that_never_ends_fails_on_a_cluster_too(small_scans: Path, tmp_path: Path) -> None:
    """The process of the case ends beside the Dask worker, which stays and starts another process."""
    brighten(small_scans / "case-1.nii.gz")
    model = Model(endless(tmp_path), BackendRequest("openvino"))
    plan = BatchPlan(workers=1, cluster="local", case_timeout_s=LIMIT_S)
    result = predict_cases([small_scans], model, Job(tmp_path / "out"), None, plan)
    assert [failure.case for failure in result.failures] == ["case-1"]
    assert f"the case was not finished within {LIMIT_S} s" in result.failures[0].reason
    assert len(masks(tmp_path / "out")) == 4


def test_a_worker_that_does_not_read_holds_nobody_up(small_scans: Path, tmp_path: Path) -> None:
    """The file names of two series overfill a pipe: the limit holds although the pipe is full."""
    files = tuple(f"{n:060d}.dcm" for n in range(1500))
    many = [replace(task, case=replace(task.case, files=files)) for task in tasks(small_scans)[:3]]
    with closing(Pool(MODEL, Job(tmp_path), 1, (), LIMIT_S)) as pool:
        os.kill(pool._workers[0].process.pid, signal.SIGSTOP)
        run = pool.run(many)
        outcome = next(run)
        assert outcome.refusal is not None
        assert outcome.refusal.what == f"the case was not finished within {LIMIT_S} s"
        assert sorted([outcome.case, *(o.case for o in run)]) == [f"case-{n}" for n in range(3)]


def test_a_case_that_is_finished_while_the_pages_are_written_is_not_late(
    small_scans: Path, tmp_path: Path
) -> None:
    """Its outcome lay in the pipe, and it failed by the limit, because others had been held up."""
    with closing(Pool(MODEL, Job(tmp_path, allow_out_of_domain=True), 2, (), LIMIT_S)) as pool:
        run = pool.run(tasks(small_scans))
        outcomes = [next(run)]
        time.sleep(LIMIT_S + 1)
        outcomes += run
    assert [outcome.refusal for outcome in outcomes] == [None] * 5


def test_a_single_case_that_never_ends_is_one_line(small_scans: Path, tmp_path: Path) -> None:
    scan = small_scans / "case-1.nii.gz"
    brighten(scan)
    model = Model(endless(tmp_path), BackendRequest("openvino"))
    with pytest.raises(InputError, match=r"not finished within 0\.5 s"):
        predict_cases([scan], model, Job(tmp_path / "out"), None, BatchPlan(case_timeout_s=0.5))
    assert [p.name for p in (tmp_path / "out").iterdir()] == []


def test_a_limit_that_cannot_be_is_refused(small_scans: Path, tmp_path: Path) -> None:
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"found a time limit of .*, wanted a positive number"):
            BatchPlan(case_timeout_s=seconds)
    predictor, _ = MODEL.open()
    with pytest.raises(InputError, match="can only be ended in a worker process"):
        predict_cases([small_scans], predictor, Job(tmp_path / "out"), None, BatchPlan(case_timeout_s=5))


def test_a_loaded_model_says_which_one_it_is_and_starts_no_workers(small_scans: Path, tmp_path: Path) -> None:
    """Without its origin a mask of another model in the folder counted as finished."""
    predictor, made_with = MODEL.open()
    job = Job(tmp_path / "out", allow_out_of_domain=True)
    with pytest.raises(InputError, match="does not say which weights the loaded model has"):
        predict_cases([small_scans], predictor, job)
    with pytest.raises(InputError, match="worker processes open the model themselves"):
        predict_cases([small_scans], predictor, replace(job, origin=made_with), None, BatchPlan(workers=2))
    assert len(predict_cases([small_scans], predictor, replace(job, origin=made_with)).rows) == 5
