"""`c3s3-seg phantom`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import say
from c3s3_seg.commands.option_defaults import refuse_beside
from c3s3_seg.system.choices import PhantomFormat, PhantomModality, TruthFormat

PATIENTS = "Patients"


def phantom(
    ctx: typer.Context,
    out: Annotated[Path, options.out("Folder to write to.")],
    format: Annotated[
        PhantomFormat,
        typer.Option(
            metavar=options.one_of(PhantomFormat),
            help="File format of the scan.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = "dicom",
    truth: Annotated[
        TruthFormat,
        typer.Option(
            metavar=options.one_of(TruthFormat),
            help="File format of the true mask. A DICOM mask is written beside the scan's slices.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = "nii.gz",
    seed: Annotated[
        int,
        typer.Option(
            min=0, metavar="NUMBER", help="Each number is another patient.", rich_help_panel=PATIENTS
        ),
    ] = 0,
    count: Annotated[
        int,
        typer.Option(min=1, metavar="NUMBER", help="Patients; the seed counts up.", rich_help_panel=PATIENTS),
    ] = 1,
    modality: Annotated[
        PhantomModality,
        typer.Option(
            metavar=options.one_of(PhantomModality),
            help="Late-gadolinium MRI, or contrast-enhanced CT in Hounsfield units (no DICOM).",
            rich_help_panel=PATIENTS,
        ),
    ] = "MR",
    cohort: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,N",
            help="Write a training set (NIfTI): numbers of labelled, unlabelled and validation cases.",
            rich_help_panel=PATIENTS,
        ),
    ] = None,
) -> None:
    """Simulate a scan of the heart with a known left atrium."""
    from c3s3_seg.phantom import parse_cohort, save, simulate, write_cohort
    from c3s3_seg.phantom.write import check_places

    if cohort is not None:
        refuse_beside(ctx, "--cohort", ("format", "truth", "count"))
        labelled, unlabelled, validation = parse_cohort(cohort)
        index = write_cohort(
            out,
            labelled=labelled,
            unlabelled=unlabelled,
            validation=validation,
            seed=seed,
            modality=modality,
        )
        say(f"data set: {index}")
        return
    check_places(out, range(seed, seed + count), format, truth)
    for number in range(seed, seed + count):
        simulated = simulate(number, modality=modality)
        scan, mask = save(simulated, out, seed=number, file_format=format, truth=truth)
        say(f"scan: {scan}")
        if mask is not None:
            say(f"truth: {mask}")
