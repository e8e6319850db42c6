"""Parse the header of a NRRD file (`.nrrd`, `.nhdr`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"
    ),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), "u8"),
    **dict.fromkeys(("uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
# The spaces whose axes can be converted to LPS; -1 marks axes that run the other way.
SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}

# 3D Slicer puts overlapping segments into layers along one more axis, and states the layer of each segment.
LAYERED = re.compile(r"^Segment\d+_Layer:=", re.M)
FLATTEN = (
    "It holds segments of 3D Slicer in layers, as they overlap. Remove the overlap there, or export the"
    " segments as a label map"
)
UNITS = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "???"}
# Kinds of axes that a volume may have; an unstated kind is accepted, too.
SPATIAL = {"domain", "space", "none", "???"}


def parse_nrrd(raw: bytes, path: Path) -> Stored:
    """Parse the header in the first bytes of a file.

    Raises
    ------
    InputError
        If the header is cut, states a field twice, or does not describe one real 3D volume in mm.
    """
    if raw[:7] != b"NRRD000":
        raise InputError("this is not an NRRD file: its magic is missing", where=path)
    end = re.search(rb"\r?\n\r?\n", raw)
    text = raw[: end.start() if end else len(raw)].decode("latin-1")
    key = once(_fields(text), path, ("centerings", "centers"))
    shape = sizes(key.get("sizes", ""), path)
    if key.get("dimension", str(len(shape))) != str(len(shape)):
        raise InputError(f"it has dimension {key['dimension']} and sizes {key['sizes']}", where=path)
    kind, encoding = key.get("type", "").lower(), key.get("encoding", "").lower()
    if kind not in TYPES or encoding not in ("raw", "gzip", "gz"):
        what = f"found type '{kind}' in encoding '{encoding}'; wanted numbers, raw or gzip"
        raise InputError(what, where=path)
    name = key.get("datafile")
    if name is None and end is None:
        raise InputError("the file is truncated: it ends within its header", where=path, todo=AGAIN)
    at_end = _at_end(key, encoding, path)
    axes = _axes(key, shape, path, FLATTEN if LAYERED.search(text) else None)
    _check_kinds(key, axes, path)
    affine, notes = _grid(key, axes, path)
    start = end.end() if end else len(raw)
    dtype = np.dtype(_order(key, TYPES[kind], path) + TYPES[kind])
    return Stored(shape, dtype, encoding != "raw", affine, start, _utf8(name), at_end, notes, axes=axes)


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of each field, without the pairs `key:=value`, whose keys may have colons."""
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon and name and "#" not in name and ":=" not in line.partition(": ")[0]:
            # Some fields are written with and without a space: `data file`, `datafile`.
            yield re.sub(r"\s", "", name).lower(), value.strip()


def _utf8(name: str | None) -> str | None:
    return None if name is None else name.encode("latin-1").decode("utf-8", "surrogateescape")


def _order(key: dict[str, str], kind: str, path: Path) -> str:
    endian = key.get("endian", "" if kind.endswith("1") else None)
    orders = {"": "|", "little": "<", "big": ">"}
    found = None if endian is None else orders.get(endian.lower())
    if found is None:
        raise InputError(f"its endian is '{endian or ''}'; wanted little or big", where=path)
    return found


def _at_end(key: dict[str, str], encoding: str, path: Path) -> bool:
    """Return whether the voxels are the last bytes: `byte skip: -1`, which only raw encoding allows."""
    skips = {field: key.get(field, "0").strip() for field in ("byteskip", "lineskip")}
    at_end = skips == {"byteskip": "-1", "lineskip": "0"} and encoding == "raw"
    if not at_end and set(skips.values()) != {"0"}:
        raise InputError("it skips bytes before the voxels, which is not supported", where=path)
    return at_end


