"""Name the files of a case in the output folder; check, keep or remove files that exist already."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from c3s3_seg.batch.job import CaseTask, Job
from c3s3_seg.bundle import Task as ModelTask
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.inference.settings import Settings
from c3s3_seg.io.formats import REPAIRED_FOLDER, image_suffix_of, repaired_path
from c3s3_seg.io.hashes import scan_sha256
from c3s3_seg.system.files import check_name, refuse_link
from c3s3_seg.system.names import absolute
from c3s3_seg.system.ownership import FILES, TODO, check_place, is_ours, read_case, remove_ours
from c3s3_seg.system.reading import sha256

PROBABILITIES = "probabilities"  # a folder, so that `evaluate` does not take the maps for masks
UNCERTAINTY = "uncertainty"
FOLDERS = (PROBABILITIES, UNCERTAINTY, REPAIRED_FOLDER)
MARKED = (".json", ".html", ".png")  # types whose content states that this package wrote them
PICTURES = (*MARKED, ".sc.dcm")  # files that can be made from a mask and its scan
EARLIER = 32  # hashes of replaced files that are recorded per case


@dataclass(frozen=True)
class RequestedMaps:
    """The maps that each case writes because of the model's settings, beside the files of the job.

    Parameters
    ----------
    labels
        Names of the model's labels.
    probabilities, uncertainty
        Whether probability maps of these labels and an uncertainty map are written.
    """

    labels: tuple[str, ...] = ()
    probabilities: bool = False
    uncertainty: bool = False

    @classmethod
    def of(cls, task: ModelTask, settings: Settings) -> RequestedMaps:
        """Return the maps that a model of this task writes with these settings."""
        return cls(tuple(task.label_values), settings.probabilities, settings.uncertainty)


def file_names(job: Job, case: str, maps: RequestedMaps) -> list[str]:
    """Return all files that a case may write, relative to the output folder: mask first, JSON last."""
    image = image_suffix_of(job.suffix)
    names = [job.mask_of(case).name]
    names += [str(repaired_path(Path(), case, job.suffix))] if job.reading.repair else []
    names += [f"{PROBABILITIES}/{case}.{label}.{image}" for label in maps.labels if maps.probabilities]
    names += [f"{UNCERTAINTY}/{case}.{image}"] if maps.uncertainty else []
    names += [f"{case}.png"] if job.preview else []
    names += [f"{case}.sc.dcm"] if job.secondary_capture else []
    names += [f"{case}.html"] if job.html else []
    return [*names, f"{case}.json"]


def check_places(
    task: CaseTask, out: Path, names: Iterable[str], recorded: Mapping[str, str] | None = None
) -> None:
    """Raise if a file would be written over the scan, its truth, or a foreign or edited file.

    Parameters
    ----------
    task
        The case.
    out
        The output folder.
    names
        Files that may be written, the case's JSON last.
    recorded
        File -> sha256 as the journal records it for this case; "" if the file was not finished.

    Raises
    ------
    InputError
        If a path is taken by a file that this package did not write, that was edited since or that is of
        another scan, is a link, or is too long.
    """
    names = list(names)
    metadata = read_case(out / names[-1])
    if metadata is not None and names[-1] not in (recorded or {}):
        _refuse_other_scan(task, metadata)
    for name in names:
        path = out / name
        if path.parent != out:
            refuse_link(path.parent, "Remove the link, or give another folder with -o")
        if not _is_taken(path):
            continue
        if is_source(path, task):
            of = "scan" if os.path.realpath(path) == os.path.realpath(task.case.path) else "truth"
            what = f"the {'mask' if name == names[0] else 'file'} would be written over its {of}"
            raise InputError(what, where=path, todo="Give another folder with -o")
        known = (recorded or {}).get(name)
        check_unchanged(path, known)
        by_json = _is_named(path, name, metadata)
        unsure = known is not None and (known != "" or path.suffix not in MARKED)
        try:
            check_place(path, ours=by_json or unsure)
        except InputError as error:
            if "did not write" not in error.what:
                raise
            what = "there is a file that an earlier prediction did not write"
            raise InputError(what, where=path, todo=TODO) from None


def with_finished(out: Path, case: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """Return the recorded hashes; those of masks and maps without one are taken from the case's JSON.

    The JSON has the hash of a mask before the mask has its name, and those of maps when all are written: if a
    run was killed before it recorded the case, a person may have edited them since. Pictures and pages may be
    half replaced beside an older JSON.

    Parameters
    ----------
    out, case
        The output folder, and the name of the case.
    recorded
        File -> sha256 as the journal records it; "" if the file was not finished.
    """
    if all(recorded.values()):
        return dict(recorded)
    listed = listed_in_json(out, [f"{case}.json"])
    return {
        name: known or ("" if name.endswith(PICTURES) else listed.get(name, ""))
        for name, known in recorded.items()
    }


def _refuse_other_scan(task: CaseTask, metadata: Mapping[str, Any]) -> None:
    """Raise if the JSON of a case, which no journal knows, is of another scan of this name."""
    scan = metadata.get("scan")
    scan = scan if isinstance(scan, dict) else {}
    place = scan.get("path")
    place = place if isinstance(place, str) else ""
    if os.path.isabs(place) and absolute(place) == task.place:
        return
    # A relative path does not say which scan it was: the command may have run in another folder.
    moved = scan_sha256(task.case.path, task.case.paths) == scan.get("sha256")
    if not moved:
        raise taken_by(place, task)


def taken_by(scan: str, task: CaseTask) -> InputError:
    """Return the error for a case whose place another scan has."""
    what = f"its place is taken by the mask of another scan of this name, {scan or 'of an unknown place'}"
    return InputError(what, where=task.case.path, todo="Give another folder with -o")


def is_source(path: Path, task: CaseTask) -> bool:
    """Return whether a path is that of the case's scan or of its truth."""
    sources = [task.case.path, *([task.truth] if task.truth is not None else [])]
    return os.path.realpath(path) in {os.path.realpath(source) for source in sources}


