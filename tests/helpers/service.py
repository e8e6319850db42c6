"""Shared by tests of the service: a clock that tests set, small studies, a PACS that counts files."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from conftest import small_scan

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference import Predictor
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.pacs.identity import Identity, identity
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.receiver import Gate, receiving
from c3s3_seg.service.metrics import Metrics
from c3s3_seg.service.segment import SegmentedStudy, SegmentTask, job_of, model_of, segment
from c3s3_seg.service.service import Service
from c3s3_seg.service.settings import ServeSettings, read_settings
from c3s3_seg.service.work import Segmenter
from c3s3_seg.system.config_file import FoundConfig
from helpers.dicom_files import edit, values
from helpers.ports import free_port

BASE = """
[serve]
state = "state"
model = "phantom"
quiet_s = 10
allow_out_of_domain = true
watch = [{ folder = "watch", settle_s = 5 }]
[serve.limits]
free = "1MB"
keep_spool_s = 100
[serve.monitor]
port = 0
"""


@dataclass
class SetClock:
    """A clock in seconds that advances only when a test says so; it may be set back."""

    now: float = 1_800_000_000.0
    passed: float = 0.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.passed += max(0.0, seconds)


def until(condition: Callable[[], object], seconds: float = 200) -> None:
    """Wait for a condition; fail the test if it does not become true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def settings(folder: Path, more: str = "", base: str = BASE) -> ServeSettings:
    """Return the settings of a service in a folder; create its watched folder."""
    (folder / "watch").mkdir(exist_ok=True)
    path = folder / "c3s3-seg.toml"
    path.write_text(base + more)
    return read_settings(FoundConfig(path, "given"))


def study(folder: Path, seed: int, **attributes: str) -> list[Path]:
    """Write a series of 16 slices with a blob; return its files. Each seed is a study of its own."""
    files = save_series(_scan(seed), folder, description="phantom", seed_uid=f"service-{seed}")
    for path in files if attributes else ():
        edit(path, values(**attributes))
    return files


def _scan(seed: int) -> Volume:
    volume = small_scan(seed)
    array = volume.array.clip(0, 4000).astype("uint16")
    return volume.geometry.volume(array)


@cache
def predictor() -> tuple[Predictor, dict[str, Any]]:
    """Return the phantom model, opened once, and the provenance shared by its masks."""
    with tempfile.TemporaryDirectory() as name:
        return model_of(settings(Path(name))).open()


def in_process(settings: ServeSettings) -> Segmenter:
    """Return a function that segments a study in this process: the real model, without a worker."""

    def run(task: SegmentTask) -> SegmentedStudy:
        opened, origin = predictor()
        return segment(task, opened, replace(job_of(settings, task.out), origin=origin))

    return run


class Bench:
    """A service on a folder whose clock advances only when a test says so."""

    def __init__(
        self, folder: Path, more: str = "", base: str = BASE, step: Callable[[str], None] = lambda _: None
    ) -> None:
        self.folder, self.settings, self.clock = folder, settings(folder, more, base), SetClock()
        self.settings.state.mkdir(exist_ok=True)
        metrics = Metrics(monotonic=self.clock.monotonic)
        self.service = Service(self.settings, self.clock, step, metrics=metrics)
        self.sources = self.service.sources()
        self.segmented = 0
        self.work = self.service.work(self._segment)

    def _segment(self, task: SegmentTask) -> SegmentedStudy:
        self.segmented += 1
        return in_process(self.settings)(task)

    def wait(self, seconds: int = 30, step: int = 1) -> list[dict[str, Any]]:
        """Let time pass, poll the sources and do all due work; return the log of results."""
        for _ in range(0, seconds, step):
            self.clock.sleep(step)
            for source in self.sources:
                source.look()
            self.service.tick()
            while self.service.work_one(self.work):
                pass
        self.service.tick()
        return results(self.settings)

    def take(self, files: list[Path]) -> list[bool]:
        """Take files in as the listener does; return the answer for each file."""
        contents = [path.read_bytes() for path in files]
        return [self.service.intake.take(identity(content), content) for content in contents]

    def counts(self) -> dict[str, int]:
        return {state: count for state, count in self.service.queue.counts().items() if count}


def results(settings: ServeSettings) -> list[dict[str, Any]]:
    if not settings.log.exists():
        return []
    return [json.loads(line) for line in settings.log.read_text().splitlines()]


@dataclass
class CountingPacs:
    """A storage SCP that counts received files (instance -> times) and keeps each last file."""

    node: Node
    times: Counter[str] = field(default_factory=Counter)
    kept: dict[str, pydicom.Dataset] = field(default_factory=dict)

    def take(self, found: Identity, content: bytes, link: object) -> bool:
        self.times[str(found.instance)] += 1
        self.kept[str(found.instance)] = pydicom.dcmread(BytesIO(content))
        return True


@contextmanager
def counting_pacs(port: int | None = None) -> Iterator[CountingPacs]:
    port = port or free_port()
    pacs = CountingPacs(Node("PACS", "127.0.0.1", port))
    gate = Gate(AssociationListener("PACS", "127.0.0.1", port), ("C3S3SEG",))
    with receiving(gate, pacs.take, lambda _: None):
        yield pacs
