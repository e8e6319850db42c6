"""The training loop: batch, step, average, validation, checkpoint, in the order in which they run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch

from c3s3_seg.bundle import CARD, MANIFEST, ModelBundle
from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.errors import InputError, StorageError
from c3s3_seg.system.files import check_folder, check_own_folder, make_folder, remove_partial
from c3s3_seg.system.hardware import available_processors
from c3s3_seg.system.lock import hold
from c3s3_seg.system.ownership import check_set
from c3s3_seg.system.process import keep_pages
from c3s3_seg.training import checkpoint
from c3s3_seg.training.bundles.inherited import note_inherited, seen_before
from c3s3_seg.training.bundles.initialize import check_origin, initialize_from
from c3s3_seg.training.bundles.write import write_bundle
from c3s3_seg.training.cases import ValidationCase, read_validation
from c3s3_seg.training.checks import check_cases
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import FOCUS, Batch, Sampler, Views
from c3s3_seg.training.distributed import ProcessGroup, join, led, wait
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.history import LAG, UNLEARNT
from c3s3_seg.training.run import Run
from c3s3_seg.training.start_checks import check_start
from c3s3_seg.training.teacher import FOLDER, Teacher, open_teacher
from c3s3_seg.training.validation import Validation

PARTS = (CARD, "model.safetensors", "secondary.safetensors")  # files that every bundle has, or may have
# Number of threads that draw batches for a GPU, each one iteration ahead of the others: at most `LAG`, within
# which a validation does not yet decide crops. A batch depends on its iteration only, not on this number.
LOADERS = min(LAG, available_processors())
NOTHING = "no network has a Dice above 0 on the validation cases: it has not learnt the task"


class RunLogger(Protocol):
    """A logger of a run's progress."""

    def began(self, iteration: int, total: int) -> None:
        """Log the start, before the first iteration of this process."""

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Log an iteration after it."""

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Log a validation after it."""

    def warned(self, text: str) -> None:
        """Log a warning for a person; lasting warnings are in the history and on the card too."""


def train(
    config: TrainConfig,
    folder: Path,
    logger: RunLogger,
    *,
    resume: bool = False,
    start: ModelBundle | None = None,
) -> ModelBundle:
    """Train as configured and write `folder/bundle`; under torchrun, together with the other processes.

    Parameters
    ----------
    config
        Configuration of the run.
    folder
        Folder of the checkpoint, the event files and the bundle.
    logger
        Called for every iteration and validation.
    resume
        Whether to continue from the newest checkpoint in `folder`.
    start
        A bundle whose networks the run begins from; optimiser and schedule begin anew.

    Raises
    ------
    InputError
        If the folder already holds a run and `resume` is off, or another process trains there; if the data
        cannot be read; if data, `start` or teacher do not match the configuration (labels, modality); if a
        resumed run began with another `start`, teacher or cases; or if a loss or a weight is not finite.
    """
    check_folder(folder)
    for name in ("bundle", "events", *([FOLDER] if config.teacher.bundle else [])):
        check_own_folder(folder / name)
    check_set(folder / "bundle", PARTS, MANIFEST)
    keep_pages()
    deterministic(config)
    data, splits = read_splits(config.data)
    check_start(config, data, splits, start, resume=resume)
    make_folder(folder)
    # The first process keeps other runs out; the other processes of this run do not write.
    with hold(folder) if ProcessGroup.of_environment().leads else nullcontext():
        if not resume and (folder / checkpoint.FILE).exists():
            todo = "Go on with --resume, or give another folder"
            raise InputError("this folder already holds a run", where=folder, todo=todo)
        with join(config) as group:
            for place in (folder, folder / "bundle", folder / FOLDER) if group.leads else ():
                remove_partial(place)
            run = Run(config, folder, group)
            _begin(run, start, resume=resume)
            run.note_cases(splits)
            note_inherited(run, start)
            results = _learn(run, data, splits, logger)
            if group.leads:
                write_bundle(run, data, splits, results, logger.warned)
            wait()
        return ModelBundle.load(folder / "bundle")


def _begin(run: Run, start: ModelBundle | None, *, resume: bool) -> None:
    """Begin from the checkpoint, a bundle's networks, or random weights."""
    if resume:
        run.restore()
        if start is not None:
            check_origin(run, start)
    elif start is not None:
        initialize_from(run, start)


def deterministic(config: TrainConfig) -> None:
    """Make torch give the same numbers in a second run, and set the configured number of threads."""
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    torch.use_deterministic_algorithms(True)
    # Filling new tensors guards against reading them unwritten; no code here does, and filling costs 7 %.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _learn(run: Run, data: DataSet, splits: Splits, logger: RunLogger) -> list[Validation]:
    """Train to the last iteration and return the last validation; one process validates and writes."""
    config, leads = run.config, run.group.leads
    cases = read_validation(data, splits.validation, config.task) if leads else []
    sampler = None
    if not run.stalled():
        sampler = Sampler.of(config, data, splits, run.group, _teacher(run, data, splits))
    logger.began(run.iteration, config.run.iterations)
    if sampler is not None and leads:
        _warn(run, logger, [*check_cases(config, data, sampler.labelled, cases), *seen_before(run, splits)])
    if cases and run.iteration == 0 and run.begun:  # the scores to improve
        logger.validated(0, run.validate(cases))
    results = [] if sampler is None else _train(run, sampler, cases, logger)
    if not results and cases:  # resumed after the last iteration
        results = run.validate(cases)
    if leads:
        _warn(run, logger, [*_ended_early(run), *_not_learnt(run, results)])
    return results