def _is_taken(path: Path) -> bool:
    try:
        check_name(path)  # the folder may not exist yet
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:  # a name that is too long, a file in the place of a folder
        raise InputError(f"cannot be written ({error.strerror or error})", where=path) from error
    return True


def check_unchanged(path: Path, known: str | None) -> None:
    """Raise if a file that this package wrote has been changed since.

    Raises
    ------
    InputError
        If the file exists and its sha256 is not the recorded one.
    """
    if known and path.is_file() and not path.is_symlink() and sha256(path) != known:
        raise InputError(
            "the file is not the one that was written: it was edited or is damaged",
            where=path,
            todo="Move it away to have it made again",
        )


def has_sha256(path: Path, known: str | None) -> bool:
    """Return whether a file has this hash; False if the file cannot be read, or the hash is None or ""."""
    with suppress(C3S3Error, OSError):
        return bool(known) and sha256(path) == known
    return False


def remove_earlier(
    out: Path, task: CaseTask, names: Iterable[str], recorded: Mapping[str, str]
) -> dict[str, str]:
    """Remove all files that an earlier run wrote for a case, so that none remains beside the new ones.

    Parameters
    ----------
    out
        The output folder.
    task
        The case. Its scan and its truth stay, even if an earlier run wrote them.
    names
        Files that may be written now; existing ones were found to be written by this package.
    recorded
        File -> sha256 as the journal records it; "" if the file was not finished.

    Returns
    -------
    dict
        sha256 -> name of each recorded file, so that the file is recognised if it turns up again.
    """
    case = task.case.name
    metadata = read_case(out / f"{case}.json") or {}
    listed = metadata.get(FILES)
    listed = {k: v for k, v in listed.items() if isinstance(v, str)} if isinstance(listed, dict) else {}
    for name, known in {**listed, **dict.fromkeys(names, ""), **recorded}.items():
        path = out / name
        with suppress(OSError, C3S3Error):
            if not _may_be_removed(name, out, task):
                continue
            unfinished = not known and (path.suffix not in MARKED or is_ours(path))
            if unfinished or (known and sha256(path) == known):
                path.unlink()
    for suffix in (".png", ".html"):  # of a run that is in no record any more
        remove_ours(out / f"{case}{suffix}")
    return {known: name for name, known in {**listed, **recorded}.items() if known}


def remove_files(out: Path, names: Iterable[str]) -> None:
    """Remove the files that a failed attempt has written; links and paths outside of `out` stay."""
    for name in names:
        with suppress(OSError):
            if _is_inside(name, out) and not (out / name).is_symlink():
                (out / name).unlink(missing_ok=True)


def _may_be_removed(name: str, out: Path, task: CaseTask) -> bool:
    """Return whether a name is that of a regular file of the folder, neither the scan nor the truth."""
    path = out / name
    is_file = _is_inside(name, out) and not path.is_symlink() and path.is_file()
    return is_file and not is_source(path, task)


def _is_inside(name: str, out: Path) -> bool:
    """Return whether a name leads to a file in the folder or in one of this package's folders there."""
    parts = PurePosixPath(name).parts
    if not parts or len(parts) > 2 or ".." in parts or PurePosixPath(name).is_absolute():
        return False
    return len(parts) == 1 or (parts[0] in FOLDERS and not (out / parts[0]).is_symlink())


def _is_named(path: Path, name: str, metadata: dict[str, Any] | None) -> bool:
    """Return whether the JSON of the case lists this very file, with its hash."""
    listed = metadata.get(FILES) if metadata else None
    if not isinstance(listed, dict) or not path.is_file() or path.is_symlink():
        return False
    with suppress(C3S3Error):
        return listed.get(name) == sha256(path)
    return False


def listed_in_json(out: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the files that the JSON files of cases among `names` list as written: name -> sha256."""
    named: dict[str, str] = {}
    for name in (name for name in names if name.endswith(".json")):
        listed = (read_case(out / name) or {}).get(FILES)
        if isinstance(listed, dict):
            named |= {str(k): str(v) for k, v in listed.items()}
    return named


def case_json(
    metadata: dict[str, Any], out: Path, written: Iterable[Path], kept: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, str]]:
    """Return a case's JSON with the hashes of the files written before it and kept; and these hashes."""
    hashes = dict(kept or {}) | {str(path.relative_to(out)): sha256(path) for path in written}
    return json.dumps({**metadata, FILES: hashes}, indent=1).encode(), hashes


def remove_replaced(out: Path, task: CaseTask, replaced: Mapping[str, str]) -> None:
    """Remove files of an earlier run that no longer belong to the case, if they are as recorded."""
    for name, known in replaced.items():
        path = out / name
        with suppress(OSError, C3S3Error):
            if not _may_be_removed(name, out, task):
                continue
            if sha256(path) == known if known else is_ours(path):
                path.unlink()
