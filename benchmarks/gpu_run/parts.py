"""Wheels cut into parts of one size, for a machine that accepts only such files; joined and checked there.

A folder of parts holds `parts.json` and `part-001`, `part-002` ...: the concatenated wheels, cut into pieces.
The list names each wheel and each part with its size and its SHA-256. It is checked like any untrusted file:
names, sizes and numbers first, then every byte.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError

LIST = "parts.json"
PART_BYTES = 55 * 10**6
LARGEST_LIST, LARGEST_PART, LARGEST_TOTAL = 10**6, 2**28, 4 * 10**9  # bytes; a part is held in memory
MOST_PARTS = 999  # three digits
LONGEST = 200  # characters of a name; file systems allow 255 bytes
WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!]*(-[A-Za-z0-9_.+!]+){4,5}\.whl", re.ASCII)
PART = re.compile(r"part-\d{3}", re.ASCII)
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
CHUNK = 2**20
AGAIN = "Copy the folder that gpu_parts.sh wrote once more, whole"


@dataclass(frozen=True)
class Piece:
    """One file: a wheel, or a part. `size` in bytes, `sha256` as 64 hexadecimal digits."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PartsList:
    """The content of a folder of parts: the bytes of all parts are those of all wheels, in order."""

    wheels: tuple[Piece, ...]
    parts: tuple[Piece, ...]


def cut(wheels: list[Path], folder: Path, part_bytes: int = PART_BYTES) -> PartsList:
    """Write wheels as parts into a folder that does not exist yet, and the list last; return the list.

    Raises
    ------
    InputError
        If there is no wheel, a name is not that of a wheel, the folder exists, or there are too many parts.
    """
    wheels = sorted(wheels, key=lambda path: path.name)
    if not wheels:
        raise InputError("there is no wheel to cut into parts")
    for name in (path.name for path in wheels if not WHEEL.fullmatch(path.name)):
        raise InputError(f"{name!r} is not the name of a wheel")
    if sum(path.stat().st_size for path in wheels) > MOST_PARTS * part_bytes:
        raise InputError(f"the wheels make more than {MOST_PARTS} parts", todo="Take larger parts")
    if folder.exists():
        raise InputError("the folder is there already", where=folder, todo="Name one that is not")
    folder.mkdir(parents=True)
    parts: list[Piece] = []
    for number, content in enumerate(_cuts(wheels, part_bytes), 1):
        path = folder / f"part-{number:03}"
        path.write_bytes(content)
        parts.append(Piece(path.name, len(content), hashlib.sha256(content).hexdigest()))
    made = PartsList(tuple(_piece(path) for path in wheels), tuple(parts))
    (folder / LIST).write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
    return made


def join(folder: Path, wheels: Path, list_sha256: str | None = None) -> PartsList:
    """Check a folder of parts and write its wheels into a folder that does not exist yet; return the list.

    Parameters
    ----------
    folder
        Folder with the list and the parts, and no other file.
    wheels
        Folder for the wheels, created completely or not at all.
    list_sha256
        Required SHA-256 of the list, if it is known from another source.

    Raises
    ------
    InputError
        If a name, a size or a hash is wrong, a part is missing, or there is a surplus file.
    """
    if wheels.exists():
        raise InputError("the folder for the wheels is there already", where=wheels)
    listed = read_list(folder, list_sha256)
    _check_files(folder, listed)
    partial = wheels.with_name(f"{wheels.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(_checked(folder, listed), listed, partial, folder)
        partial.rename(wheels)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return listed


def read_list(folder: Path, list_sha256: str | None = None) -> PartsList:
    """Return the list of a folder of parts, with the form of its names, sizes and hashes checked.

    Raises
    ------
    InputError
        If there is no list, it is not the required one, or an entry is not valid.
    """
    path = folder / LIST
    if path.is_symlink() or not path.is_file():
        raise InputError(f"the folder of parts has no {LIST}", where=folder, todo=AGAIN)
    if path.stat().st_size > LARGEST_LIST:
        raise InputError(f"the list is larger than {LARGEST_LIST} bytes", where=path)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if list_sha256 is not None and found != list_sha256:
        raise InputError(f"the SHA-256 of the list is {found}, wanted {list_sha256}", where=path, todo=AGAIN)
    try:
        listed = json.loads(content)
        wheels = _pieces(listed["wheels"], WHEEL, LARGEST_TOTAL)
        made = PartsList(wheels, _pieces(listed["parts"], PART, LARGEST_PART))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"this is no list of parts ({error})", where=path, todo=AGAIN) from error
    _check_list(made, path)
    return made


