"""`c3s3-seg train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.verbs.terminal import need, say


def train(
    config: Annotated[Path, typer.Argument(help="A TOML file, or the name of a shipped configuration.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run: checkpoint, scalars, bundle.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: --set run.iterations=100", metavar="KEY=VALUE"),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(help="I/K: part I of K of the labelled cases validates. Short for --set data.fold."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="A bundle whose networks the run begins from.")
    ] = None,
) -> None:
    """Train as a configuration says; the result is a bundle in OUT/bundle."""
    need("torch", "safetensors", "tensorboard")
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.training.config import load_config
    from c3s3_seg.training.listeners import open_listener
    from c3s3_seg.training.train import train as run
    from c3s3_seg.training.world import World

    changes = [*(set_ or []), *([] if fold is None else [f"data.fold={fold}"])]
    settings = load_config(config, changes)
    begin = ModelBundle.find(start) if start is not None else None
    with open_listener(out) as listener:
        bundle = run(settings, out, listener, resume=resume, start=begin)
    if World.of_environment().leads:
        say(f"The bundle is {bundle.folder}. Next: c3s3-seg export {bundle.folder} --to onnx")
