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
# Bytes of a header before its pixels: of most files; of a SEG with 150,000 frames, some 420 bytes for each.
HEADER_BYTES, LARGE_HEADER_BYTES = 1 << 22, 1 << 26
BLOCK = 1 << 16


class _Inflating:
    """A file object for pydicom, which reads the rest in one go only if the data set is deflated.

    Parameters
    ----------
    file
        The file.
    most
        Number of unpacked bytes after which the data are cut. None: data that unpack to more than any slice
        has are refused.
    """

    def __init__(self, file: BinaryIO, most: int | None = None) -> None:
        self._file, self._most, self.is_cut = file, most, False
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; without `size`, the deflated data, cut or checked."""
        if size is not None and size >= 0:
            return self._file.read(size)
        return _checked(self._file) if self._most is None else self._beginning(self._most)

    def _beginning(self, most: int) -> bytes:
        """Return the first bytes of the deflated data, packed again because pydicom unpacks them."""
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        start = stream.decompress(self._file.read(most), most)
        self.is_cut = not stream.eof
        return _packed(start)


def _packed(start: bytes) -> bytes:
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


def parsed(file: BinaryIO, **words: Any) -> Any:
    """Read an open file with `pydicom.dcmread`; raise ValueError if it unpacks to more than any slice has.

    Parameters
    ----------
    file
        The file.
    words
        Arguments of `dcmread`.
    """
    from pydicom import dcmread

    return _from_file(dcmread(_Inflating(file), **words), file)


def _from_file(data: Any, file: BinaryIO) -> Any:
    """Return a data set as if pydicom had read it from the file itself."""
    name = getattr(file, "name", None)
    data.buffer, data.filename, data.fileobj_type = None, name, None if name is None else open
    return data


def parsed_header(file: BinaryIO, **words: Any) -> Any:
    """Read the header of an open file, up to the pixels, and unpack only as much as a header has.

    Parameters
    ----------
    file
        The file.
    words
        Arguments of `dcmread`.
    """
    from pydicom import dcmread

    start = file.tell()
    for most in (HEADER_BYTES, LARGE_HEADER_BYTES):
        file.seek(start)
        source, is_last = _Inflating(file, most), most == LARGE_HEADER_BYTES
        try:
            data: Any = dcmread(source, stop_before_pixels=True, **words)
        except Exception:  # pydicom raises whatever its parser trips over, here over the cut
            if is_last or not source.is_cut:
                raise
        else:
            if is_last or not source.is_cut or data.buffer.read(1):  # it has stopped before the pixels
                break
    return _from_file(data, file)


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
        return parsed_header(file, **words)


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
