"""`c3s3-seg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands.console import need, say, show, shown
from c3s3_seg.commands.progress import ProgressReporter
from c3s3_seg.system.choices import BackendName, Device, MaskFormat, Precision, TilesOf, Weighting

LONGEST_TABLE = 200  # cases that a terminal shows one by one; summary.csv has them all


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
        MaskFormat, typer.Option(help="File format of the masks. The last three need DICOM input.")
    ] = "nii.gz",
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write each label's probability too, to OUT/probabilities."),
    ] = False,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Average all networks of the bundle.")] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Compare the networks: maps in OUT/uncertainty, uncertain cases flagged."
        ),
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Draw each case with its contour as PNG.")
    ] = False,
    secondary_capture: Annotated[
        bool,
        typer.Option(
            "--secondary-capture", help="Write that picture as DICOM Secondary Capture. Needs DICOM input."
        ),
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
        bool,
        typer.Option(
            "--html", help="Write an HTML report of each case: one file, with an interactive 3D surface."
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime, per worker.")] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Of the network; auto: float32 on a CPU, float16 in torch on CUDA.")
    ] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(help="What the process may take, such as 2GB: the tiles are the largest that fit."),
    ] = None,
    stride: Annotated[
        str | None, typer.Option(help="X,Y,Z voxels from tile to tile, in place of an overlap.")
    ] = None,
    blend: Annotated[Weighting, typer.Option(help="How overlapping tiles are averaged.")] = "constant",
    mirroring: Annotated[
        str, typer.Option(help="Average over mirrored views along these axes, such as xy.")
    ] = "",
    protocol: Annotated[
        TilesOf | None,
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
    workers: Annotated[
        int, typer.Option(min=0, help="Processes with a model each. 0: no process but this one.")
    ] = 0,
    cluster: Annotated[
        str | None,
        typer.Option(help="Do the cases on a Dask cluster: local, tcp://HOST:PORT or tls://HOST:PORT."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Only this share: 2/8; auto in a SLURM array; auto/8 in a Kubernetes job."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many unfinished cases.")] = None,
    case_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a case may take: one that takes longer fails, the others go on. Default: any.",
            metavar="SECONDS",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try cases again that failed before.")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="The same bytes in a second run: one thread, no times in files."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON line on stdout for each case, no table.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Segment scans: each becomes a mask in its own geometry, and a line in the table.

    The same command again goes on where the first one ended.
    """
    import os
    import sys
    from dataclasses import replace

    if html:
        need("plotly", extra="report")

    from c3s3_seg.batch import BatchPlan, Job, Model, predict_cases
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.inference import BackendRequest, Settings
    from c3s3_seg.inference.settings import parse_axes, parse_stride, published
    from c3s3_seg.inference.tuning.profile import existing_profile
    from c3s3_seg.io.reading import Reading, fixes
    from c3s3_seg.report.terminal import prediction_table
    from c3s3_seg.system.hardware import parse_memory
    from c3s3_seg.system.shard import parse_shard

    bundle = ModelBundle.find(model)
    request = BackendRequest(backend, device, precision, threads)
    settings = Settings(
        overlap,
        probabilities,
        uncertainty=uncertainty,
        stride=None if stride is None else parse_stride(stride),
        weighting=blend,
        mirroring=parse_axes(mirroring),
        memory_bytes=None if memory is None else parse_memory(memory),
        keep_largest=keep_largest,
        fill_holes=fill_holes,
        min_volume_ml=min_volume,
        profile=existing_profile(os.environ),
    )
    if protocol == "paper":
        settings, ensemble = published(settings), True
    how = Model(bundle.folder.resolve(), request, settings, ensemble, deterministic)
    job = Job(
        out,
        format,
        truth,
        preview,
        html=html,
        secondary_capture=secondary_capture,
        deterministic=deterministic,
        reading=Reading(series, fixes(fix or []), bundle.task.series),
        roi=roi,
        allow_out_of_domain=force,
    )
    share = parse_shard(shard, os.environ) if shard is not None else None
    plan = BatchPlan(workers, share, limit, retry_failed, cluster, tuple(sys.argv), case_timeout)
    with ProgressReporter(as_json=as_json, quiet=quiet) as report:
        result = predict_cases(inputs, how, job, report, plan, report.part)
    if not (as_json or quiet):
        rows = result.rows if len(result.rows) <= LONGEST_TABLE else ()
        failures = [replace(f, reason=shown(f.reason, sys.stdout)) for f in result.failures]
        show(prediction_table(rows, failures))
        for row in rows:
            for note in row.notes:
                say(f"{row.case}: {note}.")
        if result.stopped:
            say(f"Stopped: {result.stopped}")
            say(f"{len(result.undone)} cases were not done; the same command does them.")
        done = f"{len(result.rows)} masks" if not rows and result.rows else "Masks"
        say(f"{done}, JSON and summary.csv are in {out}. Research use only.")
    empty = sum(row.empty for row in result.rows)
    if empty and not as_json:
        say(f"Nothing was found in {empty} of {len(result.rows)} scans: their masks are empty.", err=True)
    if result.failures or empty:
        raise typer.Exit(1)
