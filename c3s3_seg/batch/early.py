"""Read and check the first case, and prepare it on the host, while the network is opened."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace

from c3s3_seg.batch.case import Steps
from c3s3_seg.batch.job import CaseTask, Job
from c3s3_seg.batch.pipeline import GRACE_S, STUCK
from c3s3_seg.batch.records import Loaded, Outcome
from c3s3_seg.bundle import Task
from c3s3_seg.inference.components import load_library
from c3s3_seg.inference.memory import ASSUMED, costs_of
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.inference.settings import Settings
from c3s3_seg.system.hardware import cuda_devices


class EarlyRead:
    """A thread that reads one case; its result, or its error, is the same as from `Steps.read`.

    Parameters
    ----------
    case
        The case that will come first.
    model
        The task of the networks, which are not needed for reading.
    settings
        The settings with which the networks will run.
    job
        Options for processing each case.
    """

    def __init__(self, case: CaseTask, model: Task, settings: Settings, job: Job) -> None:
        self._wanted = settings.on_device
        # A predictor without networks can check and prepare; comparing networks (uncertainty) is off.
        settings = replace(settings, uncertainty=False, on_device=False)
        predictor = Predictor(model, (), settings, costs_of("", [ASSUMED]))
        self._task, self._steps = case, Steps(predictor, job)
        self._checked: Loaded | Outcome | None = None
        self._found: Loaded | Outcome | None = None
        self._error: BaseException | None = None
        self._read, self._opened = threading.Event(), threading.Event()
        self._predictor: Predictor | None = None
        self._thread = threading.Thread(target=self._work, name=STUCK, daemon=True)
        self._thread.start()

    def compile_in(self, predictor: Predictor) -> None:
        """Hand over the open networks, to be compiled for the scan's tiles as soon as it is read."""
        self._predictor = predictor
        self._opened.set()

    def take(self, task: CaseTask) -> Loaded | Outcome | None:
        """Return the result, once, if `task` is this case and nothing about it has changed; else None.

        The scan must still be prepared if the networks' device does so, or was unknown during reading.
        """
        if task != self._task:
            return None
        self._read.wait()
        found = self._checked if self._on_device else self._found
        self._checked = self._found = None
        if self._error is not None:
            raise self._error
        return found

    def close(self) -> None:
        """Wait at most `GRACE_S` for the thread: its result is not needed if the networks failed to open."""
        self._opened.set()
        self._thread.join(GRACE_S)
        self._checked = self._found = None

    @property
    def _on_device(self) -> bool:
        return self._predictor is not None and self._predictor.on_device

    def _work(self) -> None:
        try:
            found = self._checked = self._steps.check(self._steps.load(self._task))
            # With a GPU, only the open networks tell whether their device prepares scans.
            if self._wanted is False or (self._wanted is None and not cuda_devices()):
                found = self._steps.prepare(found)
            self._found = found
        except BaseException as error:
            self._error = error
            return
        finally:
            self._read.set()
        self._opened.wait()
        if self._on_device:
            self._found = None  # `take` does not return it, and the batch may be long
        elif self._predictor is not None and isinstance(found, Loaded) and found.prepared is not None:
            # Compiling leaves the interpreter free: time to load the library that writes the mask.
            loader = threading.Thread(target=load_library, daemon=True)
            loader.start()
            with suppress(Exception):  # the step that runs the networks will report the error
                self._predictor.compile_for(found.prepared)
            loader.join()
