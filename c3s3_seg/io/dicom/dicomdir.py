"""Read a DICOMDIR: the files that the index of a medium names, never a file outside its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from c3s3_seg.errors import FileName, InputError, cause_of


def listed_files(index: Path) -> list[Path]:
    """Return the files that a DICOMDIR names, each once.

    Raises
    ------
    InputError
        If the index cannot be read, names a file that is missing or outside of its folder, or no file.
    """
    from c3s3_seg.io.deflated import whole_of

    root = index.parent
    try:
        records = _in_use(whole_of(index).DirectoryRecordSequence)
        named = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
        names = [[n] if isinstance(n, str) else [str(part) for part in n] for n in named]
    except Exception as error:  # the parser of pydicom raises errors of any type
        what = f"the index is damaged: it cannot be read ({cause_of(error)})"
        raise InputError(what, where=index, todo="Give the folder instead of its DICOMDIR") from error
    files = [_inside(root, parts, index) for parts in names]
    if not files:
        raise InputError("the index names no files", where=index, todo="Give the folder instead")
    return list(dict.fromkeys(files))


def _in_use(records: Any) -> list[Any]:
    """Return the records that are neither deleted nor below a deleted one (PS3.3, F.3.2.2)."""
    at = {record.seq_item_tell: record for record in records}
    unused: set[int] = set()
    seen: set[int] = set()  # offsets may form a loop, and chains may meet
    waiting = [place for place, record in at.items() if record.get("RecordInUseFlag") == 0]
    while waiting:
        place = waiting.pop()
        if place in unused:
            continue
        unused.add(place)
        below = at[place].get("OffsetOfReferencedLowerLevelDirectoryEntity")
        while below in at and below not in seen:
            seen.add(below)
            waiting.append(below)
            below = at[below].get("OffsetOfTheNextDirectoryRecord")
    return [record for place, record in at.items() if place not in unused]


def _inside(root: Path, parts: list[str], index: Path) -> Path:
    path = root.joinpath(*parts)
    named = FileName("/".join(parts), "not shown here")
    # PS3.10, 8.2: a file ID is a list of names below the index. Some media were copied in lower case.
    plain = all(part not in ("", ".", "..") and not set("/\\:\0") & set(part) for part in parts)
    for there in (path, root.joinpath(*(part.lower() for part in parts))):
        # Unlike `resolve`, `realpath` does not raise on a loop of links.
        if not plain or not Path(os.path.realpath(there)).is_relative_to(os.path.realpath(root)):
            raise InputError(f"the index names a file outside of its folder ('{named}')", where=index)
        if os.path.isfile(there):  # unlike Path.is_file, it does not raise for a name that is too long
            return there
    raise InputError(
        f"the index names '{named}', and it is not there",
        where=index,
        todo="Copy the medium again, or give the folder instead of its DICOMDIR",
    )