def _train(run: Run, sampler: Sampler, cases: list[ValidationCase], logger: RunLogger) -> list[Validation]:
    """Run the iterations that are left, with validations and checkpoints; return the last validation."""
    config, leads = run.config, run.group.leads
    results: list[Validation] = []
    if cases and run.lacks_validation():
        results = _judge(run, cases, logger)
        _save(run, logger, ends=True)
    if led(leads and run.stalled()):
        return results
    for batch in _batches(sampler, run):
        logger.stepped(run.iteration + 1, run.step(batch))
        ends = run.iteration == config.run.iterations
        if ends or run.iteration % config.run.validate_every == 0:
            if cases:
                _save(run, logger)  # first: if the validation fails, no step is lost
            results = _judge(run, cases, logger)
            ends = ends or led(leads and run.stalled())
        if leads and (ends or run.iteration % config.run.checkpoint_every == 0):
            _save(run, logger, ends=ends)
        if ends:
            break
    return results


def _save(run: Run, logger: RunLogger, *, ends: bool = False) -> None:
    """Write a checkpoint; before the end of the run a full disk is a warning, as the next may succeed."""
    try:
        run.save()
    except StorageError as error:
        if ends:
            raise
        logger.warned(f"the checkpoint was not written ({error.what}); the next one is tried as usual")


def _teacher(run: Run, data: DataSet, splits: Splits) -> Teacher | None:
    """Open the teacher, note it in the history, and let one process prepare its targets."""
    teacher = open_teacher(run.config, data, splits, run.folder, run.device)
    if teacher is None:
        return None
    run.note_teacher(teacher.record)
    if run.group.leads:
        teacher.prepare(splits.labelled + splits.unlabelled)
    wait()
    return teacher


def _not_learnt(run: Run, results: list[Validation]) -> list[str]:
    """Return the card's warnings of labels that no shipped network has learnt; none if no truth has one."""
    shipped = run.config.networks.shipped(run.config.method)
    kept = [record for record in run.kept(results) if record["candidate"] in shipped]
    validated = any(result.by_label for result in results if result.candidate in shipped)
    if validated and not any(record["dice"] > 0 for record in kept):
        return [NOTHING]
    weak = [set(record.get("unlearnt", ())) for record in kept]
    names = sorted(set.intersection(*weak)) if weak else []
    return [f"{name} is not learnt: its Dice is below {UNLEARNT}" for name in names]


def _ended_early(run: Run) -> list[str]:
    """Return the card's warning of a run that the patience ended before its last iteration."""
    settings = run.config.run
    if run.iteration == settings.iterations or not run.stalled():
        return []
    ended = f"the run ended after {run.iteration} of {settings.iterations} iterations"
    return [f"{ended}: no network became better in {settings.patience} validations (run.patience)"]


def _judge(run: Run, cases: list[ValidationCase], logger: RunLogger) -> list[Validation]:
    """Validate, and before the last iteration warn of labels of which hardly anything is found.

    Without cases, as in all processes but the first, nothing is done.
    """
    if not cases:
        return []
    results = run.validate(cases)
    logger.validated(run.iteration, results)
    if run.iteration == run.config.run.iterations:
        return results
    for name in run.history.unlearnt(run.iteration):
        logger.warned(f"{name} is not learnt yet (Dice below {UNLEARNT}){_remedy(run)}")
    return results


def _remedy(run: Run) -> str:
    if run.config.data.foreground_by != "label":
        return "; set data.foreground_by = 'label' to show it more often"
    if run.group.size > 1:  # see `Run.focus`
        return ""
    return f"; crops show it {FOCUS:g} times as often from now on"


def _warn(run: Run, logger: RunLogger, texts: list[str]) -> None:
    for text in texts:
        run.warn(text)
        logger.warned(text)


def draws_ahead(run: Run) -> bool:
    """Return whether batches are drawn while earlier ones are trained on: on a GPU.

    On a CPU this costs more than it saves: a second thread brings a second team of workers for the same cores
    (0.89 against 0.70 s a step on two cores).
    """
    return run.device.type != "cpu"


def loaders() -> ThreadPoolExecutor:
    """Return the threads that draw batches ahead, each of which computes alone."""
    return ThreadPoolExecutor(LOADERS, initializer=torch.set_num_threads, initargs=(1,))


def _batches(sampler: Sampler, run: Run) -> Iterator[Batch]:
    """Yield batches from the run's iteration on."""
    coming = iter(range(run.iteration, run.config.run.iterations))

    def views(iteration: int) -> Views:
        return replace(run.method.views(iteration), focus=run.focus(iteration))

    if not draws_ahead(run):
        yield from (sampler.batch(iteration, views(iteration)) for iteration in coming)
        return
    pool = loaders()
    try:
        ahead = deque(pool.submit(sampler.batch, i, views(i)) for i in islice(coming, LOADERS))
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(pool.submit(sampler.batch, i, views(i)) for i in islice(coming, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
