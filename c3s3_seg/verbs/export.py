"""`c3s3-seg export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from c3s3_seg.verbs.terminal import need

ExportTarget = Literal["onnx"]


def export(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder.")],
    to: Annotated[ExportTarget, typer.Option("--to", help="The format.")] = "onnx",
    check: Annotated[
        list[Path] | None,
        typer.Option(
            help="Scans to compare on. Default: a validation case of the training data, else a phantom."
        ),
    ] = None,
) -> None:
    """Write the networks as graphs that run without torch, after comparing them with torch."""
    need("torch", "onnx", "onnxscript")
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.export.parity import check_scans, export_onnx

    found = ModelBundle.find(bundle)
    scans, what = check_scans(found, check or [])
    exported, proofs = export_onnx(found, scans)
    for name, proof in proofs.items():
        typer.echo(f"{exported.folder / name}: agrees with torch on {what}: {proof}.")
