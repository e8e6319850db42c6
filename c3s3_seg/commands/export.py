"""`c3s3-seg export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands.console import need, say
from c3s3_seg.system.choices import ExportPrecision, ExportTarget


def export(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or a shipped bundle's name.")],
    to: Annotated[ExportTarget, typer.Option("--to", help="The format.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Folder for an export that stands alone. Without it: the bundle's own ONNX graph.",
        ),
    ] = None,
    precision: Annotated[
        ExportPrecision, typer.Option(help="Of the arithmetic; input and output are fp32 in both.")
    ] = "fp32",
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Patches in one call: fixed, for TensorRT the most. Default: free."),
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option("--ensemble", help="All networks in one file, averaged; a linked bundle's too."),
    ] = False,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            help="Scans to compare on. Default: a validation case of the training data, else a phantom."
        ),
    ] = None,
) -> None:
    """Write the networks so that they run without torch, after comparing masks and boundaries with torch."""
    need("torch", "onnx", "onnxscript")
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.errors import InputError
    from c3s3_seg.export.compare import check_scans
    from c3s3_seg.export.export import check_output, export_folder, export_in_bundle
    from c3s3_seg.export.spec import GraphSpec

    found, spec = ModelBundle.find(bundle), GraphSpec(precision, batch, ensemble)
    if out is None and (to != "onnx" or spec != GraphSpec()):
        raise InputError("this export stands alone and needs a folder", todo="Give one with -o")
    check_output(found, to, spec, out)
    scans, what = check_scans(found, check or [])
    if out is None:
        exported, graphs = export_in_bundle(found, scans)
        proofs = {exported.folder / name: proof for name, proof in graphs.items()}
    else:
        path, proof = export_folder(found, to, spec, out, scans)
        proofs = {path: proof}
    for path, proof in proofs.items():
        say(f"{path}: agrees with torch on {what}: {proof}.")
