"""Parse the header of a MetaImage file (`.mha`, `.mhd`)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from c3s3_seg.errors import InputError
from c3s3_seg.io.image.stored import (
    NO_SPACING,
    Floats,
    Stored,
    not_one_volume,
    numbers,
    once,
    placed,
    positive,
    sizes,
)
from c3s3_seg.io.limits import AGAIN

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
SYNONYMS = (
    ("Offset", "Position", "Origin"),
    ("TransformMatrix", "Rotation", "Orientation"),
    ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
)
# Spellings that some reader may accept: MetaIO minds upper and lower case and blanks, others do not.
_OTHER_DATA_FILE = re.compile(r"^[^\w\n]*ElementDataFile\b", flags=re.M | re.I)
# Blanks are stripped afterwards: within a pattern, a long run of blanks would be tried from each end.
_LAST = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:](.*)\n", flags=re.M)
_FIELD = re.compile(r"^[ \t]*(\w+)[ \t]*[=:](.*)$", flags=re.M)


def parse_meta(raw: bytes, path: Path) -> Stored:
    """Parse the header in the first bytes of a file.

    Raises
    ------
    InputError
        If the header is cut, states a field twice, or does not describe one real 3D volume in mm.
    """
    last = _LAST.search(raw if b"\n" in raw[-2:] else raw + b"\n")
    if last is None:
        raise InputError("this is not a MetaImage file, or it ends within its header", where=path, todo=AGAIN)
    text = raw[: last.start()].decode("latin-1")
    if _OTHER_DATA_FILE.search(text):
        what = "the header says 'ElementDataFile' twice, or in two ways; wanted it once"
        raise InputError(what, where=path, todo="Write the file again with the program that made it")
    key = once(((name, value.strip()) for name, value in _FIELD.findall(text)), path, *SYNONYMS)
    shape = sizes(key.get("DimSize", ""), path)
    if key.get("NDims", str(len(shape))) != str(len(shape)):
        raise InputError(f"it has NDims = {key['NDims']} and sizes {key['DimSize']}", where=path)
    _check(key, shape, path)
    name = _data_file(
        last.group(1).strip(b" \t\r").decode("utf-8", "surrogateescape"), raw[last.end() :], path
    )
    order = ">" if _yes(key.get("BinaryDataByteOrderMSB", "False")) else "<"
    affine, notes = _grid(key, len(shape), path)
    return Stored(
        shape,
        np.dtype(order + TYPES[key["ElementType"]]),
        _yes(key.get("CompressedData", "False")),
        affine,
        last.end(),
        name,
        notes=notes,
        # MetaImage names the sides that the axes come from, so the letters are swapped.
        sides=key.get("AnatomicalOrientation", "").upper().translate(str.maketrans("RLAPIS", "LRPASI")),
    )


def _check(key: dict[str, str], shape: tuple[int, ...], path: Path) -> None:
    kind = key.get("ElementType", "")
    channels = key.get("ElementNumberOfChannels", "1")
    if channels != "1":
        what = f"found an array of shape {shape} with {channels} values a voxel; wanted one 3D volume"
        raise InputError(what, where=path)
    if kind not in TYPES or not _yes(key.get("BinaryData", "True")):
        raise InputError(f"found voxels of type '{kind}'; wanted plain binary numbers", where=path)
    if key.get("HeaderSize", "0") != "0":
        raise InputError("it skips bytes before the voxels, which is not supported", where=path)
    if key.get("DistanceUnits", "mm").lower() not in ("mm", "?"):
        raise InputError(f"its distances are in {key['DistanceUnits']}; wanted mm", where=path)
    for name, plain in (("Slope", 1.0), ("Offset", 0.0)):
        name = f"ElementToIntensityFunction{name}"
        if name in key and numbers(key[name], 1, name, path)[0] != plain:
            what = f"it says {name} = {key[name]}, which some programs apply and others do not"
            raise InputError(what, where=path, todo="Write the file again with its values as they are meant")
    if any(n > 1 for n in shape[3:]):
        raise not_one_volume(shape, path)


def _data_file(name: str, after: bytes, path: Path) -> str | None:
    if name.upper() == "LOCAL":
        return None
    several = "%" in name or name.upper().startswith("LIST")  # refused later with their own reason
    if name and not several and after.strip():
        what = "there is text after ElementDataFile, which has to be the last line of a header"
        raise InputError(what, where=path, todo="Write the file again with the program that made it")
    return name


def _yes(text: str) -> bool:
    return text[:1] in ("T", "t", "1")  # same as in MetaIO


def _grid(key: dict[str, str], n: int, path: Path) -> tuple[Floats, tuple[str, ...]]:
    spacing = key.get("ElementSpacing", key.get("ElementSize"))
    step = np.ones(n) if spacing is None else positive(spacing, n, path)
    origin = numbers(key["Offset"], n, "Offset", path) if "Offset" in key else np.zeros(n)
    turn = np.eye(n)
    if "TransformMatrix" in key:
        # A row of numbers is the direction of an axis.
        turn = numbers(key["TransformMatrix"], n * n, "TransformMatrix", path).reshape(n, n).T
    return placed((turn * step)[:3, :3], origin[:3]), () if spacing is not None else (NO_SPACING,)
