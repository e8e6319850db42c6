"""`c3s3-seg train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import Stopped, command_of, need, say

if TYPE_CHECKING:
    from c3s3_seg.bundle import ModelBundle


def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="TOML file, or the name of a shipped configuration.",
            autocompletion=options.config_names,
        ),
    ],
    out: Annotated[Path, options.out("Folder of the run: checkpoint, scalars, bundle.")],
    set_: options.Overrides = None,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="I/K",
            help="Validate on part I of K of the labelled cases. Short for --set data.fold.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    start: options.Start = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue from the newest checkpoint.", rich_help_panel=options.SETTINGS
        ),
    ] = False,
) -> None:
    """Train a model from a configuration. The result is the bundle OUT/bundle.

    Exit code 1: the bundle was written, but its networks leave the mask of every validation case empty that
    has a label.
    """
    need("torch", "safetensors", "tensorboard")
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.training.config import load_config
    from c3s3_seg.training.distributed import ProcessGroup
    from c3s3_seg.training.loggers import open_logger
    from c3s3_seg.training.train import train as run

    settings = load_config(config, _changes(set_ or [], fold))
    begin = ModelBundle.find(start) if start is not None else None
    try:
        with open_logger(out) as logger:
            bundle = run(settings, out, logger, resume=resume, start=begin)
    except Stopped as stopped:
        stopped.todo = _how_to_go_on(out, resume)
        raise
    if ProcessGroup.of_environment().leads:
        _refuse_nothing(bundle)
        following = command_of("export", bundle.folder, "--to", "onnx")
        say(f"The bundle is {bundle.folder}. Next: {following}")


def _changes(given: list[str], fold: str | None) -> list[str]:
    """Return the keys of `--set`, with that of `--fold`.

    Raises
    ------
    InputError
        If both set `data.fold`.
    """
    from c3s3_seg.errors import InputError

    if fold is None:
        return given
    if any(change.partition("=")[0].strip() == "data.fold" for change in given):
        raise InputError("found --fold and --set data.fold", todo="Leave one of them out")
    return [*given, f"data.fold={fold}"]


def _how_to_go_on(out: Path, resume: bool) -> str:
    from c3s3_seg.training.checkpoint import FILE
    from c3s3_seg.training.distributed import ProcessGroup

    if not (out / FILE).exists():
        return "there is no checkpoint yet; the same command begins anew"
    if resume:
        return "the same command goes on from the last checkpoint"
    if ProcessGroup.of_environment().size > 1:
        return "the same command with --resume goes on from the last checkpoint"
    return f"go on from the last checkpoint with: {command_of(*sys.argv[1:], '--resume')}"


def _refuse_nothing(bundle: ModelBundle) -> None:
    """Refuse networks that mark nothing: a script that trains, exports and predicts must not continue.

    Poor masks are accepted: a run may be cut short as a test.

    Raises
    ------
    RefusedError
        If every network, with the weights that ship, leaves the mask of every validation case empty; masks
        of an empty reference do not count.
    """
    from c3s3_seg.errors import RefusedError

    ships = {network.candidate for network in bundle.networks}
    records = [r for r in bundle.manifest.training["validation_kept"] if r["candidate"] in ships]
    if records and all(record.get("empty", -1) == record.get("masks") for record in records):
        what = "no network of this bundle finds anything: the masks of all validation cases are empty"
        todo = "Train longer, with a lower optimiser.lr, or look at the masks with c3s3-seg check"
        raise RefusedError(what, where=bundle.folder, todo=todo)
