"""`c3s3-seg export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import need, say
from c3s3_seg.system.choices import ExportPrecision, ExportTarget


def export(
    model: options.Model,
    to: Annotated[
        ExportTarget,
        typer.Option(
            "--to", metavar=options.one_of(ExportTarget), help="Format.", rich_help_panel=options.OUTPUT
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        options.out("Folder for an export that stands alone. Without it: the bundle's own ONNX graph."),
    ] = None,
    precision: Annotated[
        ExportPrecision,
        typer.Option(
            metavar=options.one_of(ExportPrecision),
            help="Precision of the network. Input and output are float32 in both.",
            rich_help_panel=options.NETWORK,
        ),
    ] = "float32",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            metavar="NUMBER",
            help="Patches in one call: fixed; for TensorRT the maximum. Default: free; 1 for TensorRT.",
            rich_help_panel=options.NETWORK,
        ),
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble",
            help="All networks averaged in one file, those of a linked bundle included.",
            rich_help_panel=options.NETWORK,
        ),
    ] = False,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="SCAN",
            help="Scan to compare on; may be repeated. Default: a validation case, else a phantom.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
) -> None:
    """Export a model to run without torch, and compare its masks with those of torch."""
    need("torch", "onnx", "onnxscript")
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.errors import InputError
    from c3s3_seg.export.compare import check_scans
    from c3s3_seg.export.export import check_output, export_folder, export_in_bundle
    from c3s3_seg.export.spec import GraphSpec

    spec = GraphSpec(precision, batch, ensemble)
    if out is None and (to != "onnx" or spec != GraphSpec()):
        raise InputError("this export stands alone and needs a folder", todo="Give one with -o")
    found = ModelBundle.find(model) if out is not None else ModelBundle.find_to_change(model)
    check_output(found, to, spec, out)
    scans, what = check_scans(found, check or [])
    if out is None:
        exported, graphs = export_in_bundle(found, scans)
        parities = {exported.folder / name: parity for name, parity in graphs.items()}
    else:
        path, parity = export_folder(found, to, spec, out, scans)
        parities = {path: parity}
    for path, parity in parities.items():
        say(f"{path}: agrees with torch on {what}: {parity}.")
