"""Loggers of a run's progress: the terminal and TensorBoard."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from c3s3_seg.system.names import printable
from c3s3_seg.training.distributed import ProcessGroup
from c3s3_seg.training.history import empty_masks
from c3s3_seg.training.train import RunLogger
from c3s3_seg.training.validation import Validation

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PLAIN_EVERY_S = 30.0  # seconds between two lines of a run without a terminal


class Terminal:
    """A progress bar with the time left; plain lines if there is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = Console()
        self.progress = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.description}"),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task("", total=None)
        self.first, self.total = 0, 0
        self.started = self.reported = time.monotonic()

    def began(self, iteration: int, total: int) -> None:
        """Set the first and the last iteration of the bar."""
        self.first, self.total, self.started = iteration, total, time.monotonic()
        self.progress.update(self.task, total=total, completed=iteration)

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Advance the bar; without a terminal, print a line every `PLAIN_EVERY_S` and at the end."""
        text = f"loss {terms['loss']:.3f}"
        self.progress.update(self.task, completed=iteration, description=text)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.reported > PLAIN_EVERY_S or iteration == self.total):
            self.reported = now
            left = (now - self.started) / max(1, iteration - self.first) * (self.total - iteration)
            self.console.print(
                f"iteration {iteration} of {self.total}, {text}, {left / 60:.0f} min left", highlight=False
            )

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Print one line per net."""
        for r in results:
            self.console.print(
                f"iteration {iteration}: {r.candidate}: {_scores(r)}", highlight=False, soft_wrap=True
            )

    def warned(self, text: str) -> None:
        """Print a line that stays above the bar."""
        self.console.print(f"warning: {printable(text)}", markup=False, highlight=False, soft_wrap=True)


def _scores(result: Validation) -> str:
    """Return the means as text, with a remark on pairs that are in none of them."""
    if math.isnan(result.dice):
        return "every mask is empty, as its reference is: no scores"
    both = result.both_empty
    left_out = f" ({both} empty masks of empty references left out)" if both else ""
    return f"Dice {result.dice:.4f}, Jaccard {result.jaccard:.4f}, {_distances(result)}{left_out}"


def _distances(result: Validation) -> str:
    """Return the mean distances as text, with a remark on empty masks, which have none and count as 0."""
    empty, masks = empty_masks(result)
    if empty == masks:
        return "every mask is empty: no distances"
    left_out = f" ({empty} of {masks} masks are empty and count as 0)" if empty else ""
    return f"95HD {result.hd95_vox:.2f}, ASD {result.asd_vox:.2f} voxels{left_out}{result.remark}"


class TensorBoard:
    """Scalars in event files; after a resume, scalars beyond the checkpoint are discarded.

    If a write fails, as on a disk that is full for a moment, `report` is called once, and no more are
    written: a run of hours does not end for want of a curve.
    """

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.folder, self.report = folder, report
        self.writer: SummaryWriter | None = None

    def began(self, iteration: int, total: int) -> None:
        """Open the event file."""
        from torch.utils.tensorboard import SummaryWriter

        with self._guarded():
            self.writer = SummaryWriter(str(self.folder), purge_step=iteration + 1)

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Write every term."""
        self._add({f"train/{name}": value for name, value in terms.items()}, iteration)

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Write every mean."""
        for result in results:
            empty, masks = empty_masks(result)
            distances = () if empty == masks else ("hd95_vox", "asd_vox")
            means = {name: getattr(result, name) for name in ("dice", "jaccard", *distances)}
            known = {name: value for name, value in means.items() if not math.isnan(value)}
            self._add({f"validation/{result.candidate}/{k}": v for k, v in known.items()}, iteration)
        with self._guarded():
            if self.writer is not None:
                self.writer.flush()

    def warned(self, text: str) -> None:
        """Do nothing: the history states the same."""

    def _add(self, scalars: Mapping[str, float], iteration: int) -> None:
        with self._guarded():
            for name, value in scalars.items():
                if self.writer is not None:
                    self.writer.add_scalar(name, value, iteration)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.writer = None
            why = error.strerror or error
            self.report(f"{self.folder}: cannot be written ({why}): no more scalars; the run continues")


class Both:
    """Several loggers combined into one."""

    def __init__(self, *listeners: RunLogger) -> None:
        self.listeners = listeners

    def began(self, iteration: int, total: int) -> None:
        """Call all loggers."""
        for logger in self.listeners:
            logger.began(iteration, total)

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Call all loggers."""
        for logger in self.listeners:
            logger.stepped(iteration, terms)

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Call all loggers."""
        for logger in self.listeners:
            logger.validated(iteration, results)

    def warned(self, text: str) -> None:
        """Call all loggers."""
        for logger in self.listeners:
            logger.warned(text)


class Silent:
    """A logger that reports nothing, for all processes but the first."""

    def began(self, iteration: int, total: int) -> None:
        """Do nothing."""

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Do nothing."""

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Do nothing."""

    def warned(self, text: str) -> None:
        """Do nothing."""


@contextmanager
def open_logger(folder: Path) -> Iterator[RunLogger]:
    """Open the terminal and TensorBoard (event files in `folder/events`); only the first process logs."""
    if not ProcessGroup.of_environment().leads:
        yield Silent()
        return
    terminal = Terminal()
    with terminal.progress, _without_traceback():
        yield Both(terminal, TensorBoard(folder / "events", terminal.warned))


@contextmanager
def _without_traceback() -> Iterator[None]:
    """Print no traceback of TensorBoard's own thread: its errors are raised again, and reported, here."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
