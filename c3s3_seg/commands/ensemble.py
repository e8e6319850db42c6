"""`c3s3-seg ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import command_of, need, say


def ensemble(
    bundles: Annotated[
        list[str],
        typer.Argument(help="Bundles of one task, such as the folds of a run.", metavar="MODEL"),
    ],
    out: Annotated[Path, options.out("Folder of the new bundle.")],
) -> None:
    """Combine the primary networks of several models, which predict --ensemble averages."""
    need("torch", "safetensors")
    from c3s3_seg.bundle import MANIFEST, ModelBundle
    from c3s3_seg.errors import InputError, quantity
    from c3s3_seg.system.files import check_folder
    from c3s3_seg.training.bundles.ensemble import make_ensemble

    check_folder(out)
    if (out / MANIFEST).exists():
        raise InputError("holds a bundle already", where=out, todo="Give another folder")
    made = make_ensemble([ModelBundle.find(name) for name in bundles], out)
    means = made.manifest.training["cross_validated"]
    selected = any(one["training"].get("kept") == "best" for one in made.manifest.training["ensemble"])
    remark = " (optimistic: it selected the weights)" if selected else ""
    found = f"cross-validated Dice {means['dice']['mean']:.3f}{remark}; " if means else ""
    following = command_of("export", made.folder)
    say(f"{made.folder}: {quantity(len(made.networks), 'network')}; {found}next: {following}")
