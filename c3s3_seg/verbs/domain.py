"""`c3s3-seg domain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.verbs.terminal import Status, say


def domain(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder. Its manifest is written anew.")],
    data: Annotated[Path, typer.Argument(help="The data set that it was trained on.")],
) -> None:
    """Measure the training scans of a bundle, so that `predict` can say what is unlike them."""
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.files import check_folder
    from c3s3_seg.measure_domain import measure_data

    found = ModelBundle.find(bundle)
    check_folder(found.folder)
    with Status() as tell:
        measured = measure_data(found, data, tell)
    found.with_domain(measured)
    say(f"{found.folder}: {measured.scans} scans were measured; `predict` compares with them now.")
