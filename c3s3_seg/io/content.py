"""Read the bytes of a file once, check their number against its header, and unpack them up to a limit.

The voxels are taken from the bytes that were checked: a file is never opened a second time.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

from c3s3_seg.errors import InputError
from c3s3_seg.io.limits import AGAIN, check_dense, check_size, times

# Deflate cannot do better than 1032 : 1, so a header that claims more is wrong.
MAX_RATIO = 1032
# Writers pad to blocks of up to 64 KiB; more bytes than this after the last voxel are not padding.
MOST_SURPLUS = 1 << 20
BLOCK = 1 << 20
# Bytes of the packed stream per step. The rest of a piece is copied at each member's end: with small
# pieces, millions of tiny members take seconds and not minutes.
PIECE = 1 << 14
CHANGED, WAIT = "it changed while it was read", "Wait until nothing writes there, and run again"


@dataclass(frozen=True)
class Need:
    """The bytes that the voxels claimed by a header take in the file and in memory.

    Parameters
    ----------
    path
        The file, for messages.
    shape
        Shape that the header claims.
    start, size
        Number of bytes before the voxels, and of the voxels, in the unpacked stream.
    packed
        Whether the voxels are deflated.
    dense
        Whether this is a scan, which does not compress as tightly as a mask.
    """

    path: Path
    shape: tuple[int, ...]
    start: int
    size: int
    packed: bool
    dense: bool = False

    @property
    def end(self) -> int:
        """The number of unpacked bytes up to the end of the voxels."""
        return self.start + self.size

    def check(self, there: int) -> None:
        """Check, before allocation, that the voxels are all there, not too many, and fit into memory.

        Parameters
        ----------
        there
            Number of bytes that the file has for this stream.

        Raises
        ------
        InputError
            If the file cannot hold the voxels or holds far more, or they are too many or packed too tightly.
        MemoryLimitError
            If the voxels do not fit into the memory that is available.
        """
        if self.end > there * (MAX_RATIO if self.packed else 1):
            raise self.short(None if self.packed else there)
        # Bytes that deflate cannot compress grow by less than a thousandth.
        if there > self.end * (2 if self.packed else 1) + MOST_SURPLUS:
            raise self.surplus()
        check_size(self.path, self.shape, self.size, there if self.packed else 0)
        if self.dense and self.packed:
            check_dense(self.path, there, self.end)

    def short(self, got: int | None) -> InputError:
        """Return the error for a file that ends too early."""
        found = "far more than the file can hold" if got is None else f"found {got}"
        what = (
            f"the file is truncated, or its header is wrong: {times(self.shape)} voxels need {self.end} bytes"
        )
        return InputError(f"{what}, {found}", where=self.path, todo=AGAIN)

    def surplus(self) -> InputError:
        """Return the error for a file that holds far more than its header states."""
        what = (
            f"the header does not fit the file: more than {MOST_SURPLUS} bytes follow the last of"
            f" {times(self.shape)} voxels"
        )
        return InputError(what, where=self.path, todo=AGAIN)


class Opened:
    """A regular file that is read once: its beginning first, then the rest if the checks pass.

    Parameters
    ----------
    path
        Path of the file; a FIFO or a device is refused, not waited for.

    Raises
    ------
    InputError
        If `path` is not a regular file, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._head = path, b""
        try:
            # Without O_NONBLOCK, opening a FIFO waits for its other end.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror or error}", where=path) from error
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            what = "this is no file that can be read, but a pipe, a device or a folder"
            raise InputError(what, where=path)
        self._file, self.size = os.fdopen(handle, "rb", buffering=0), status.st_size

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def raw(self) -> FileIO:
        """The open file, for a library that reads from a file object."""
        return self._file

    def begin(self, count: int) -> bytes:
        """Return the first `count` bytes, or all bytes of a shorter file."""
        wanted = bytearray(max(0, min(count, self.size) - len(self._head)))
        self._head += bytes(wanted[: self._fill(memoryview(wanted))])
        return self._head[:count]

    def whole(self) -> bytearray:
        """Return all bytes, as many as the file had when it was opened.

        Raises
        ------
        InputError
            If the file has more or fewer bytes by now.
        """
        content = bytearray(self.size)
        content[: len(self._head)] = self._head
        got = len(self._head) + self._fill(memoryview(content)[len(self._head) :])
        if got < self.size or os.fstat(self._file.fileno()).st_size != self.size:
            raise self._changed()
        return content

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield all bytes in blocks of `size`, so that the file need not be in memory as a whole."""
        left = self.size
        while left > 0:
            block = bytearray(min(size, left))
            got = self._fill(memoryview(block))
            if got < len(block):
                raise self._changed()
            left -= got
            yield bytes(block)
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(CHANGED, where=self.path, todo=WAIT)

    def _fill(self, into: memoryview) -> int:
        got = 0
        try:
            while got < len(into) and (count := self._file.readinto(into[got:])):
                got += count
        except OSError as error:
            what = f"the file cannot be read: {error.strerror or error}"
            raise InputError(what, where=self.path) from error
        return got


def unpack(packed: memoryview, need: Need) -> tuple[bytearray, int]:
    """Return the bytes up to the end of the voxels, and how many follow; verify the checksum at the end.

    Parameters
    ----------
    packed
        A zlib stream, or a gzip stream of one or several members.
    need
        Number of bytes that are needed.

    Raises
    ------
    InputError
        If the stream is cut or damaged, or has too few or far too many bytes.
    """
    content, got = bytearray(need.end), 0
    try:
        for block in _blocks(packed):
            part = block[: max(0, need.end - got)]
            content[got : got + len(part)] = part
            got += len(block)
            if got > need.end + MOST_SURPLUS:
                raise need.surplus()
    except (EOFError, zlib.error) as error:
        raise damaged(need.path) from error
    if got < need.end:
        raise need.short(got)
    return content, got - need.end


def unpack_head(packed: bytes, count: int, path: Path) -> bytes:
    """Return the first `count` unpacked bytes of a stream, from its first packed bytes.

    Raises
    ------
    InputError
        If the stream is damaged.
    """
    head = b""
    try:
        # Small blocks, because a mask is packed so tightly that a large block would unpack all of it.
        for block in _blocks(memoryview(packed), count):
            head += block
            if len(head) >= count:
                break
    except EOFError:
        pass  # expected: these are only the first bytes
    except zlib.error as error:
        raise damaged(path) from error
    return head[:count]


def _blocks(packed: memoryview, size: int = BLOCK) -> Iterator[bytes]:
    """Yield the unpacked stream in small blocks; bytes after it that are no further member, unchanged."""
    stream = zlib.decompressobj(wbits=47)  # detects by itself whether the stream is zlib or gzip
    for start in range(0, len(packed), PIECE):
        rest = bytes(packed[start : start + PIECE])
        while rest:
            if stream.eof:
                rest = rest.lstrip(b"\0")  # tapes and block devices pad with zeros
                if not rest:
                    break
                if not rest.startswith(b"\x1f"):
                    yield rest
                    break
                stream = zlib.decompressobj(wbits=31)
            yield stream.decompress(rest, size)
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
    yield stream.flush()
    if not stream.eof:
        raise EOFError


def damaged(path: Path) -> InputError:
    """Return the error for a packed file that is not complete or fails its checksum."""
    what = "the compressed file is damaged: its stream ends too early or fails its checksum"
    return InputError(what, where=path, todo=AGAIN)
