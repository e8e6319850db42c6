"""Read DICOM files with pydicom, with a limit on how much of a deflated data set is unpacked.

pydicom unpacks the whole data set before it parses anything: a file of 1 MB may become 1 GB. Whether a
file is deflated is not guessed from its bytes: pydicom reads the rest in one go only if it is.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

MAX_INFLATED = 1 << 30  # bytes; no single slice is larger
HEADER_BYTES = 1 << 22  # bytes of a header before its pixels
BLOCK = 1 << 16


class _Inflating:
    """A file object for pydicom, which reads the rest in one go only if the data set is deflated.

    Parameters
    ----------
    file, is_header
        Same as in `parsed`.
    """

    def __init__(self, file: BinaryIO, *, is_header: bool = False) -> None:
        self._file, self._is_header = file, is_header
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; without `size`, the deflated data, cut or checked."""
        if size is not None and size >= 0:
            return self._file.read(size)
        return _beginning(self._file) if self._is_header else _checked(self._file)


def _beginning(file: BinaryIO) -> bytes:
    """Return the first bytes of the deflated data, packed again because pydicom unpacks them."""
    start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(HEADER_BYTES), HEADER_BYTES)
    packer = zlib.compressobj(0, wbits=-zlib.MAX_WBITS)
    return packer.compress(start) + packer.flush()


def _checked(file: BinaryIO) -> bytes:
    packed = file.read()
    stream, source = zlib.decompressobj(-zlib.MAX_WBITS), BytesIO(packed)
    total = 0
    while (block := stream.unconsumed_tail or source.read(BLOCK)) and not stream.eof:
        total += len(stream.decompress(block, 1 << 20))
        if total > MAX_INFLATED:
            raise ValueError("deflated to a small part of what it unpacks to")
    return packed


def parsed(file: BinaryIO, *, is_header: bool = False, **words: Any) -> Any:
    """Read an open file with `pydicom.dcmread`, and limit how much is unpacked.

    Parameters
    ----------
    file
        The file.
    is_header
        Whether to unpack only as much of a deflated file as a header has. If not, a file that unpacks to
        more than any slice has is refused with a ValueError.
    words
        Arguments of `dcmread`.
    """
    from pydicom import dcmread

    data: Any = dcmread(_Inflating(file, is_header=is_header), **words)
    name = getattr(file, "name", None)
    data.buffer, data.filename, data.fileobj_type = None, name, None if name is None else open
    return data


def header_of(source: Path | bytes, **words: Any) -> Any:
    """Read a header with `pydicom.dcmread`, up to the pixels.

    Parameters
    ----------
    source
        The file, or its content.
    words
        Arguments of `dcmread`.
    """
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        return parsed(file, is_header=True, stop_before_pixels=True, **words)


def whole_of(path: Path, **words: Any) -> Any:
    """Read a whole file with `pydicom.dcmread`.

    Parameters
    ----------
    path
        The file.
    words
        Arguments of `dcmread`.
    """
    with path.open("rb") as file:
        return parsed(file, **words)
