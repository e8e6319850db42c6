"""`c3s3-seg study`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import need, say, show


def study(
    config: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML file: base, seeds, reference, entries.")
    ],
    out: Annotated[Path, options.out("Folder for the runs, their records and study.md.")],
    set_: options.Overrides = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Only this share of the runs; auto in a SLURM array. Shares may run at the same time.",
            rich_help_panel=options.BATCH,
        ),
    ] = "1/1",
) -> None:
    """Train and score several methods and seeds. The same command resumes."""
    need("torch", "safetensors", "tensorboard")
    from c3s3_seg.report.study_table import study_markdown, study_rows
    from c3s3_seg.report.terminal import study_table
    from c3s3_seg.system.files import write_whole
    from c3s3_seg.system.ownership import check_output
    from c3s3_seg.system.shard import parse_shard
    from c3s3_seg.training.study import finished, load_study, run_study

    check_output(out, ["study.md"])
    what, plans = load_study(config, set_ or [])
    mine = parse_shard(shard, os.environ).of(plans)
    run_study(mine, out, _report)
    done = finished(plans, out)
    rows = study_rows(done, what.reference)
    write_whole(out / "study.md", study_markdown(rows, what.reference).encode())
    show(study_table(rows, what.reference))
    say(f"{len(done)} of {len(plans)} runs are finished; the table is also in {out / 'study.md'}.")


def _report(what: str, done: int = 0, total: int = 0) -> None:
    del done, total
    say(f"training {what}", err=True)
