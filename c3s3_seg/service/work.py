"""Processing of a claimed study: segment, store, finish. Each step may be the last before a kill."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from c3s3_seg.errors import C3S3Error, public, quantity
from c3s3_seg.io.pacs.client import send
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.service.deliveries import Deliveries
from c3s3_seg.service.metrics import Metrics
from c3s3_seg.service.node_settings import NodeSettings
from c3s3_seg.service.queue import Finished, QueuedStudy, StudyQueue
from c3s3_seg.service.segment import Problem, SegmentedStudy, SegmentTask
from c3s3_seg.service.settings import ServeSettings
from c3s3_seg.service.spool import Contents, Spool, key_of
from c3s3_seg.service.worker_process import BrokenOffError

Segmenter = Callable[[SegmentTask], SegmentedStudy]
LOGGER = logging.getLogger(__name__)


def silent_step(step: str) -> None:
    """Ignore a step: the default for callers that do not follow the steps of a study."""
    del step


@dataclass(frozen=True)
class Work:
    """The processing of studies.

    Parameters
    ----------
    settings, queue, deliveries, spool, metrics
        Parts of the service.
    segmenter
        Called to segment one study, in a worker process.
    step
        Called with the name of each step before the step begins.
    """

    settings: ServeSettings
    queue: StudyQueue
    deliveries: Deliveries
    spool: Spool
    metrics: Metrics
    segmenter: Segmenter
    step: Callable[[str], None] = silent_step

    def do(self, study: QueuedStudy) -> None:
        """Process a claimed study; record a failure, after which the queue retries or gives up."""
        try:
            self._do(study)
        except BrokenOffError:
            raise
        except C3S3Error as error:
            self._fail(study, Problem("storage", public(error.what)))
        except OSError as error:
            self._fail(study, Problem("storage", error.strerror or type(error).__name__))
        except Exception as error:  # any error: the other studies must continue
            self._fail(study, Problem("defect", f"a defect of this program ({type(error).__name__})"))
        finally:
            self.spool.drop_snapshot(study.key)

    def _do(self, study: QueuedStudy) -> None:
        self.step("snapshot")
        with self._timed("snapshot"):
            folder, contents = self.spool.snapshot(study.key)
        if is_unchanged(study.done, contents):
            self._finish(study, Finished(study.revision, study.done))
            return
        missing = _missing(study, contents)
        if missing:
            self._fail(study, Problem("scan", missing))
            return
        found = SegmentedStudy(problems=(Problem("passed over", "no object in it is a slice of a scan"),))
        out = self.settings.results / study.key / str(study.revision + 1)
        if any(series.may_be_scan for series in contents.values()):
            self.step("segment")
            with self._timed("segment"):
                found = self.segmenter(SegmentTask(folder, out))
        for problem in found.problems:
            if not problem.is_final or (problem.kind != "passed over" and not found.series):
                self._fail(study, problem)
                return
        self._conclude(study, found, contents, out)

    def _conclude(self, study: QueuedStudy, found: SegmentedStudy, contents: Contents, out: Path) -> None:
        done = record(study.done, found, contents)
        revision = study.revision + 1
        if done["chosen"] and done["chosen"] == study.done.get("chosen"):
            # Other series arrived, but the segmented ones are unchanged, and so are the results.
            shutil.rmtree(out, ignore_errors=True)
            self._finish(study, Finished(study.revision, done))
            return
        stored = [name for target in self.settings.store if (name := self._store(study, found, out, target))]
        if stored:
            self._fail(study, Problem("store", stored[0]))
            return
        line = self._line(study, found, revision)
        kind = "" if found.series else "passed over"
        reason = found.problems[0].reason if kind and found.problems else ""
        if kind:
            self.metrics.add("passed_over")
            shutil.rmtree(out, ignore_errors=True)
        self._finish(study, Finished(revision, done, line, kind, reason))

    def _store(self, study: QueuedStudy, found: SegmentedStudy, out: Path, target: NodeSettings) -> str:
        """Store the objects that the target does not have yet; return why that failed, "" if it did not.

        The UID of an object is derived from the slices, the model and the mask, and its file stays as it is:
        an object that is sent again, because the answer was lost, is the same instance.
        """
        files = [out / name for series in found.series for name in series.files]
        try:
            instances = {str(identity(path.read_bytes()).instance): path for path in files}
            self.step("expect")
            for instance in self.deliveries.expect(
                target.server, list(instances), study.key, study.revision + 1
            ):
                self.step("store")
                with self._timed("store"):
                    send(target.node, [instances[instance]], target.caller)
                self.step("stored")
                self.deliveries.stored(target.server, instance)
                self.metrics.add("objects")
        except (C3S3Error, OSError) as error:
            return public(error.what) if isinstance(error, C3S3Error) else "a result cannot be read"
        return ""

    def _finish(self, study: QueuedStudy, finished: Finished) -> None:
        self.step("finish")
        self.queue.finish(study.key, finished)
        self.metrics.add("studies")
        LOGGER.info("study %s is done (%s)", study.key, finished.kind or f"revision {finished.revision}")
        self.step("finished")

    def _fail(self, study: QueuedStudy, problem: Problem) -> None:
        attempts = study.attempts + 1
        retry = self.settings.retry
        # One count for all kinds: another failure after a long time without a PACS is not the last one.
        storing = "store" in (problem.kind, study.kind)
        most = max(retry.attempts, retry.store_attempts) if storing else retry.attempts
        final = problem.is_final or attempts >= most
        self.metrics.failed(problem.kind)
        state = self.queue.fail(
            study.key, problem.kind, problem.reason, None if final else retry.wait_s(attempts)
        )
        LOGGER.warning("study %s is %s: %s: %s", study.key, state, problem.kind, problem.reason)

    def _line(self, study: QueuedStudy, found: SegmentedStudy, revision: int) -> str:
        plain = self.settings.output.uids == "plain"
        first = next(iter(sorted((self.spool.folder / study.key).glob("*/*.dcm"))), None)
        uid = str(identity(first.read_bytes()).study) if plain and first is not None else study.key
        series = [
            {
                "series": one.series if plain else key_of(one.series),
                "verdict": one.verdict,
                "warnings": list(one.warnings),
                "nothing_found": one.nothing_found,
                "volume_ml": one.volumes_ml,
                "uncertainty": one.uncertainty,
                "model": one.model,
                "weights": one.weights,
                "version": one.version,
                "seconds": one.seconds_s,
                "files": list(one.files),
            }
            for one in found.series
        ]
        line: dict[str, Any] = {
            "id": f"{study.key}-{revision}",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "study": uid,
            "revision": revision,
            "verdict": "segmented" if found.series else "passed over",
            "results": series,
            "notes": [problem.reason for problem in found.problems],
            "stored": [target.server for target in self.settings.store] if series else [],
        }
        return json.dumps(line)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.spent(stage, time.perf_counter() - started)


def record(before: dict[str, Any], found: SegmentedStudy, contents: Contents) -> dict[str, Any]:
    """Return the record of a study that is done: all its series, and those that were segmented.

    Series of an earlier revision that are no longer in the spool are kept: they may be sent again.
    """
    here = {key: [series.digest, series.count] for key, series in contents.items()}
    chosen = {key: value for key, value in before.get("chosen", {}).items() if key not in here}
    chosen |= {key: here[key] for key in map(key_of, (one.series for one in found.series)) if key in here}
    return {"series": {**before.get("series", {}), **here}, "chosen": chosen}


def is_unchanged(done: dict[str, Any], contents: Contents) -> bool:
    """Return whether a study needs no new result: each series that may be a scan is known and unchanged."""
    if not done:
        return False
    known = done.get("series", {})
    return all(
        known.get(key, [None])[0] == series.digest for key, series in contents.items() if series.may_be_scan
    )


def _missing(study: QueuedStudy, contents: Contents) -> str:
    """Return why a segmented series is incomplete (files removed, only some came again), "" if none is."""
    for key, (_, count) in study.done.get("chosen", {}).items():
        if key in contents and contents[key].count < count:
            return (
                f"{quantity(contents[key].count, 'file')} of a series came that had {count}, which were"
                " removed after the study was done; wanted the whole series"
            )
    return ""
