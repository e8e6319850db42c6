"""`c3s3-seg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from c3s3_seg.verbs.terminal import Status, need, show

BackendName = Literal["auto", "openvino", "onnx", "torch"]
ImageFormat = Literal["nii.gz", "nrrd", "mha", "dicom-seg", "dicom-labelmap", "rtstruct"]


def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Image files, DICOM folders, or folders of cases.", metavar="INPUT..."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for masks, JSON files and summary.csv.")],
    model: Annotated[
        str, typer.Option(help="A shipped bundle's name, or a bundle's folder.")
    ] = "left-atrium",
    backend: Annotated[BackendName, typer.Option(help="Runtime; auto takes the fastest installed.")] = "auto",
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.95,
            help="Tiles of the training size that share this part of a side. Default: as the bundle says.",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="A mask, or a folder of masks, to score against.")
    ] = None,
    format: Annotated[
        ImageFormat, typer.Option(help="File format of the masks. The last three need DICOM input.")
    ] = "nii.gz",
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write each label's probability too, to OUT/probabilities."),
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average both networks of the bundle.")
    ] = False,
    picture: Annotated[
        bool, typer.Option("--picture", help="Draw each case with its contour as PNG.")
    ] = False,
    series: Annotated[
        str | None,
        typer.Option(help="Which DICOM series of a folder: its number in `c3s3-seg inspect`, or its UID."),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(help="Repair what is refused otherwise: gaps, tilt, orthonormal. May be repeated."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Segment scans unlike those in training, too; it is recorded.")
    ] = False,
    roi: Annotated[
        str | None,
        typer.Option(help="Where to look: x0:x1,y0:y1,z0:z1 in voxels, or in mm (LPS) with mm behind."),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write each case as a page too: one file, a surface that turns.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")] = None,
) -> None:
    """Segment scans: each becomes a mask in its own geometry, and a line in the table."""
    if html:
        need("plotly", extra="report")
    from c3s3_seg.batch import Job, origin, predict_cases
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.inference import Settings, open_predictor
    from c3s3_seg.inference.careful import Care
    from c3s3_seg.io.choice import Reading, fixes
    from c3s3_seg.report.terminal import prediction_table

    bundle = ModelBundle.find(model)
    settings = Settings(overlap, probabilities)
    predictor = open_predictor(bundle, backend=backend, settings=settings, ensemble=ensemble, threads=threads)
    reading = Reading(series, fixes(fix or []), bundle.task.series)
    job = Job(out, format, truth, picture, origin(bundle, predictor), reading, Care(force, roi), html)
    with Status() as tell:
        result = predict_cases(
            inputs, predictor, job, lambda case, n, total: tell(f"{case} ({n} of {total})")
        )
    show(prediction_table(result.rows, result.failures))
    typer.echo(f"Masks, JSON and summary.csv are in {out}. Research use only.")
    if result.failures:
        raise typer.Exit(1)
