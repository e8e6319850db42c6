"""The HTTP endpoints `/healthz` and `/metrics`. They change nothing and show no patient data."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from c3s3_seg.errors import InputError, MissingError, to_install
from c3s3_seg.service.metrics import Metrics
from c3s3_seg.service.queue import StudyQueue
from c3s3_seg.service.settings import MonitorSettings
from c3s3_seg.service.spool import Spool

REQUEST_S = 10.0  # limit for a whole request, however slowly it arrives
CONNECTIONS = 16  # simultaneous; further ones are closed: the service needs its threads and files
Health = Callable[[], dict[str, str]]


class Collector:
    """The source of the metrics, which are looked up when Prometheus requests them."""

    def __init__(self, queue: StudyQueue, spool: Spool, metrics: Metrics) -> None:
        self._queue, self._spool, self._metrics = queue, spool, metrics

    def collect(self) -> Iterator[Any]:
        """Yield all families of metrics."""
        yield from self._gauges()
        yield from self._counters()

    def _gauges(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily as Gauge

        counts = self._queue.counts()
        states = Gauge("c3s3_seg_studies", "Studies in the queue by state.", labels=["state"])
        for state, count in counts.items():
            states.add_metric([state], count)
        yield states
        waiting = sum(counts[state] for state in ("received", "complete", "working", "failed"))
        yield Gauge("c3s3_seg_queue_length", "Studies that are not finished.", value=waiting)
        yield Gauge("c3s3_seg_spool_bytes", "Size of the received files.", value=self._spool.size_bytes)
        yield Gauge(
            "c3s3_seg_disk_free_bytes", "Space on the disk of the spool.", value=self._spool.free_bytes()
        )
        seen = Gauge("c3s3_seg_source_seen_seconds", "When a source last answered.", labels=["source"])
        for source, when in list(self._metrics.source_seen.items()):
            seen.add_metric([source], when)
        yield seen

    def _counters(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily as Counted
        from prometheus_client.core import SummaryMetricFamily as Summary

        metrics = self._metrics
        families = (
            ("failures", "Failed attempts and refused files by kind.", "kind", metrics.failures),
            ("refused_associations", "Refused associations by reason.", "reason", metrics.refused),
            ("handled", "Files, bytes, objects and studies since the start.", "what", metrics.totals),
        )
        for name, text, label, values in families:
            family = Counted(f"c3s3_seg_{name}", text, labels=[label])
            for value, count in list(values.items()):
                family.add_metric([value], count)
            yield family
        stages = Summary("c3s3_seg_stage_seconds", "Seconds in each stage of a study.", labels=["stage"])
        for stage, seconds in list(metrics.seconds.items()):
            stages.add_metric([stage], count_value=metrics.times[stage], sum_value=seconds)
        yield stages


@contextmanager
def monitoring(settings: MonitorSettings, collector: Collector, health: Health) -> Iterator[None]:
    """Answer HTTP requests until the end of the block.

    Parameters
    ----------
    settings
        Address to listen on; port 0: no monitor.
    collector
        Source of the metrics.
    health
        Called to get name of a check -> its present fault; "" if there is none.

    Raises
    ------
    InputError
        If the address is in use or cannot be used.
    MissingError
        If prometheus_client is not installed.
    """
    if settings.port == 0:
        yield
        return
    try:
        import prometheus_client
    except ImportError as error:
        raise MissingError("prometheus_client is not installed", todo=to_install("service")) from error
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)

    def answer(path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, prometheus_client.CONTENT_TYPE_LATEST, prometheus_client.generate_latest(registry)
        if path == "/healthz/live":  # a process that answers is alive
            return 200, "application/json", b'{"live": true}\n'
        if path in ("/healthz", "/healthz/ready"):
            found = health()
            ready = not any(found.values())
            body = {"live": True, "ready": ready, "checks": {k: v or "ok" for k, v in found.items()}}
            return 200 if ready else 503, "application/json", json.dumps(body).encode() + b"\n"
        return 404, "text/plain", b"not found\n"

    try:
        server = _Server((settings.host, settings.port), _handler(answer))
    except OSError as error:
        what = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        raise InputError(what, todo="Give another serve.monitor.port") from error
    thread = threading.Thread(target=server.serve_forever, name="monitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """A server of up to `CONNECTIONS` clients at once, silent about clients that disconnect."""

    daemon_threads = True

    def __init__(self, *words: Any) -> None:
        self._seats = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*words)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._seats.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._seats.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        timer = threading.Timer(REQUEST_S, _cut, (request,))
        timer.daemon = True
        try:
            timer.start()
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._seats.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address  # the client has disconnected: a traceback helps nobody


def _cut(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _handler(answer: Callable[[str], tuple[int, str, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S

        def do_GET(self) -> None:
            try:
                code, kind, body = answer(self.path.split("?")[0])
            except Exception:  # for example a broken queue: the client must be told
                code, kind, body = 500, "text/plain", b"the state of the service cannot be read\n"
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    return Handler
