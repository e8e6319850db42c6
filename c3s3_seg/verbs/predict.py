"""`c3s3-seg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from c3s3_seg.verbs.terminal import Status, show

BackendName = Literal["auto", "openvino", "onnx", "torch"]
DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "float32", "float16", "bfloat16"]
Blend = Literal["constant", "gaussian"]
Published = Literal["paper"]
ImageFormat = Literal["nii.gz", "nrrd", "mha"]


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
    format: Annotated[ImageFormat, typer.Option(help="File format of the masks.")] = "nii.gz",
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write each label's probability too, to OUT/probabilities."),
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average both networks of the bundle.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Compare both networks: maps in OUT/uncertainty, doubtful cases flagged."
        ),
    ] = False,
    picture: Annotated[
        bool, typer.Option("--picture", help="Draw each case with its contour as PNG.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where the network runs.")] = "auto",
    precision: Annotated[
        PrecisionName, typer.Option(help="Of the network; auto: float32 on a CPU, float16 in torch on CUDA.")
    ] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(help="What the process may take, such as 2GB: the tiles are the largest that fit."),
    ] = None,
    stride: Annotated[
        str | None, typer.Option(help="X,Y,Z voxels from tile to tile, in place of an overlap.")
    ] = None,
    blend: Annotated[Blend, typer.Option(help="How overlapping tiles are averaged.")] = "constant",
    flips: Annotated[
        str, typer.Option(help="Average over mirrored views along these axes, such as xy.")
    ] = "",
    protocol: Annotated[
        Published | None,
        typer.Option(help="paper: the published evaluation's tiles (stride 18,18,4) and both networks."),
    ] = None,
    keep_largest: Annotated[
        bool | None,
        typer.Option("--keep-largest/--keep-all", help="Components. Default: as the bundle says."),
    ] = None,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Fill what a label encloses.")] = False,
    min_volume: Annotated[
        float, typer.Option(min=0.0, help="Drop components below this volume in ml.")
    ] = 0.0,
) -> None:
    """Segment scans: each becomes a mask in its own geometry, and a line in the table."""
    import os

    from c3s3_seg.batch import Job, origin, predict_cases
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.inference import Settings, open_predictor
    from c3s3_seg.inference.hardware import parse_memory
    from c3s3_seg.inference.profile import existing_profile
    from c3s3_seg.inference.settings import parse_flips, parse_stride, published
    from c3s3_seg.report.terminal import prediction_table

    bundle = ModelBundle.find(model)
    settings = Settings(
        overlap,
        probabilities,
        uncertainty=uncertainty,
        stride=None if stride is None else parse_stride(stride),
        weighting=blend,
        flips=parse_flips(flips),
        memory_bytes=None if memory is None else parse_memory(memory),
        keep_largest=keep_largest,
        fill_holes=fill_holes,
        min_volume_ml=min_volume,
        device=device,
        precision=precision,
        profile=existing_profile(os.environ),
    )
    if protocol == "paper":
        settings, ensemble = published(settings), True
    predictor = open_predictor(bundle, backend=backend, settings=settings, ensemble=ensemble, threads=threads)
    job = Job(out, format, truth, picture, origin(bundle, predictor))
    with Status() as tell:
        result = predict_cases(
            inputs, predictor, job, lambda case, n, total: tell(f"{case} ({n} of {total})")
        )
    show(prediction_table(result.rows, result.failures))
    for row in result.rows:
        for note in row.notes:
            typer.echo(f"{row.case}: {note}.")
    typer.echo(f"Masks, JSON and summary.csv are in {out}. Research use only.")
    if result.failures:
        raise typer.Exit(1)
