"""Which files of the source `--leave-out` names: patterns of paths, of folders and of names."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import folder_links, walk_files
from c3s3_seg.system.names import absolute

NAMED = "files that --leave-out names"


def is_left_out(place: str, patterns: Collection[str]) -> bool:
    """Return whether a path relative to the source, or a folder above it, matches a pattern.

    Parameters
    ----------
    place
        Path relative to the source, with `/`; that of a folder ends with it.
    patterns
        Patterns from `patterns_within`. One without `/` is also compared with each name in the path.
    """
    path = PurePosixPath(place)
    above = [place, *(str(folder) for folder in (path, *path.parents[:-1]))]
    return any(
        fnmatch(each, pattern)
        for pattern in patterns
        for each in (above if "/" in pattern else (*above, *path.parts))
    )


def patterns_within(source: Path, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return patterns relative to the source: they may begin with `./` or with the source itself.

    Raises
    ------
    InputError
        If nothing is left of a pattern.
    """
    return tuple(_within(source, pattern) for pattern in patterns)


def _within(source: Path, pattern: str) -> str:
    found = pattern
    for start in (str(source), absolute(source)):
        found = found.removeprefix(start + os.sep)
    while found.startswith("./"):
        found = found[2:]
    found = found.rstrip("/")
    if not found:
        what = f"found the pattern {pattern!r} for files to leave out, which names none"
        raise InputError(what, todo="Give a path relative to the source, such as 'old/*'")
    return found


def count_left_out(source: Path, patterns: Collection[str]) -> int:
    """Return how many files of the source match.

    Raises
    ------
    InputError
        If a pattern matches no file: a scan that was to be left out would be learnt from.
    """
    if not patterns:
        return 0
    links = [f"{link.relative_to(source).as_posix()}/" for link in folder_links(source)]
    count, unused = 0, {one for one in patterns if not any(is_left_out(link, [one]) for link in links)}
    for path in walk_files(source):
        place = path.relative_to(source).as_posix()
        unused -= {pattern for pattern in unused if is_left_out(place, [pattern])}
        count += is_left_out(place, patterns)
    if unused:
        what = f"no file here matches the pattern {min(unused)!r} for files to leave out"
        todo = "Give a path relative to this folder, or a name of a file or folder in it; * is any text"
        raise InputError(what, where=source, todo=todo)
    return count
