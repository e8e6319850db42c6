"""Remove what a killed run left in an output folder, and the folders that a run has emptied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from c3s3_seg.batch.case_files import FOLDERS
from c3s3_seg.batch.provenance import LEFT_BEHIND
from c3s3_seg.system.files import remove_partial


@contextmanager
def swept(out: Path) -> Iterator[None]:
    """Remove unfinished files before and after the block, and then folders that became empty in it.

    Only the process that holds the folder may use this, and no share of a batch, since the other shares
    write their own.
    """
    empty = _empty_folders(out)
    _sweep(out)
    try:
        yield
    finally:
        _sweep(out)
        for place in _empty_folders(out) - empty:  # their files went with the cases
            with suppress(OSError):
                place.rmdir()


def _sweep(out: Path) -> None:
    """Remove unfinished files of a killed run; the output folder itself may be a link."""
    remove_partial(Path(os.path.realpath(out)), LEFT_BEHIND)
    for name in FOLDERS:
        remove_partial(out / name, LEFT_BEHIND)


def _empty_folders(out: Path) -> set[Path]:
    """Return the empty folders with names that this package uses; links are not followed."""
    empty = set()
    for place in (out / name for name in FOLDERS):
        with suppress(OSError):
            if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
                empty.add(place)
    return empty
