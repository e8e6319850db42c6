"""NRRD and MetaImage (MHA) files in: their length and checksum are proven, then SimpleITK reads them."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import InputError
from c3s3_seg.io.nifti import MAX_RATIO, Parts

NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32"), 4),
    **dict.fromkeys(("uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), 8),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"), 8
    ),
}
META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
# The spaces whose axes ITK turns into LPS; it passes any other one on as if it were LPS.
NRRD_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Where the voxels are in the files and how many bytes they must be; the sides are those of `Parts`."""

    shape: tuple[int, ...]
    needed: int
    packed: bool
    data: bytes
    notes: tuple[str, ...] = ()
    sides: str = ""


def read_nrrd_or_meta(path: Path) -> Parts:
    """Read `.nrrd`, `.nhdr`, `.mha` or `.mhd`.

    Raises
    ------
    InputError
        If the file is truncated or damaged, or does not hold one real 3D volume in mm.
    """
    import SimpleITK

    # Its warnings would go to stderr as they are.
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # type: ignore[no-untyped-call]
    meta = path.suffix.lower() in (".mha", ".mhd")
    stored = _meta(path) if meta else _nrrd(path)
    _prove(stored, path)
    try:
        image: Any = SimpleITK.ReadImage(str(path), imageIO="MetaImageIO" if meta else "NrrdImageIO")
    except RuntimeError as error:
        raise InputError(f"it cannot be read: {str(error).splitlines()[-1].strip()}", where=path) from error
    size = image.GetSize()
    if len(size) < 3 or math.prod(size[3:]) > 1 or image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"found an array of shape {stored.shape}; wanted one 3D volume", where=path)
    count = len(size)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(count, count)[:3, :3]
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    array = SimpleITK.GetArrayFromImage(image)  # axes (..., k, j, i)
    return Parts(array.reshape(array.shape[-3:]).transpose(2, 1, 0), affine, stored.notes, stored.sides)


def _prove(stored: Stored, path: Path) -> None:
    """Check that all the voxels are there; SimpleITK fills what is missing with zeros."""
    size = " x ".join(str(n) for n in stored.shape)
    wanted = f"{size} voxels need {stored.needed} bytes"
    if stored.needed > len(stored.data) * (MAX_RATIO if stored.packed else 1):
        raise InputError(
            f"the file is truncated, or its header is wrong: {wanted}, it has {len(stored.data)}",
            where=path,
            todo="Copy or export it again",
        )
    if not stored.packed:
        return
    try:
        got = _unpacked_length(stored.data)
    except (EOFError, zlib.error) as error:
        raise InputError(
            "the compressed file is damaged: its stream ends too early or fails its checksum",
            where=path,
            todo="Copy or export it again",
        ) from error
    if got < stored.needed:
        raise InputError(f"the file is truncated, or its header is wrong: {wanted}, found {got}", where=path)


def _unpacked_length(data: bytes) -> int:
    stream = zlib.decompressobj(wbits=47)  # finds out by itself whether it is zlib or gzip
    total, block = 0, data
    while block and not stream.eof:
        total += len(stream.decompress(block, 1 << 20))
        block = stream.unconsumed_tail
    total += len(stream.flush())
    if not stream.eof:
        raise EOFError
    return total


def _nrrd(path: Path) -> Stored:
    raw = path.read_bytes()
    if raw[:7] != b"NRRD000":
        raise InputError("this is not an NRRD file: its magic is missing", where=path)
    end = re.search(rb"\r?\n\r?\n", raw)
    text = raw[: end.start() if end else len(raw)].decode("latin-1")
    pairs = re.findall(r"^([^#:\n]+):(?!=)[ \t]*(.*?)\s*$", text, flags=re.M)
    key = {name.strip().lower(): value for name, value in pairs}
    shape = _sizes(key.get("sizes", ""), path)
    kind = key.get("type", "").lower()
    encoding = key.get("encoding", "").lower()
    if kind not in NRRD_BYTES or encoding not in ("raw", "gzip", "gz"):
        raise InputError(
            f"found type '{kind}' in encoding '{encoding}'; wanted numbers, raw or gzip", where=path
        )
    _positive(key.get("spacings", ""), path)
    if any(unit != "mm" for unit in re.findall(r'"([^"]*)"', key.get("space units", ""))):
        raise InputError(f"its distances are in {key['space units']}; wanted mm", where=path)
    name = key.get("data file", key.get("datafile"))
    if name is None and end is None:
        raise InputError("the file is truncated: it ends within its header", where=path)
    data = raw[end.end() if end else 0 :] if name is None else _beside(name, path)
    skips = (key.get("byte skip", "0"), key.get("line skip", "0"), key.get("byteskip", "0"))
    if any(skip.strip() not in ("0", "-1") for skip in skips):
        raise InputError("it skips bytes before the voxels, which is not supported", where=path)
    needed = math.prod(shape) * NRRD_BYTES[kind]
    return Stored(shape, needed, encoding != "raw", data, _nrrd_space(key.get("space"), path))


