"""`c3s3-seg phantom`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands.console import say
from c3s3_seg.system.choices import PhantomFormat, PhantomModality, TruthFormat


def phantom(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")],
    format: Annotated[PhantomFormat, typer.Option(help="File format of the scan.")] = "dicom",
    seed: Annotated[int, typer.Option(min=0, help="Another number is another patient.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many patients; the seed counts up.")] = 1,
    truth: Annotated[
        TruthFormat, typer.Option(help="How the true mask is written; DICOM: among the scan's slices.")
    ] = "nii.gz",
    cohort: Annotated[
        str | None,
        typer.Option(help="Write a training set instead: LABELLED,UNLABELLED,VALIDATION cases."),
    ] = None,
    modality: Annotated[
        PhantomModality,
        typer.Option(help="Late-gadolinium MRI, or contrast-enhanced CT in Hounsfield units (no DICOM)."),
    ] = "MR",
) -> None:
    """Simulate a scan of the heart with a known left atrium."""
    from c3s3_seg.phantom import parse_cohort, save, simulate, write_cohort
    from c3s3_seg.phantom.write import check_places

    if cohort is not None:
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
        scan, answer = save(simulated, out, seed=number, file_format=format, truth=truth)
        say(f"scan: {scan}")
        if answer is not None:
            say(f"truth: {answer}")
