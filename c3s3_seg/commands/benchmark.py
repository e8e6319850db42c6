"""`c3s3-seg benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import Status, say, show
from c3s3_seg.system.choices import CpuRuntime


def benchmark(
    model: options.Model = "left-atrium",
    backend: Annotated[
        CpuRuntime | None,
        typer.Option(
            metavar=options.one_of(CpuRuntime),
            help="Measure only this runtime. Default: all that are installed.",
            rich_help_panel=options.HARDWARE,
        ),
    ] = None,
    write_profile: Annotated[
        bool,
        typer.Option(
            "--write-profile",
            help="Store the result, so that predict uses it.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
) -> None:
    """Measure runtimes, threads and tile sizes on this machine."""
    import os

    from rich.table import Table

    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.errors import InputError
    from c3s3_seg.inference.tuning import profile
    from c3s3_seg.inference.tuning.benchmark import RUNTIMES, survey
    from c3s3_seg.system.files import check_output_file
    from c3s3_seg.system.ownership import check_place

    found = ModelBundle.find(model)
    path = profile.profile_path(os.environ)
    if write_profile and path is None:
        what = f"there is no home to keep a profile in, and {profile.VARIABLE} is not set"
        raise InputError(what, todo=f"Set {profile.VARIABLE} to a file")
    if write_profile and path is not None:
        check_output_file(path)
        check_place(path, ours=_is_profile(path))
    with Status() as report:
        result = survey(found, report, RUNTIMES if backend is None else (backend,))
    table = Table(
        "Runtime", "Threads", "Tile", "s", "s / Mvoxel", "GFLOP/s", "of a matrix product", "Peak (MB)"
    )
    for row in result.found:
        table.add_row(
            row.runtime,
            str(row.threads or "all"),
            " x ".join(map(str, row.tile)),
            f"{row.seconds:.2f}",
            f"{row.seconds / row.voxels * 1e6:.2f}",
            f"{row.gflop_s:.0f}",
            f"{row.gflop_s / row.matrix_gflop_s:.2f}",
            f"{row.peak_bytes / 1e6:.0f}",
        )
    show(table)
    for name, why in result.failed:
        say(f"{name}: {why}")
    best = result.best()
    say(f"Fastest: {best.runtime} with {best.threads} threads.")
    if write_profile and path is not None:
        profile.write_profile(path, found.networks[0], best)
        say(f"Written to {path}; predict uses it from now on, unless it is told otherwise.")


def _is_profile(path: Path) -> bool:
    """Return whether a file is a profile, of any version and machine: no other file is replaced."""
    from c3s3_seg.errors import InputError
    from c3s3_seg.system.reading import read_json

    try:
        content = read_json(path)
    except InputError:
        return False
    return isinstance(content, dict) and {"machine", "networks"} <= set(content)
