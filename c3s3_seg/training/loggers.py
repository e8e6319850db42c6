"""Who is told how a run goes: a person at the terminal, and TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from c3s3_seg.system.names import printable
from c3s3_seg.training.distributed import ProcessGroup
from c3s3_seg.training.history import empty_masks
from c3s3_seg.training.train import RunLogger
from c3s3_seg.training.validation import Validation

PLAIN_EVERY_S = 30.0  # how often a run without a terminal writes a line


class Terminal:
    """A progress bar with the time left; plain lines where there is no terminal."""

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
        """Set the bar's ends."""
        self.first, self.total, self.started = iteration, total, time.monotonic()
        self.progress.update(self.task, total=total, completed=iteration)

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Move on."""
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
        """One line per net."""
        for r in results:
            self.console.print(
                f"iteration {iteration}: {r.candidate}: Dice {r.dice:.4f}, Jaccard {r.jaccard:.4f},"
                f" {_distances(r)}",
                highlight=False,
                soft_wrap=True,
            )

    def warned(self, text: str) -> None:
        """A line that stays."""
        self.console.print(f"warning: {printable(text)}", markup=False, highlight=False, soft_wrap=True)


def _distances(result: Validation) -> str:
    """What the means of the distances are worth: an empty mask has none, and counts as 0."""
    empty, masks = empty_masks(result)
    if empty == masks:
        return "every mask is empty: no distances"
    left_out = f" ({empty} of {masks} masks are empty and count as 0)" if empty else ""
    return f"95HD {result.hd95_vox:.2f}, ASD {result.asd_vox:.2f} voxels{left_out}{result.remark}"


class TensorBoard:
    """Scalars in event files; after a resume, what lies beyond the checkpoint is taken back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def began(self, iteration: int, total: int) -> None:
        """Open the event file."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=iteration + 1)

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Write every term."""
        for name, value in terms.items():
            self.writer.add_scalar(f"train/{name}", value, iteration)

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Write every mean."""
        for result in results:
            empty, masks = empty_masks(result)
            distances = () if empty == masks else ("hd95_vox", "asd_vox")
            for name in ("dice", "jaccard", *distances):
                value = getattr(result, name)
                self.writer.add_scalar(f"validation/{result.candidate}/{name}", value, iteration)
        self.writer.flush()

    def warned(self, text: str) -> None:
        """Nothing: it is in the history."""


class Both:
    """Several listeners as one."""

    def __init__(self, *listeners: RunLogger) -> None:
        self.listeners = listeners

    def began(self, iteration: int, total: int) -> None:
        """Tell all."""
        for logger in self.listeners:
            logger.began(iteration, total)

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Tell all."""
        for logger in self.listeners:
            logger.stepped(iteration, terms)

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Tell all."""
        for logger in self.listeners:
            logger.validated(iteration, results)

    def warned(self, text: str) -> None:
        """Tell all."""
        for logger in self.listeners:
            logger.warned(text)


class Silent:
    """Hears everything and says nothing: what every process but the first has."""

    def began(self, iteration: int, total: int) -> None:
        """Nothing."""

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """Nothing."""

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """Nothing."""

    def warned(self, text: str) -> None:
        """Nothing."""


@contextmanager
def open_logger(folder: Path) -> Iterator[RunLogger]:
    """The terminal and TensorBoard (event files in `folder/events`); among several processes, the first's."""
    if not ProcessGroup.of_environment().leads:
        yield Silent()
        return
    terminal = Terminal()
    with terminal.progress:
        yield Both(terminal, TensorBoard(folder / "events"))
