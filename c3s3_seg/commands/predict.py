"""`c3s3-seg predict`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import if_stopped
from c3s3_seg.commands.events import Events
from c3s3_seg.commands.option_defaults import command_line
from c3s3_seg.commands.options import BATCH, HARDWARE, INPUT, MESSAGES, NETWORK, OUTPUT
from c3s3_seg.commands.predict_output import (
    print_cases,
    print_result,
    report_files,
    report_new_failures,
    warn_of_empty,
)
from c3s3_seg.commands.progress import ProgressReporter, add_others
from c3s3_seg.system.choices import DEVICES, MaskFormat, ReportFile, TilingPreset

if TYPE_CHECKING:
    from c3s3_seg.inference import Settings


def predict(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Image files, DICOM folders, or folders of cases.", metavar="INPUT"),
    ],
    out: Annotated[Path, options.out("Folder for masks, JSON files and summary.csv.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help=options.MODEL_HELP,
            rich_help_panel=NETWORK,
            autocompletion=options.model_names,
        ),
    ] = "left-atrium",
    format: Annotated[
        MaskFormat,
        typer.Option(
            metavar=options.one_of(MaskFormat),
            help="File format of the masks. The last three need DICOM input.",
            rich_help_panel=OUTPUT,
        ),
    ] = "nii.gz",
    report: Annotated[
        list[str] | None,
        typer.Option(
            metavar="png,html,sc",
            help="More files for each case: a preview with contours (png), an HTML report with a 3D surface"
            " (html), the preview as DICOM Secondary Capture (sc; needs DICOM input); or none.",
            rich_help_panel=OUTPUT,
            autocompletion=options.some_words(get_args(ReportFile), alone="none"),
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write the probability of each label to OUT/probabilities.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Reference mask, or a folder of them, to score against.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble",
            help="Average all networks of the model, those of a linked bundle included.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    tta: Annotated[
        str,
        typer.Option(
            metavar="AXES",
            help="Test-time augmentation: average over mirrored views along these axes, such as xy.",
            rich_help_panel=NETWORK,
        ),
    ] = "",
    tiling: Annotated[
        TilingPreset,
        typer.Option(
            metavar=options.one_of(TilingPreset),
            help="default: as the bundle says. accurate: tiles overlap by half, Gaussian weights. whole: the"
            " whole volume at once (faster). paper: the tiles of the published evaluations, both networks.",
            rich_help_panel=NETWORK,
        ),
    ] = "default",
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty/--no-uncertainty",
            help="Compare the networks: maps in OUT/uncertainty, and a flag on uncertain cases.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Rare settings: tiling.overlap, .stride, .weighting; postprocess.keep_largest,"
            " .min_volume_ml, .fill_holes; batch.limit; network.on_device, .channels_last, .cuda_graphs."
            " May be repeated.",
            rich_help_panel=NETWORK,
            autocompletion=options.rare_keys,
        ),
    ] = None,
    series: options.Series = None,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="BOX",
            help="Region of interest: x0:x1,y0:y1,z0:z1 in voxels, or in mm (LPS) with mm at the end.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    repair: options.Repair = None,
    allow_out_of_domain: Annotated[
        bool,
        typer.Option(
            "--allow-out-of-domain",
            help="Segment scans that the domain check refuses. The JSON records it.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    backend: options.Backend = "auto",
    device: Annotated[
        str,
        typer.Option(
            metavar=DEVICES,
            help="Where the network runs.",
            rich_help_panel=HARDWARE,
            autocompletion=options.one_word(("auto", "cpu", "cuda")),
        ),
    ] = "auto",
    precision: options.NetworkPrecision = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="NUMBER", help="CPU threads of each worker.", rich_help_panel=HARDWARE),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of all workers together, such as 2GB. The tiles are the largest that fit; with an"
            " overlap (of the bundle or --set) they keep the size of training.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Processes with a model each. 0: only this process.",
            rich_help_panel=BATCH,
        ),
    ] = 0,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only this share of the cases; auto in a SLURM array; auto/8 in a Kubernetes job.",
            rich_help_panel=BATCH,
            autocompletion=options.one_word(("auto",)),
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Use a Dask cluster: local, tcp://HOST:PORT or tls://HOST:PORT.",
            rich_help_panel=BATCH,
            autocompletion=options.one_word(("local",)),
        ),
    ] = None,
    case_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="A case that takes longer fails, and the batch continues. Default: no limit.",
            rich_help_panel=BATCH,
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Retry cases that failed before.", rich_help_panel=BATCH),
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Write the same bytes in a second run: one thread, no times in files.",
            rich_help_panel=BATCH,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the cases and their output files; write nothing.", rich_help_panel=BATCH
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print a JSON line for each event in place of the table.", rich_help_panel=MESSAGES
        ),
    ] = False,
    log_file: options.LogFile = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Segment scans. Each mask lies on the grid of its scan.

    The same command resumes a batch that was interrupted.
    """
    from c3s3_seg.batch import BatchPlan, Job, Model, predict_cases
    from c3s3_seg.batch.gather import refuse_other_count
    from c3s3_seg.batch.overrides import PredictKeys
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.geometry.box import match_box
    from c3s3_seg.inference import BackendRequest
    from c3s3_seg.io.reading import Reading, parse_series, repairs
    from c3s3_seg.system.shard import parse_shard

    # Opened before the options are parsed: whoever waits for the end event gets one in any case.
    with Events(as_json=as_json and not dry_run, log_file=None if dry_run else log_file) as events:
        reporter = ProgressReporter(events, quiet=quiet, verbose=verbose)
        files = report_files(report or [])
        if roi is not None:
            match_box(roi)  # checked here, else every case would fail
        bundle = ModelBundle.find(model)
        keys = PredictKeys.parse(set_ or [])
        request = keys.request(BackendRequest(backend, device, precision, threads))
        settings = replace(_settings(tta, max_memory), probabilities=probabilities, uncertainty=uncertainty)
        settings = keys.settings(settings, tiling)
        to_open = Model(
            bundle.folder.resolve(),
            request,
            settings,
            ensemble=ensemble or tiling == "paper",
            deterministic=deterministic,
        )
        job = Job(
            out,
            suffix=format,
            truth=truth,
            preview="png" in files,
            html="html" in files,
            secondary_capture="sc" in files,
            deterministic=deterministic,
            reading=Reading(
                parse_series(series),
                repairs(repair or []),
                bundle.task.series if allow_out_of_domain else bundle.task.series_rule,
            ),
            roi=roi,
            allow_out_of_domain=allow_out_of_domain,
        )
        share = parse_shard(shard, os.environ) if shard is not None else None
        if share is not None and shard == "auto":
            refuse_other_count(out, share)
        plan = BatchPlan(
            workers,
            shard=share,
            limit=keys.batch.limit,
            retry_failed=retry_failed,
            cluster=cluster,
            command=command_line(ctx),
            case_timeout_s=case_timeout,
        )
        if dry_run:
            print_cases(inputs, job, plan, bundle.manifest.files, as_json=as_json)
            return
        with if_stopped(), reporter as progress:
            result = predict_cases(inputs, to_open, job, progress, plan, progress.part)
        add_others(events, result.others)
        events.exit_code = int(result.new_failures > 0 or result.counts.empty > 0)
    if not (as_json or quiet):
        print_result(result, out, share)
    if quiet and not as_json:
        report_new_failures(result)
    if not as_json:
        warn_of_empty(result)
    if events.exit_code:
        raise typer.Exit(events.exit_code)


def _settings(tta: str, max_memory: str | None) -> Settings:
    """Return the default settings of inference on this machine, with these options.

    Raises
    ------
    InputError
        If an option cannot be parsed.
    """
    from c3s3_seg.inference import Settings
    from c3s3_seg.inference.settings import parse_axes
    from c3s3_seg.inference.tuning.profile import existing_profile
    from c3s3_seg.system.memory import parse_memory

    memory_bytes = None if max_memory is None else parse_memory(max_memory)
    return Settings(
        mirroring=parse_axes(tta), memory_bytes=memory_bytes, profile=existing_profile(os.environ)
    )