def _pieces(rows: Any, form: re.Pattern[str], largest: int) -> tuple[Piece, ...]:
    """Return the entries of a table, each checked; raise ValueError with the reason if one is not valid."""
    if not isinstance(rows, list):
        raise ValueError("a table is no list")
    made = [Piece(**row) for row in rows]
    for piece in made:
        if not isinstance(piece.name, str) or len(piece.name) > LONGEST or not form.fullmatch(piece.name):
            raise ValueError(f"the name {str(piece.name)[:80]!r} is not one that gpu_parts.sh gives")
        if type(piece.size) is not int or not 0 < piece.size <= largest:
            raise ValueError(f"the size of {piece.name} is {str(piece.size)[:20]!r}")
        if not isinstance(piece.sha256, str) or not HASH.fullmatch(piece.sha256):
            raise ValueError(f"the hash of {piece.name} is no SHA-256")
    return tuple(made)


def _check_list(listed: PartsList, path: Path) -> None:
    wheels = [piece.name.lower() for piece in listed.wheels]
    if not wheels or len(set(wheels)) < len(wheels):
        raise InputError("the list names no wheel, or one twice", where=path)
    if [piece.name for piece in listed.parts] != [f"part-{n + 1:03}" for n in range(len(listed.parts))]:
        raise InputError("the parts of the list are not numbered from 001 on", where=path)
    of_wheels, of_parts = (sum(piece.size for piece in some) for some in (listed.wheels, listed.parts))
    if of_wheels != of_parts or of_wheels > LARGEST_TOTAL:
        what = f"the wheels of the list have {of_wheels} bytes, its parts {of_parts}"
        raise InputError(f"{what}; wanted the same, and {LARGEST_TOTAL} at most", where=path)


def _check_files(folder: Path, listed: PartsList) -> None:
    """Check, before a byte is read, that exactly the listed parts exist, as plain files of the right size."""
    wanted, there = {piece.name for piece in listed.parts}, {path.name for path in folder.iterdir()}
    if missing := sorted(wanted - there):
        raise InputError(f"missing: {_some(missing)} of {len(wanted)} parts", where=folder, todo=AGAIN)
    if surplus := sorted(there - wanted - {LIST}):
        what = f"not in the list: {_some([ascii(name) for name in surplus])}"
        raise InputError(what, where=folder, todo="Move it out of the folder")
    for piece in listed.parts:
        path = folder / piece.name
        if path.is_symlink() or not path.is_file():
            raise InputError("a part must be a plain file, and this is none", where=path, todo=AGAIN)
        if (size := path.stat().st_size) != piece.size:
            what = f"the part is damaged: {size} bytes, wanted {piece.size}"
            raise InputError(what, where=path, todo=f"Copy {piece.name} once more")


def _checked(folder: Path, listed: PartsList) -> Iterator[bytes]:
    """Yield the bytes of the parts, one part at a time, each after its hash was checked."""
    for piece in listed.parts:
        with (folder / piece.name).open("rb") as file:
            content = file.read(piece.size + 1)  # it may have grown since the check of its size
        if hashlib.sha256(content).hexdigest() != piece.sha256:
            what = "the part is damaged: its SHA-256 is not that of the list"
            raise InputError(what, where=folder / piece.name, todo=f"Copy {piece.name} once more")
        yield content


def _write(contents: Iterator[bytes], listed: PartsList, target: Path, folder: Path) -> None:
    """Distribute the bytes to the wheels and check the hash of each wheel."""
    held = memoryview(b"")
    for piece in listed.wheels:
        digest, left = hashlib.sha256(), piece.size
        with (target / piece.name).open("xb") as file:
            while left:
                held = held or memoryview(next(contents))
                taken, held = held[:left], held[left:]
                file.write(taken)
                digest.update(taken)
                left -= len(taken)
        if digest.hexdigest() != piece.sha256:
            what = f"joined, {piece.name} does not have the SHA-256 of the list"
            raise InputError(what, where=folder, todo="Make the parts once more with gpu_parts.sh")


def _cuts(wheels: list[Path], part_bytes: int) -> Iterator[bytes]:
    held = bytearray()
    for path in wheels:
        with path.open("rb") as file:
            while content := file.read(min(CHUNK, part_bytes - len(held))):
                held += content
                if len(held) == part_bytes:
                    yield bytes(held)
                    held.clear()
    if held:
        yield bytes(held)


def _piece(path: Path) -> Piece:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Piece(path.name, path.stat().st_size, digest)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
