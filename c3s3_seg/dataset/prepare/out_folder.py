"""Manage a data set's folder during a run: set its index aside, and remove files that are not in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from c3s3_seg.dataset.index import IMAGES, INDEX, MASKS, TEST_FOLDERS, CaseRecord, DataSet
from c3s3_seg.dataset.prepare.convert import COMING, RECORDS, STATE, SUFFIX, ConvertJob
from c3s3_seg.errors import InputError, quantity
from c3s3_seg.system.files import make_own_folder
from c3s3_seg.system.reading import sha256

# The name that `io.save` gives a file until it is whole.
HALF_WRITTEN = re.compile(rf"\.[0-9a-f]{{12}}{re.escape(SUFFIX)}")


def spare_others(out: Path, work: list[ConvertJob]) -> None:
    """Raise if files to be written exist in a folder where `prepare` has not run: they are another's."""
    if (out / INDEX).is_file() or (out / STATE).is_dir():
        return
    theirs = [path for item in work for path in (item.image, item.label) if os.path.lexists(path)]
    if theirs:
        what = f"found {quantity(len(theirs), 'file')} that `prepare` did not write, such as {theirs[0].name}"
        raise InputError(what, where=theirs[0].parent, todo="Give another folder with -o")


def set_aside(out: Path) -> None:
    """Set the index aside while files change: a reader must never find an index that does not fit them."""
    make_own_folder(out / STATE)
    for name in (RECORDS, COMING):
        make_own_folder(out / STATE / name)
    if (out / INDEX).is_file():
        (out / INDEX).replace(out / STATE / INDEX)


def put_back(out: Path) -> None:
    """Restore the index of an earlier run if its files are unchanged, after a run that made no case."""
    state = out / STATE
    if not (state / INDEX).is_file():
        return
    data = replace(DataSet.load(state), folder=out)
    for case, record in data.records.items():
        for key, kind in (("image", IMAGES), ("label", MASKS)):
            path = data.place(kind, case) / f"{case}{SUFFIX}"
            if key in record.sha256 and not (path.is_file() and sha256(path) == record.sha256[key]):
                return
    (state / INDEX).replace(out / INDEX)
    shutil.rmtree(state)


def clear(data: DataSet, dropped: Mapping[str, CaseRecord]) -> None:
    """Remove the files of cases that are in no split, and files that a killed run left half written."""
    for key, kind in (("image", IMAGES), ("label", MASKS)):
        for case, record in dropped.items():
            _remove(data.place(kind, case) / f"{case}{SUFFIX}", record.sha256.get(key))
        for folder in (kind, TEST_FOLDERS[kind]):
            for path in (data.folder / folder).glob(f".*{SUFFIX}"):
                if HALF_WRITTEN.fullmatch(path.name):  # `.scan.nii.gz` is a user's file
                    path.unlink(missing_ok=True)


def clear_moved(data: DataSet, earlier: Mapping[str, CaseRecord]) -> None:
    """Remove the old files of a case that has moved into or out of the test split since an earlier run.

    Otherwise a test on all of `imagesTs` would include a case that is trained on.
    """
    for case in data.records.keys() & earlier.keys():
        for key, kind in (("image", IMAGES), ("label", MASKS)):
            folder = kind if case in data.splits.test else TEST_FOLDERS[kind]
            _remove(data.folder / folder / f"{case}{SUFFIX}", earlier[case].sha256.get(key))


def clear_left_out(data: DataSet, earlier: Mapping[str, CaseRecord], cases: set[str]) -> None:
    """Remove the files that an earlier run wrote of cases left out now, whose patients are held out.

    Otherwise they would lie among the scans to train on, and `check` would advise to list them.
    """
    for case in cases & earlier.keys():
        for key, kind in (("image", IMAGES), ("label", MASKS)):
            for folder in (kind, TEST_FOLDERS[kind]):
                _remove(data.folder / folder / f"{case}{SUFFIX}", earlier[case].sha256.get(key))


def unlisted(data: DataSet, earlier: Mapping[str, CaseRecord]) -> dict[str, CaseRecord]:
    """Return the earlier records of cases that are not in the index, but whose files are still there.

    Such a case was refused or left out, or its source is gone. Without its record, a later run could not
    tell a mask that was edited by hand from one that `prepare` wrote.
    """
    folders = [data.folder / name for kind in (IMAGES, MASKS) for name in (kind, TEST_FOLDERS[kind])]
    return {
        case: record
        for case, record in earlier.items()
        if case not in data.records and any((f / f"{case}{SUFFIX}").is_file() for f in folders)
    }


def _remove(path: Path, recorded: str | None) -> None:
    """Remove a file that an earlier run wrote, unless somebody has changed it since."""
    if path.is_file() and sha256(path) == recorded:
        path.unlink()