def _nrrd_space(space: str | None, path: Path) -> tuple[str, ...]:
    if space is None:
        return ("the header names no space: left and right, front and back are not known",)
    if space.lower() not in NRRD_SPACES:
        raise InputError(
            f"its space is '{space}'; wanted one of {', '.join(sorted(NRRD_SPACES))}", where=path
        )
    return ()


def _meta(path: Path) -> Stored:
    raw = path.read_bytes()
    last = re.search(rb"^\s*ElementDataFile\s*=[ \t]*(.*?)[ \t]*\r?\n", raw + b"\n", flags=re.M)
    if last is None:
        raise InputError("this is not a MetaImage file, or it ends within its header", where=path)
    text = raw[: last.start()].decode("latin-1")
    key: dict[str, str] = dict(re.findall(r"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)\s*$", text, flags=re.M))
    shape = _sizes(key.get("DimSize", ""), path)
    kind = key.get("ElementType", "")
    plain = key.get("BinaryData", "True").lower() != "true"
    if key.get("ElementNumberOfChannels", "1") != "1":
        what = f"found an array of shape {shape} with {key['ElementNumberOfChannels']} values a voxel"
        raise InputError(f"{what}; wanted one 3D volume", where=path)
    if kind not in META_BYTES or plain or key.get("HeaderSize", "0") != "0":
        raise InputError(f"found voxels of type '{kind}'; wanted plain binary numbers", where=path)
    _positive(key.get("ElementSpacing", key.get("ElementSize", "")), path)
    if key.get("DistanceUnits", "mm").lower() not in ("mm", "?"):
        raise InputError(f"its distances are in {key['DistanceUnits']}; wanted mm", where=path)
    name = last.group(1).decode("utf-8", "replace")
    data = raw[last.end() :] if name.upper() == "LOCAL" else _beside(name, path)
    needed = math.prod(shape) * META_BYTES[kind]
    packed = key.get("CompressedData", "False").lower() == "true"
    # MetaImage names the sides that the axes come from.
    sides = key.get("AnatomicalOrientation", "").upper().translate(str.maketrans("RLAPIS", "LRPASI"))
    return Stored(shape, needed, packed, data, sides=sides)


def _sizes(text: str, path: Path) -> tuple[int, ...]:
    if not re.fullmatch(r"\s*-?\d+(\s+-?\d+)*\s*", text):
        raise InputError(f"the header's sizes are '{text}'; wanted numbers", where=path)
    shape = tuple(int(n) for n in text.split())
    if min(shape) < 1:
        raise InputError(f"the header claims a shape of {shape}; wanted positive sizes", where=path)
    if len(shape) < 3:
        raise InputError(f"found an array of shape {shape}; wanted one 3D volume", where=path)
    return shape


def _positive(text: str, path: Path) -> None:
    try:
        numbers = [float(n) for n in text.split()]
    except ValueError:
        numbers = [math.nan]
    # ITK makes 1 mm of a spacing of 0 and flips an axis for a negative one.
    if not all(math.isfinite(n) and n > 0 for n in numbers):
        raise InputError(f"found a spacing of {text} mm; wanted positive numbers", where=path)


def _beside(name: str, path: Path) -> bytes:
    """The data file that a header names; one file, below the header's own folder."""
    target = path.parent / name
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    if not inside or "%" in name or name.upper().startswith("LIST") or not target.is_file():
        raise InputError(f"its data file '{name}' is not one file beside it", where=path)
    return target.read_bytes()
