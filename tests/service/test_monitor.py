"""`/healthz` and `/metrics`: their content, which holds no value of a DICOM header."""

import json
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from helpers.ports import free_port
from helpers.service import Bench, study

from c3s3_seg.errors import InputError
from c3s3_seg.service import folder_source, monitor
from c3s3_seg.service.monitor import Collector, monitoring
from c3s3_seg.service.settings import MonitorSettings


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics(tmp_path: Path) -> None:
    bench, port = Bench(tmp_path), free_port()
    bench.take(study(tmp_path / "sent", 1, PatientName="SECRET^NAME", PatientID="SECRET7"))
    bench.wait()
    service = bench.service
    service.metrics.refuse("calling title")
    collector = Collector(service.queue, service.spool, service.metrics)
    with monitoring(MonitorSettings(port=port), collector, service.health):
        code, text = get(port, "/metrics")
        assert code == 200
        for line in (
            'c3s3_seg_studies{state="done"} 1.0',
            'c3s3_seg_studies{state="dead"} 0.0',
            "c3s3_seg_queue_length 0.0",
            'c3s3_seg_handled_total{what="files"} 16.0',
            'c3s3_seg_refused_associations_total{reason="calling title"} 1.0',
            'c3s3_seg_stage_seconds_count{stage="segment"} 1.0',
        ):
            assert line in text.splitlines()
        assert "SECRET" not in text
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/other")[0] == 404
        (tmp_path / "watch").rmdir()
        service.metrics.source("watch", bench.clock(), "the watched folder cannot be read")
        assert get(port, "/healthz/ready")[0] == 200  # tolerated for a while
        bench.clock.sleep(1000)
        code, text = get(port, "/healthz")
        assert (code, json.loads(text)["checks"]["watch"]) == (503, "the watched folder cannot be read")
        assert get(port, "/healthz/live")[0] == 200
        service.close()
        assert get(port, "/healthz")[0] == 503
        with (
            pytest.raises(InputError, match="cannot listen on"),
            monitoring(MonitorSettings(port=port), collector, service.health),
        ):
            pass


def test_those_who_ask_too_slowly_or_too_often_do_not_hold_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "REQUEST_S", 1.0)
    monkeypatch.setattr(monitor, "CONNECTIONS", 4)
    bench, port = Bench(tmp_path), free_port()
    collector = Collector(bench.service.queue, bench.service.spool, bench.service.metrics)
    with monitoring(MonitorSettings(port=port), collector, bench.service.health):
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        for _ in range(12):  # single bytes, for longer than a request may take
            for one in slow:
                _drip(one)
            time.sleep(0.2)
        assert get(port, "/healthz/live")[0] == 200
        for one in slow:
            one.close()
        for method in ("HEAD", "POST", "../..", "A" * 70_000):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as asked:
                asked.sendall(f"{method} /metrics HTTP/1.0\r\n\r\n".encode())
                asked.shutdown(socket.SHUT_WR)
                _drain(asked)
        assert get(port, "/" + "a" * 60_000)[0] == 404
        assert get(port, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def _drain(one: socket.socket) -> None:
    try:
        while one.recv(1 << 16):
            pass
    except OSError:
        return


def _drip(one: socket.socket) -> None:
    try:
        one.sendall(b"G")
    except OSError:
        return


def test_a_source_that_never_answers_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read of a share whose server is gone may wait for ever, without an error."""
    bench = Bench(tmp_path)
    (source,) = bench.sources
    study(tmp_path / "watch" / "one", 1)
    study(tmp_path / "watch" / "two", 2)
    seen: list[str] = []

    def slow(entry: Path) -> str:
        bench.clock.sleep(200)
        seen.append(bench.service.health().get(source.name, ""))
        return "signature"

    monkeypatch.setattr(folder_source, "signature_of", slow)
    with bench.service._guarded(source.name):
        source.look()
    assert seen == ["", ""]  # slow, but it goes on
    bench.clock.sleep(1000)
    assert bench.service.health()[source.name] == ""  # between two looks
    bench.service.metrics.source("service", bench.clock())

    def dead(entry: Path) -> str:
        bench.clock.sleep(301)
        seen.append(bench.service.health()[source.name])
        return "signature"

    monkeypatch.setattr(folder_source, "signature_of", dead)
    source.look()
    assert seen[-1] == "it has not answered for minutes"


def test_a_clock_that_is_set_back_hides_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that was gone, or that hung, was healthy for as long as the clock was set back."""
    bench = Bench(tmp_path)
    (source,) = bench.sources

    def look() -> str:
        with bench.service._guarded(source.name):
            source.look()
        bench.service._guarded_tick()
        return bench.service.health()[source.name]

    assert look() == ""
    (tmp_path / "watch").rmdir()
    bench.clock.sleep(-7200)
    assert look() == ""  # tolerated for a while
    bench.clock.sleep(301)
    assert "the watched folder cannot be read" in look()
    (tmp_path / "watch").mkdir()
    assert look() == ""
    assert bench.service.metrics.source_seen[source.name] == bench.clock()

    seen: list[str] = []

    def hangs(folder: Path) -> list[Path]:
        bench.clock.sleep(-7200)
        bench.clock.sleep(301)
        seen.append(bench.service.health()[source.name])
        return []

    monkeypatch.setattr(folder_source, "entries_of", hangs)
    source.look()
    assert seen == ["it has not answered for minutes"]
