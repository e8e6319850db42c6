"""`c3s3-seg models`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import report_failures, say, show
from c3s3_seg.commands.option_defaults import refuse_beside
from c3s3_seg.system.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from c3s3_seg.bundle.catalogue import ModelSummary


def models(
    ctx: typer.Context,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="List the bundles below these folders too."),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Print the card of one model instead: its training data, settings, scores and terms.",
            autocompletion=options.model_names,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the models: what each needs, its labels and its scores on validation.

    Exit code 1: a bundle is damaged.
    """
    if card is not None:
        refuse_beside(ctx, "--card", ("folders", "as_json"))
        _show_card(card)
        return
    from c3s3_seg.bundle.catalogue import find_models, summarize
    from c3s3_seg.errors import C3S3Error
    from c3s3_seg.report.rows import Failure
    from c3s3_seg.system.schema import plain

    found, failures = [], []
    for name in find_models(folders or []):
        try:
            found.append(summarize(name))
        except C3S3Error as error:
            failures.append(Failure(name, error.told))
    if as_json:
        for model in found:
            say(json.dumps(plain(asdict(model))))
    else:
        show(_table(found))
        say(
            "Input: modality, spacing, field of view of the training scans. Dice, 95HD (voxels of the scan):"
            " on validation cases."
        )
        for model in found:
            if model.scores_of is not None:
                say(
                    f"{model.name} was trained on the validation cases too: its scores are those of"
                    f" {model.scores_of}, which was trained in the same way without them."
                )
    report_failures(failures, err=as_json)
    if failures:
        raise typer.Exit(1)


def _show_card(model: str) -> None:
    """Print the card of a model, laid out on a terminal, as it is in a pipe or a file."""
    from c3s3_seg.bundle import ModelBundle

    bundle = ModelBundle.find(model)
    lines = (bundle.card() or "This model has no card.").splitlines()
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.markdown import Markdown

        show(Markdown("\n".join(map(printable, lines)), hyperlinks=False))
    else:
        for line in lines:
            say(line)
    say(f"Folder: {bundle.folder}", err=True)  # stdout may go to a file


def _table(models: Sequence[ModelSummary]) -> Table:
    """Return a table with a row for each model: labels, input, scores, size."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from c3s3_seg.report.terminal import cell, name_width

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Model", overflow="fold", width=name_width(["Model", *(model.name for model in models)]))
    table.add_column("Labels", overflow="fold")
    table.add_column("Input", overflow="fold")
    for header in ("Dice", "95HD (voxel)", "MB"):
        table.add_column(header, justify="right", no_wrap=True)
    for model in models:
        scores = (_known(model.dice, 3), _known(model.hd95_vox, 2))
        texts = (model.name, ", ".join(model.labels), _input(model))
        table.add_row(*map(cell, (*texts, *scores, f"{model.size_bytes / 1e6:.1f}")))
    return table


def _input(model: ModelSummary) -> str:
    """Return modality, spacing, field of view: `MR, 0.6 mm, 92-145 x 82-99 x 55 mm`."""
    parts = [model.modality]
    if model.spacing_mm is not None and model.fov_mm is not None:
        parts += [f"{_ranges(model.spacing_mm, 1)} mm", f"{_ranges(model.fov_mm, 0)} mm"]
    return ", ".join(parts)


def _ranges(ranges: Sequence[tuple[float, float]], decimals: int) -> str:
    """Return ranges as `0.6 x 0.6 x 1-2`; a single one if all axes are alike."""
    texts = [[f"{value:.{decimals}f}" for value in pair] for pair in ranges]
    axes = [low if low == high else f"{low}-{high}" for low, high in texts]
    return axes[0] if len(set(axes)) == 1 else " x ".join(axes)


def _known(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
