"""Run a few real steps of a configuration in a process of their own, and send the measurements."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import C3S3Error, DefectError
from c3s3_seg.system.hardware import is_memory_error
from c3s3_seg.system.memory import peak_memory
from c3s3_seg.system.process import keep_pages
from c3s3_seg.system.process_pool import follow_parent
from c3s3_seg.training.config import TrainConfig, warm_up

if TYPE_CHECKING:
    import torch

    from c3s3_seg.training.data import Sampler
    from c3s3_seg.training.run import Run

STEPS = 3  # timed steps of each kind; one before them warms up
READ = 2  # cases of each kind that are read for these steps


def serve(config: TrainConfig, start: ModelBundle | None, pipe: Connection) -> None:
    """Send each (name, value) once measured; at the end "ended", or "failed" with the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    follow_parent()
    try:
        for name, value in measure_steps(config, start):
            pipe.send((name, value))
        pipe.send(("ended", None))
    except C3S3Error as error:
        pipe.send(("failed", error))
    except Exception as error:
        if is_memory_error(error):
            return  # as if the system had ended this process
        pipe.send(("failed", DefectError(f"a step failed ({type(error).__name__}: {error})")))


def measure_steps(config: TrainConfig, start: ModelBundle | None) -> Iterator[tuple[str, Any]]:
    """Yield each measurement when it is made: first each kind once, so that a limit costs only precision.

    Yields
    ------
    `loaded`, `load_s` and `case_bytes` of a case, `voxels` of a case on the model's grid, `precision`,
    `validation_bytes` of a validation case, `warm_s` and `full_s` of a step several times, `validate_s` of
    a case twice, `peak_bytes` so far, and `waited` of a round of steps.
    """
    from c3s3_seg.training.bundles.initialize import initialize_from
    from c3s3_seg.training.cases import read_validation
    from c3s3_seg.training.data import Sampler
    from c3s3_seg.training.folds import read_splits
    from c3s3_seg.training.run import Run
    from c3s3_seg.training.train import deterministic

    keep_pages()
    deterministic(config)
    yield "loaded", None
    data, splits = read_splits(config.data)
    held_out = (splits.validation or splits.labelled)[:1]
    few = replace(splits, labelled=splits.labelled[:READ], unlabelled=splits.unlabelled[:READ])
    read_s = _clock()
    sampler = Sampler.of(config, data, few)
    cases = (*sampler.labelled, *sampler.unlabelled)
    yield "load_s", read_s() / len(cases)
    yield "case_bytes", sum(case.nbytes for case in cases) // len(cases)
    yield "voxels", sum(case.stack[0].numel() for case in cases) // len(cases)
    run = Run(config, Path("unused"))
    if start is not None:
        initialize_from(run, start)
    yield "precision", run.precision
    _forget_probe(run.device)
    validation = read_validation(data, held_out, config.task)
    yield "validation_bytes", sum(case.nbytes for case in validation)
    kinds = {"warm_s": 0, "full_s": warm_up(config)} if warm_up(config) else {"full_s": 0}
    for number in range(STEPS + 1):
        before = scheduled()
        for name, first in kinds.items():
            run.iteration = first + number
            yield name, step_seconds(run, sampler)
            yield "peak_bytes", peak_bytes()
        yield "waited", share_waited(before, scheduled())
        if number in (0, STEPS):  # the first also includes start-up costs
            validate_s = _clock()
            run.validate(validation)
            yield "validate_s", validate_s()
            yield "peak_bytes", peak_bytes()


def _forget_probe(device: torch.device) -> None:
    """Leave the memory of the probe of `auto` out of the peak: where it is short, the probe takes less."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def step_seconds(run: Run, sampler: Sampler) -> float:
    """Take a step of the run's iteration, and return the seconds that it takes in a run."""
    from c3s3_seg.training.train import LOADERS, draws_ahead, loaders

    views, ahead = run.method.views(run.iteration), draws_ahead(run)
    draw_s = _clock()
    if ahead:  # a run waits for a batch only if all its threads together draw more slowly than it steps
        with loaders() as pool:
            batch, *_ = pool.map(sampler.batch, LOADERS * [run.iteration], LOADERS * [views])
        drawn_s = draw_s() / LOADERS
    else:
        batch = sampler.batch(run.iteration, views)
        drawn_s = draw_s()
    step_s = _clock()
    run.step(batch)
    return max(drawn_s, step_s()) if ahead else drawn_s + step_s()


def _clock() -> Callable[[], float]:
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


def scheduled() -> tuple[int, int]:
    """Return ns on a processor and ns ready without one, over all threads (Linux: schedstat; else 0)."""
    ran = waited = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread that has just ended
            on, ready, _ = map(int, path.read_text(encoding="ascii").split())
            ran, waited = ran + on, waited + ready
    return ran, waited


def share_waited(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the share of time spent waiting for a processor between two results of `scheduled`."""
    ran, waited = (max(0, b - a) for a, b in zip(before, after, strict=True))
    return waited / max(1, ran + waited)


def peak_bytes() -> float:
    """Return the peak resident size of this process, or torch's peak GPU memory if larger, in bytes."""
    import torch

    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return float(max(peak_memory(), device))
