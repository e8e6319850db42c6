"""`c3s3-seg plan`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import Status, command_of, counted, if_stopped, need, say, show
from c3s3_seg.commands.progress import EVERY_S
from c3s3_seg.system.names import printable


def plan(
    data: Annotated[Path, typer.Argument(help="Folder of a data set, with dataset.json.", metavar="DATASET")],
    out: Annotated[Path, options.out("Configuration to write, a TOML file.", "FILE")],
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="How long the training may take: 6h, 90m, 1h30m.",
            rich_help_panel=options.HARDWARE,
        ),
    ] = "6h",
    max_memory: options.MaxMemory = None,
    start: options.Start = None,
    set_: options.Overrides = None,
) -> None:
    """Propose a training configuration for a data set, with a reason for every value.

    Planning takes a tenth of the budget, and at most a minute.
    """
    began_s = time.monotonic()
    need("torch", "safetensors")
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.errors import InputError
    from c3s3_seg.report.terminal import plan_table
    from c3s3_seg.system.files import check_output_file, write_whole
    from c3s3_seg.system.memory import free_bytes, parse_memory
    from c3s3_seg.training.planning.builder import toml
    from c3s3_seg.training.planning.draft_timer import Constraints
    from c3s3_seg.training.planning.plan import make_plan
    from c3s3_seg.training.planning.timing import parse_time

    check_output_file(out)
    if out.exists():
        raise InputError("is there already", where=out, todo="Give another file, or remove this one")
    _refuse_unnameable(data)
    limit = free_bytes() if max_memory is None else float(parse_memory(max_memory))
    begin = ModelBundle.find(start) if start is not None else None
    constraints = Constraints(parse_time(budget), limit, begin, began_s)
    with if_stopped("nothing was written; the same command begins anew"), Status() as status:
        choices = make_plan(data, constraints, set_ or [], _Progress(status))
    command = command_of("train", out, "-o", "RUN", *(("--from", start) if start else ()))
    proposed = f"Proposed for {data} by c3s3-seg plan --budget {budget}. Change what you like."
    heading = f"{printable(proposed)}\nNext: {printable(command)}"
    write_whole(out, toml(choices, heading).encode())
    show(plan_table([(choice.key, choice.value, choice.reason) for choice in choices]))
    say(f"The plan is {out}. Next: {command}")


def _refuse_unnameable(data: Path) -> None:
    """Check, before anything is measured, that a TOML file, which is Unicode, can hold the data set's name.

    Raises
    ------
    InputError
        If the name is not Unicode.
    """
    from c3s3_seg.errors import InputError

    try:
        str(data).encode()
    except UnicodeEncodeError as error:
        what = "the name is not Unicode, and a configuration holds nothing else"
        raise InputError(what, where=data, todo="Rename the folder, or give a link to it") from error


class _Progress:
    """The display of the present step: a changing line, or now and then a line in a log file."""

    def __init__(self, status: Status) -> None:
        self._status, self._said_s = status, -EVERY_S

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        what = counted(what, done, total)
        self._status(what)
        if not self._status.live and time.monotonic() - self._said_s >= EVERY_S:
            self._said_s = time.monotonic()
            self._status.note(what)
