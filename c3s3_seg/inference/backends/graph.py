"""Read an ONNX graph as bytes that need no other file, with the weights of the network's own weights file.

ONNX lets any tensor, in whatever subgraph, function or attribute, lie in another file. A runtime that is
given a path follows such references wherever they point, so a graph could run on numbers that no hash
covers. Here a file is read once, the references are followed to whole tensors of one file only, and runtimes
get bytes.

This module parses protocol buffers itself, because the package `onnx` is no dependency of inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from c3s3_seg.bundle import Network
from c3s3_seg.errors import InputError
from c3s3_seg.models import BACKBONES
from c3s3_seg.system.names import printable
from c3s3_seg.system.reading import parse_json, read_known

LARGEST = 2**31 - 1  # bytes; the limit of protocol buffers
DEEPEST = 100  # messages within messages; the default limit of protocol buffers
LARGEST_TAG = 2**32 - 1  # readers drop the upper bits of a larger tag, and so see another field
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# Message -> its fields that hold messages in which there may be a tensor (onnx.proto3).
INNER = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14  # fields of a tensor
EXTERNAL = 1
Parts = list[bytes | memoryview]
LONGEST_HEADER = 1 << 24  # bytes of a safetensors file before its numbers; shipped files have some 40,000


def read_graph(path: Path, hashes: Mapping[str, str] | None = None) -> bytes:
    """Return a graph with its weights inside: `model.onnx` may only take them from `model.safetensors`.

    Parameters
    ----------
    path
        Path of the graph.
    hashes
        File name -> sha256 of both files, as the bundle has compared them; None: both are read unchecked.

    Raises
    ------
    InputError
        If it is no ONNX graph, refers to another file or past the end of that file, or a file has changed.
    """
    content = read_known(path, hashes, LARGEST)
    # Every ONNX writer begins with the format version; no other format that can refer to files does.
    if content[:1] != bytes([1 << 3 | VARINT]):
        raise InputError("is not an ONNX graph", where=path)
    try:
        graph = _Graph(path.with_suffix(".safetensors"), hashes)
        parts = graph.inlined(memoryview(content), "model")
        return content if parts is None else b"".join(parts)
    except _BrokenError as error:
        raise InputError(f"is not an ONNX graph that can be run: {error}", where=path) from None


def check_network(weights: Path, network: Network) -> None:
    """Check that a network's weights have the architecture and the filters that the manifest states.

    torch checks this itself; a graph runs whatever the manifest states. Weights that are no safetensors file,
    or have other names, belong to a graph of another program, and are not inspected.

    Raises
    ------
    InputError
        If the weights are those of another network.
    """
    with weights.open("rb") as file:
        stored = stored_tensors(file.read(LONGEST_HEADER))
    first = {name: entry.first_kernel for name, entry in BACKBONES.items()}
    known = {name: stored[kernel][0] for name, kernel in first.items() if kernel in stored}
    if not known or known.get(network.architecture, [0])[:1] == [network.filters]:
        return
    found = ", ".join(f"a {name} with {next(iter(shape), 0)} filters" for name, shape in known.items())
    wanted = f"a {network.architecture} with {network.filters} filters"
    raise InputError(f"these are the weights of {found}; the manifest says {wanted}", where=weights)


def stored_tensors(content: bytes | memoryview) -> dict[str, tuple[list[int], int, int]]:
    """Return name -> shape, first byte, number of bytes of each tensor of a safetensors file; {} if none."""
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= min(LONGEST_HEADER, len(content)) - 8:
        return {}
    try:
        header = parse_json(bytes(content[8 : 8 + size]), "")
        places = {name: item["data_offsets"] for name, item in header.items() if name != "__metadata__"}
        return {
            name: (list(header[name]["shape"]), 8 + size + begin, end - begin)
            for name, (begin, end) in places.items()
        }
    except (InputError, AttributeError, KeyError, TypeError, ValueError):
        return {}


@dataclass
class _Message:
    """A message whose fields are kept or replaced, in their order; neighbours that are kept are one part.

    A part for each field would take a hundred times the memory of a file with small fields.
    """

    content: memoryview
    before: Parts = field(default_factory=list)
    kept: int = 0  # where the fields begin that were kept since the last that was replaced
    at: int = 0

    def keep(self, whole: memoryview) -> None:
        """Keep the next field."""
        self.at += len(whole)

    def replace(self, whole: memoryview, parts: Parts) -> None:
        """Put parts in place of the next field."""
        if self.at > self.kept:
            self.before.append(self.content[self.kept : self.at])
        self.before += parts
        self.at += len(whole)
        self.kept = self.at

    @property
    def changed(self) -> bool:
        """Whether a field was replaced."""
        return self.kept > 0

    @property
    def parts(self) -> Parts:
        """All parts so far."""
        return [*self.before, self.content[self.kept : self.at]]


class _BrokenError(Exception):
    """An error in the bytes of a graph."""


@dataclass
class _Graph:
    """A pass through one graph, which puts the weights in."""

    weights: Path
    hashes: Mapping[str, str] | None
    content: memoryview | None = None
    tensors: frozenset[tuple[int, int]] = frozenset()
    put_in: int = 0

    def inlined(self, message: memoryview, kind: str, depth: int = 0) -> Parts | None:
        """Return the message without a reference to a file; None if it has none, and stays as it is.

        In parts, so that weights are copied once; all that stays between two references is one part.
        """
        if depth > DEEPEST:
            raise _BrokenError("it is nested too deep")
        if kind == "tensor":
            return self._tensor(message)
        inner = INNER[kind]
        made = _Message(message)
        for number, wire, whole, value in _fields(message):
            if number not in inner:
                made.keep(whole)
                continue
            _expect(wire, BYTES)
            part = self.inlined(value, inner[number], depth + 1)
            if part is None:
                made.keep(whole)
            else:
                made.replace(whole, [_tag(number), _varint(sum(map(len, part))), *part])
        return made.parts if made.changed else None

    def _tensor(self, message: memoryview) -> Parts | None:
        found = _External()
        made = _Message(message)
        for number, wire, whole, value in _fields(message):
            if number == EXTERNAL_DATA:
                _expect(wire, BYTES)
                found.add(value)
                made.replace(whole, [])
            elif number == DATA_LOCATION:
                _expect(wire, VARINT)
                found.location |= _number(value)[0]
                made.replace(whole, [])
            else:
                made.keep(whole)
        if not (found.location or found.entries):
            return None
        raw = self._weights(found)
        return [*made.parts, _tag(RAW_DATA), _varint(len(raw)), raw]

    def _weights(self, found: _External) -> memoryview:
        """Return the bytes that a tensor refers to."""
        place = found.entries.get("location", "")
        if found.location != EXTERNAL or place != self.weights.name:
            named = f"the file '{printable(place)}'" if place else "a file that it does not name"
            raise _BrokenError(f"it takes weights from {named}, wanted '{self.weights.name}' or none")
        if self.content is None:
            self.content = memoryview(read_known(self.weights, self.hashes, LARGEST))
            self.tensors = frozenset(place[1:] for place in stored_tensors(self.content).values())
        size = len(self.content)
        try:
            begin = int(found.entries.get("offset", "0"))
            length = int(found.entries.get("length", str(size - begin)))
        except ValueError:
            raise _BrokenError("the place of a tensor is not a number") from None
        if not 0 <= begin <= begin + length <= size:
            raise _BrokenError(f"it takes bytes {begin} to {begin + length} of {size} in '{place}'")
        if self.tensors and (begin, length) not in self.tensors:  # the graph of another network
            raise _BrokenError(
                f"it takes bytes {begin} to {begin + length} of '{place}', which are no tensor"
            )
        self.put_in += length
        if self.put_in > LARGEST:
            raise _BrokenError("it takes more weights than a graph can hold")
        return self.content[begin : begin + length]


@dataclass
class _External:
    """The reference of a tensor to the file and place of its numbers."""

    location: int = 0
    entries: dict[str, str] = field(default_factory=dict)

    def add(self, entry: memoryview) -> None:
        """Add a key and its value; raise if the key is there, because readers may take either value."""
        texts = {}
        for number, wire, _, value in _fields(entry):
            _expect(wire, BYTES)
            texts[number] = bytes(value).decode("utf-8", "backslashreplace")
        key = texts.get(1, "")
        if key in self.entries:
            raise _BrokenError(f"a tensor has two values of '{printable(key)}'")
        self.entries[key] = texts.get(2, "")


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """Yield the number, wire type, all bytes and the value's bytes of each field in turn."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _number(message, at)
        if tag > LARGEST_TAG:
            raise _BrokenError("its structure is broken")
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            begin = at
            _, at = _number(message, at)
        elif wire == BYTES:
            length, begin = _number(message, at)
            at = begin + length
        elif wire in (FIXED64, FIXED32):
            begin = at
            at += 8 if wire == FIXED64 else 4
        else:
            raise _BrokenError("its structure is broken")
        if at > len(message) or number == 0:
            raise _BrokenError("its structure is broken")
        yield number, wire, message[start:at], message[begin:at]


def _expect(wire: int, wanted: int) -> None:
    """Raise if the wire type is not `wanted`: a reader would skip the field and not see its content."""
    if wire != wanted:
        raise _BrokenError("its structure is broken")


def _number(message: memoryview, at: int = 0) -> tuple[int, int]:
    """Return a whole number of variable length, and the position after it."""
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _BrokenError("its structure is broken")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | BYTES)