def _axes(key: dict[str, str], shape: tuple[int, ...], path: Path, todo: str | None) -> tuple[int, ...]:
    """Return the axes of the volume: the first three with a direction; others must have one voxel.

    `todo` is the advice in the error if an axis has more.
    """
    parts = _parts(key.get("spacedirections", ""))
    if parts and len(parts) != len(shape):
        what = f"its space directions are '{key['spacedirections']}'; wanted {len(shape)} vectors"
        raise InputError(what, where=path)
    axes = [n for n in range(len(shape)) if not parts or parts[n] != "none"][:3]
    if len(axes) < 3 or any(size > 1 for n, size in enumerate(shape) if n not in axes):
        raise not_one_volume(shape, path, todo)
    return tuple(axes)


def _check_kinds(key: dict[str, str], axes: tuple[int, ...], path: Path) -> None:
    """Refuse an axis of time, of colours or of vectors among the three of the volume."""
    kinds = _per_axis(key, "kinds", axes, path) if "kinds" in key else []
    if not set(kinds) <= SPATIAL:
        raise InputError(f"its axes are of the kinds {', '.join(kinds)}; wanted three in space", where=path)


def _parts(text: str) -> list[str]:
    """Return the vectors of all axes; `none` for an axis without direction. Other text stays a part."""
    return re.findall(r"\([^()]*\)|[^\s()]+", text)


def _grid(key: dict[str, str], axes: tuple[int, ...], path: Path) -> tuple[Floats, tuple[str, ...]]:
    """Return the affine to mm in LPS, and the notes about it."""
    for units in (key.get("spaceunits", ""), key.get("units", "")):
        if not {unit.lower() for unit in re.findall(r'"([^"]*)"', units)} <= UNITS:
            raise InputError(f"its distances are in {units}; wanted mm", where=path)
    flip, notes = _space(key.get("space"), path)
    origin = flip * (_vector(key["spaceorigin"], path) if "spaceorigin" in key else np.zeros(3))
    if "spacedirections" in key:
        if "spacings" in key:
            raise InputError("it has space directions and spacings as well: which is meant", where=path)
        parts = _parts(key["spacedirections"])
        return placed(
            flip[:, None] * np.stack([_vector(parts[n], path) for n in axes], axis=1), origin
        ), notes
    if "spacings" in key and "space" in key:
        raise InputError("it has a space and spacings, but no space directions", where=path)
    if "spacings" not in key:
        if not {"axismins", "axismaxs"}.isdisjoint(key):
            raise InputError("it has the ends of the axes, but no spacings", where=path)
        return placed(np.diag(flip), origin), (*notes, NO_SPACING)
    spacing = positive(" ".join(_per_axis(key, "spacings", axes, path)), 3, path)
    if "axismins" in key:
        low = numbers(" ".join(_per_axis(key, "axismins", axes, path)), 3, "axis mins", path)
        kinds = _per_axis(key, "centerings", axes, path) if "centerings" in key else ["cell"] * 3
        # A cell ends half a step from its centre; a node ends at its centre (NRRD format, "centers").
        origin = np.where([kind == "node" for kind in kinds], low, low + spacing / 2)
    return placed(np.diag(spacing), origin), notes


def _space(space: str | None, path: Path) -> tuple[Floats, tuple[str, ...]]:
    if space is None:
        return np.ones(3), ("the header names no space: left and right, front and back are not known",)
    if space.lower() not in SPACES:
        what = f"its space is '{space}'; wanted one of {', '.join(sorted(SPACES))}"
        raise InputError(what, where=path)
    return np.array(SPACES[space.lower()]), ()


def _per_axis(key: dict[str, str], field: str, axes: tuple[int, ...], path: Path) -> list[str]:
    parts = key[field].split()
    if len(parts) != int(key.get("dimension", len(parts))) or len(parts) <= max(axes):
        raise InputError(f"its {field} are '{key[field]}'; wanted one for each axis", where=path)
    return [parts[n].lower() for n in axes]


def _vector(text: str, path: Path) -> Floats:
    """Parse three numbers in brackets; for a space with time, return the first three."""
    inner = re.fullmatch(r"\(([^()]*)\)", text.strip())
    parts = inner.group(1).split(",") if inner else []
    try:
        found = np.array([float(part) for part in parts], dtype=np.float64)
    except ValueError:
        found = np.empty(0)
    if not 3 <= len(found) <= 4:
        raise InputError(f"its header has the vector '{text}'; wanted three numbers", where=path)
    return found[:3]
