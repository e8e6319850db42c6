"""The main loop of the service: sources, queue and workers, from the start to the last study."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from c3s3_seg.errors import C3S3Error, InputError, public
from c3s3_seg.io.pacs.receiver import receiving
from c3s3_seg.service.database import Clock, ServiceDatabase
from c3s3_seg.service.deliveries import Deliveries
from c3s3_seg.service.folder_source import FolderSource
from c3s3_seg.service.intake import Intake
from c3s3_seg.service.metrics import SERVICE, Metrics
from c3s3_seg.service.monitor import Collector, monitoring
from c3s3_seg.service.pacs_source import PacsSource
from c3s3_seg.service.preflight import check_start
from c3s3_seg.service.queue import QueueState, StudyQueue
from c3s3_seg.service.results_log import write_lines
from c3s3_seg.service.segment import job_of, model_of
from c3s3_seg.service.settings import ServeSettings
from c3s3_seg.service.source_memory import SourceMemory
from c3s3_seg.service.spool import Room, Spool, is_key, key_of
from c3s3_seg.service.work import Segmenter, Work, silent_step
from c3s3_seg.service.worker_process import BrokenOffError, WorkerProcess
from c3s3_seg.system.files import make_folder
from c3s3_seg.system.lock import hold
from c3s3_seg.system.memory import parse_memory

LOGGER = logging.getLogger(__name__)
TICK_S = 0.5
CLEAN_S = 60.0
DAY_S = 86_400.0


@dataclass
class Service:
    """The running service, on one locked `state` folder.

    Parameters
    ----------
    settings
        Settings of the table `serve`.
    clock
        Called to get the seconds since 1970.
    step
        Called with the name of each step of a study before the step begins.
    """

    settings: ServeSettings
    clock: Clock = time.time
    step: Callable[[str], None] = silent_step
    stopping: threading.Event = field(default_factory=threading.Event)
    break_off: threading.Event = field(default_factory=threading.Event)
    metrics: Metrics = field(default_factory=Metrics)
    phase: str = ""  # why the service takes no studies: it starts or ends

    def __post_init__(self) -> None:
        """Open queue and spool, and recover the studies that a killed service left."""
        limits, state = self.settings.limits, self.settings.state
        self.database = ServiceDatabase(state / "queue.sqlite", self.clock)
        self.queue, self.deliveries = StudyQueue(self.database), Deliveries(self.database)
        self.spool = Spool(state, Room(
            parse_memory(limits.free), parse_memory(limits.spool), parse_memory(limits.study), limits.files
        ))  # fmt: skip
        self.intake = Intake(
            self.queue, self.deliveries, SourceMemory(self.database), self.spool, self.metrics
        )
        before = self.queue.dead().keys()
        recovered = self.queue.recover()
        self._log_dead(self.queue.dead().keys() - before)
        known = self._take_up_spool()
        if recovered:
            LOGGER.info("studies that were in work when the service ended: %d", recovered)
        if known:
            LOGGER.info("studies of the spool that were not in the queue: %d", known)
        self._cleaned = self.clock()
        self._clean_spool()  # the log may lie on the same full disk
        self._is_log_known = False
        self._write_lines()
        self._stranded: list[str] = []

    def _take_up_spool(self) -> int:
        """Queue studies of the spool that the queue lacks, as after it was moved away; return how many.

        Also remove the rest of a study whose removal was interrupted: nothing else would remove it.
        """
        unknown = 0
        for key in self.spool.studies():
            study = self.queue.get(key)
            if study is None:
                self.queue.touch(key)
                unknown += 1
            elif study.removed:
                self.spool.remove(key)
        return unknown

    def _write_lines(self) -> None:
        """Write waiting lines; after a failure, first check the log for lines already or half written."""
        is_known, self._is_log_known = self._is_log_known, False
        write_lines(self.settings.log, self.deliveries, first=not is_known)
        self._is_log_known = True

    def sources(self) -> list[FolderSource | PacsSource]:
        """Return the sources that are inspected at intervals: folders and polled PACS."""
        settings, size = self.settings, parse_memory(self.settings.limits.object)
        folders = [FolderSource(watch, size, self.intake, self.clock) for watch in settings.watch]
        fetched = settings.state / "fetched"
        polls = [
            PacsSource(poll, settings.limits, fetched / key_of(poll.server), self.intake, self.clock)
            for poll in settings.poll
        ]
        return [*folders, *polls]

    def tick(self) -> None:
        """Put back stranded studies, record refused files, close quiet studies, clean up, write the log."""
        while self._stranded:
            self.queue.give_back(self._stranded[-1])
            self._stranded.pop()
        self.queue.follow_clock()
        self.intake.record_refused()
        self._log_dead(self.queue.close_quiet(self.settings.quiet_s, self.intake.being_sent))
        try:
            if abs(self.clock() - self._cleaned) >= CLEAN_S:  # the clock may be set back
                self._cleaned = self.clock()
                self.clean()
        finally:  # neither keeps the other from being done
            self._write_lines()

    def _log_dead(self, keys: Iterable[str]) -> None:
        """Write a line for each of these studies that was given up before it was in work."""
        if closed := set(keys):  # most calls have none, and need no query
            dead = self.queue.dead()
            for key in sorted(closed & dead.keys()):
                LOGGER.warning("study %s is dead: %s", key, dead[key])

    def clean(self) -> None:
        """Remove the files of studies that ended long ago, and their results if so configured."""
        self._clean_spool()
        keep_days = self.settings.output.keep_days
        if keep_days is None or not self.settings.results.is_dir():
            return
        for folder in self.settings.results.iterdir():
            if not is_key(folder.name):
                continue
            known = self.queue.get(folder.name)
            aged = known is not None and self.clock() - known.changed > keep_days * DAY_S
            if known is not None and known.state == "done" and aged and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)

    def _clean_spool(self) -> None:
        limits = self.settings.limits
        ages: dict[QueueState, float] = {"done": limits.keep_spool_s, "dead": limits.keep_dead_days * DAY_S}
        for state, age_s in ages.items():
            for study in self.queue.ended_before(state, self.clock() - age_s, removed=False):
                with self.queue.removing(study.key) as still:
                    if still:
                        self.spool.remove(study.key)

    def work(self, segmenter: Segmenter) -> Work:
        """Return the `Work` that processes studies with a segmenter."""
        return Work(
            self.settings, self.queue, self.deliveries, self.spool, self.metrics, segmenter, self.step
        )

    def work_one(self, work: Work) -> bool:
        """Process the study that is due; return False if there is none."""
        study = self.queue.claim()
        if study is None:
            return False
        try:
            work.do(study)
        except BrokenOffError:
            self.queue.give_back(study.key)
        except C3S3Error:  # the failure could not be recorded, for example on a full disk
            self._stranded.append(study.key)
            raise
        return True

    def health(self) -> dict[str, str]:
        """Return name of a check -> its present fault, "" if there is none."""
        found = {"queue": "", "disk": "", "intake": self.phase}
        try:
            self.queue.counts()
        except C3S3Error as error:
            found["queue"] = public(error.what)
        room = self.spool.room
        if self.spool.is_disk_full:
            found["disk"] = "less space is free than serve.limits.free"
        elif self.spool.size_bytes >= room.spool_bytes:
            found["disk"] = "the spool is as large as serve.limits.spool"
        for name, fault in self.metrics.source_faults().items():
            found[name] = found.get(name) or fault
        return found

    def run(self) -> None:
        """Serve until `stopping` is set; then finish the studies in work, and leave the rest in the queue.

        Raises
        ------
        C3S3Error
            If an address cannot be used, or a required package is not installed.
        """
        self.phase = "the service begins"
        workers = [self._worker() for _ in range(self.settings.workers)]
        with ExitStack() as stack:
            collector = Collector(self.queue, self.spool, self.metrics)
            stack.enter_context(monitoring(self.settings.monitor, collector, self.health))
            threads = [self._thread(self._serve_worker, worker) for worker in workers]
            stack.callback(self._drain, threads)
            if self.settings.listen is not None:
                gate = self.settings.listen.gate(parse_memory(self.settings.limits.object))
                stack.enter_context(
                    receiving(gate, self.intake.take, self.metrics.refuse, self.intake.parted)
                )
            for source in self.sources():
                self._thread(self._serve_source, source)
            self.phase = ""
            LOGGER.info("the service takes studies")
            while not self.stopping.wait(TICK_S):
                self._guarded_tick()
            self.phase = "the service ends"
        self._guarded_tick()
        LOGGER.info("the service has ended; %s", self.queue.counts())

    def close(self) -> None:
        """Close the queue."""
        self.database.close()

    def _worker(self) -> WorkerProcess:
        job = job_of(self.settings, self.settings.results)
        limit_s = self.settings.limits.study_s
        return WorkerProcess(model_of(self.settings), job, limit_s, self.break_off)

    def _thread(self, target: Callable[..., None], *words: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=words, daemon=True)
        thread.start()
        return thread

    def _drain(self, threads: list[threading.Thread]) -> None:
        """Wait for the studies in work; break off those that take too long, which stay in the queue."""
        self.stopping.set()
        end = time.monotonic() + self.settings.limits.drain_s
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self.break_off.set()
        for thread in threads:
            thread.join(10.0)  # storing may hang: the next start recovers the study

    def _guarded_tick(self) -> None:
        with self._guarded(SERVICE):
            self.tick()

    def _serve_worker(self, worker: WorkerProcess) -> None:
        work = self.work(worker.segment)
        try:
            while not self.stopping.is_set():
                with self._guarded("queue", 10 * TICK_S):
                    if not self.work_one(work):
                        self.stopping.wait(TICK_S)
        finally:
            worker.close()

    def _serve_source(self, source: FolderSource | PacsSource) -> None:
        while True:
            with self._guarded(source.name):
                source.look()
            if self.stopping.wait(source.settings.every_s):
                return

    @contextmanager
    def _guarded(self, name: str, wait_s: float = 0.0) -> Iterator[None]:
        """Report any error in the block and continue: a thread would end in silence."""
        try:
            yield
        except C3S3Error as error:
            self._complain(name, error)
        except Exception as error:
            self._complain(name, InputError(f"a defect of this program ({type(error).__name__})"))
        else:
            self.metrics.source(name, self.clock())
            return
        self.stopping.wait(wait_s)

    def _complain(self, name: str, error: C3S3Error) -> None:
        if self.stopping.is_set():  # the queue is being closed meanwhile
            return
        text = public(error.what)
        if self.metrics.source_errors.get(name) != text:  # once, not at every inspection
            LOGGER.warning("%s: %s", name, text)
        self.metrics.source(name, self.clock(), text)


@contextmanager
def opened(
    settings: ServeSettings, clock: Clock = time.time, step: Callable[[str], None] = silent_step
) -> Iterator[Service]:
    """Yield a service whose `state` folder is locked until the end of the block.

    Raises
    ------
    C3S3Error
        If another service holds the lock, or for the reasons of `check_start`.
    """
    check_start(settings)
    if not settings.state.exists():
        make_folder(settings.state)
        settings.state.chmod(0o700)  # the folder will hold scans of patients
    with hold(settings.state):
        service = Service(settings, clock, step)
        try:
            yield service
        finally:
            service.close()
