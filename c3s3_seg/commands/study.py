"""`c3s3-seg study`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import if_stopped, need, say, show
from c3s3_seg.errors import quantity


def study(
    config: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML file: base, seeds, reference, entries.")
    ],
    out: Annotated[Path, options.out("Folder for the runs, their records, study.md and study.html.")],
    set_: options.Overrides = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Only this share of the runs; auto in a SLURM array. Shares may run at the same time.",
            rich_help_panel=options.BATCH,
        ),
    ] = "1/1",
    allow_mixed: Annotated[
        bool,
        typer.Option(
            "--allow-mixed",
            help="Compare runs of several machines, precisions or code versions. The tables say so.",
            rich_help_panel=options.BATCH,
        ),
    ] = False,
) -> None:
    """Train and score several methods and seeds. The same command resumes.

    Exit code 1: a run diverged; the tables have the others.
    """
    need("torch", "safetensors", "tensorboard")
    from c3s3_seg.report.study_page import write_study_page
    from c3s3_seg.report.study_table import mixture, study_rows
    from c3s3_seg.report.study_words import study_markdown
    from c3s3_seg.report.terminal import difference_table, study_table
    from c3s3_seg.system.files import write_whole
    from c3s3_seg.system.ownership import check_output
    from c3s3_seg.system.shard import parse_shard
    from c3s3_seg.training.studies.plan import load_study
    from c3s3_seg.training.studies.run import (
        check_conditions,
        finished,
        refuse_mixture,
        refuse_several_cases,
        run_study,
    )

    check_output(out, ["study.md", "study.html"])
    what, plans = load_study(config, set_ or [])
    refuse_several_cases(plans, out)
    if not allow_mixed:
        check_conditions(plans, out)
    with if_stopped():
        diverged = run_study(parse_shard(shard, os.environ).of(plans), out, _report)
    refuse_several_cases(plans, out)  # other shares may have written records meanwhile
    done = finished(plans, out)
    if not allow_mixed:
        refuse_mixture(done, out)
    if not done:
        _refuse_diverged(diverged, out)
    rows_of, mixed = {reference: study_rows(done, reference) for reference in what.reference}, mixture(done)
    write_whole(out / "study.md", study_markdown(rows_of, mixed).encode())
    write_study_page(out / "study.html", config.stem, list(rows_of), done)
    for number, (reference, rows) in enumerate(rows_of.items()):
        show(difference_table(rows, reference) if number else study_table(rows, reference))
    for line in mixed:
        say(f"not the same conditions: {line}", err=True)
    say(f"Finished: {len(done)} of {quantity(len(plans), 'run')}; tables in {out / 'study.html'}.")
    _refuse_diverged(diverged, out)


def _refuse_diverged(names: list[str], out: Path) -> None:
    """Raise if runs diverged, which sets the exit code of the study.

    Raises
    ------
    RefusedError
        If a run diverged.
    """
    from c3s3_seg.errors import RefusedError
    from c3s3_seg.training.checkpoint import DIVERGED

    if names:
        todo = "Lower optimiser.lr of these entries; the same command begins them anew"
        todo += f" (the last checkpoint stays as {DIVERGED})"
        raise RefusedError(f"these runs diverged: {', '.join(names)}", where=out / "runs", todo=todo)


def _report(what: str, done: int = 0, total: int = 0) -> None:
    del done, total
    say(f"training {what}", err=True)
