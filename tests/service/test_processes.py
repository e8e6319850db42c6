"""The service as processes: a kill at every step, a worker that dies, SIGTERM, the command end to end."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from helpers.ports import free_port
from helpers.service import Bench, counting_pacs, results, settings, study, until

from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.client import send
from c3s3_seg.io.pacs.nodes import Node
from c3s3_seg.service.segment import SegmentTask, job_of, model_of
from c3s3_seg.service.worker_process import WorkerProcess

pytestmark = pytest.mark.slow

STORE = '[[serve.store]]\nserver = "PACS@127.0.0.1:{}"\n[serve.output]\ncapture = true\n'
# Starts a process for each given step and kills that process at the step, as by kill -9. The processes are
# forks of one process that has only imported the modules they need.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from helpers.service import Bench

folder, more, steps = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def until(step, count):
    seen = []

    def at(name):
        seen.append(name)
        if seen.count(step) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    Bench(folder, more, step=at).wait()

for step, count in steps:
    child = os.fork()
    if not child:
        try:
            until(step, count)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def killed_at(folder: Path, more: str, steps: list[tuple[str, int]]) -> list[int]:
    """Return the exit codes of the processes that were killed at each step."""
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    words = [sys.executable, "-c", KILLED, str(folder), more, json.dumps(steps)]
    answer = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return [int(line) for line in answer.stdout.split()]


def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """The same study gets one step further after each kill; each result is stored and logged once."""
    with counting_pacs() as pacs:
        more = STORE.format(pacs.node.port)
        study(tmp_path / "sent", 1)
        bench = Bench(tmp_path, more)
        bench.take(list((tmp_path / "sent").iterdir()))
        bench.service.close()
        steps = [("segment", 1), ("stored", 1), ("stored", 2), ("finish", 1), ("finished", 1)]
        assert killed_at(tmp_path, more, steps) == [-signal.SIGKILL] * len(steps)
        bench = Bench(tmp_path, more)
        (line,) = bench.wait()
        assert line["verdict"] == "segmented"
        assert bench.counts() == {"done": 1}
        assert bench.segmented == 0
        # A result whose acknowledgement was not recorded is sent once more, as the same instance.
        assert sorted(data.Modality for data in pacs.kept.values()) == ["OT", "SEG"]
        assert sorted(pacs.times.values()) == [2, 2]


def test_a_worker_that_dies_is_a_failed_attempt(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    worker = WorkerProcess(model_of(chosen), job_of(chosen, tmp_path / "out"), 60.0)
    try:
        study(tmp_path / "sent", 1)
        first = worker.segment(SegmentTask(tmp_path / "sent", tmp_path / "out" / "1"))
        assert len(first.series) == 1
        assert worker.process_id is not None
        os.kill(worker.process_id, signal.SIGKILL)
        dead = worker.segment(SegmentTask(tmp_path / "sent", tmp_path / "out" / "2"))
        assert [problem.kind for problem in dead.problems] == ["worker"]
        assert "SIGKILL, as the system does when memory runs out" in dead.problems[0].reason
        assert not dead.problems[0].is_final
        again = worker.segment(SegmentTask(tmp_path / "sent", tmp_path / "out" / "2"))
        assert again.series[0].volumes_ml == first.series[0].volumes_ml
    finally:
        worker.close()
    late = WorkerProcess(model_of(chosen), job_of(chosen, tmp_path / "out"), 0.01)
    (problem,) = late.segment(SegmentTask(tmp_path / "sent", tmp_path / "out" / "3")).problems
    assert "it took more than 0.01 s" in problem.reason
    assert late.process_id is None


def serve(folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "c3s3_seg", "serve", "--config", str(folder / "c3s3-seg.toml")]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def is_alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            return bool(json.load(answer)["ready"])
    except OSError:
        return False


def test_the_command_takes_stores_and_drains(tmp_path: Path) -> None:
    port, health = free_port(), free_port()
    with counting_pacs() as pacs:
        base = f"""
[serve]
state = "state"
model = "phantom"
quiet_s = 1
allow_out_of_domain = true
[serve.listen]
title = "SEGMENT"
callers = ["SCANNER"]
port = {port}
[serve.limits]
free = "1MB"
[serve.monitor]
port = {health}
"""
        chosen = settings(tmp_path, STORE.format(pacs.node.port), base)
        first, second = (study(tmp_path / str(n), n, PatientName="SECRET^NAME") for n in (1, 2))
        server, scanner = Node("SEGMENT", "127.0.0.1", port), Caller("SCANNER", 20.0)
        process = serve(tmp_path)
        try:
            until(lambda: is_alive(health))
            send(server, first, scanner)
            until(lambda: len(results(chosen)) == 1)
            send(server, second, scanner)
            process.send_signal(signal.SIGTERM)  # the second waits for its quiet time and stays queued
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 0, out.decode()
        assert b"the service has ended" in out
        assert b"SECRET" not in out
        assert len(results(chosen)) == 1
        process = serve(tmp_path)
        try:
            until(lambda: len(results(chosen)) == 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()
            process.communicate()
        assert len(pacs.kept) == 4
        assert set(pacs.times.values()) == {1}


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    chosen = settings(tmp_path, base=BUSY)
    study(tmp_path / "watch" / "one", 1)
    process = serve(tmp_path)
    try:
        until(lambda: any((chosen.state / "work").glob("*/*.dcm")) if chosen.state.exists() else False)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (0, 128 + signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()
    bench = Bench(tmp_path, base=BUSY)
    assert len(bench.wait()) == 1
    bench.service.close()


BUSY = """
[serve]
state = "state"
model = "phantom"
quiet_s = 1
allow_out_of_domain = true
watch = [{ folder = "watch", settle_s = 1, every_s = 0.2 }]
[serve.limits]
free = "1MB"
drain_s = 50
[serve.monitor]
port = 0
"""
