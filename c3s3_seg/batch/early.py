"""The first case is read and checked, and on the host prepared, while the network is opened."""

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
from c3s3_seg.inference.memory import MEASURED_FILTERS, costs_of
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.inference.settings import Settings
from c3s3_seg.system.hardware import cuda_devices


class EarlyRead:
    """Reads one case in a thread. Its result, or its error, is the one that `Steps.read` gives.

    Parameters
    ----------
    case
        The case that will come first.
    model
        What the networks, which are not needed for it, will do.
    settings
        How they will run.
    job
        What to do with each case.
    """

    def __init__(self, case: CaseTask, model: Task, settings: Settings, job: Job) -> None:
        self._wanted = settings.on_device
        # Without networks a predictor checks and prepares; it compares networks only where there are some.
        settings = replace(settings, uncertainty=False, on_device=False)
        predictor = Predictor(model, (), settings, costs_of("", [MEASURED_FILTERS]))
        self._task, self._steps = case, Steps(predictor, job)
        self._checked: Loaded | Outcome | None = None
        self._found: Loaded | Outcome | None = None
        self._error: BaseException | None = None
        self._read, self._opened = threading.Event(), threading.Event()
        self._predictor: Predictor | None = None
        self._thread = threading.Thread(target=self._work, name=STUCK, daemon=True)
        self._thread.start()

    def compile_in(self, predictor: Predictor) -> None:
        """The networks are open: as soon as the scan is read they can be compiled for its tiles."""
        self._predictor = predictor
        self._opened.set()

    def take(self, task: CaseTask) -> Loaded | Outcome | None:
        """What was read, once, if it is this case and nothing about it has changed; else None.

        It still has to be prepared where that was left to the networks' own device, or to who knows it.
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
        """Wait a moment for the thread: where the networks could not be opened nobody needs what it reads."""
        self._opened.set()
        self._thread.join(GRACE_S)
        self._checked = self._found = None

    @property
    def _on_device(self) -> bool:
        return self._predictor is not None and self._predictor.on_device

    def _work(self) -> None:
        try:
            found = self._checked = self._steps.check(self._steps.load(self._task))
            # Where there is a GPU, the networks, once they are open, say who prepares scans.
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
            self._found = None  # `take` does not give it, and the batch may be long
        elif self._predictor is not None and isinstance(found, Loaded) and found.prepared is not None:
            # Compiling leaves Python alone: time to load what writes the mask.
            loader = threading.Thread(target=load_library, daemon=True)
            loader.start()
            with suppress(Exception):  # the step that runs the networks will say what is wrong
                self._predictor.compile_for(found.prepared)
            loader.join()
