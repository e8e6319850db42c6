"""The bytes of a file, read once: no more than its header needs, unpacked with a cap, hashed as read.

What is proven of a file and what is taken from it are the same bytes: nothing opens it a second time.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from c3s3_seg.errors import InputError, MemoryLimitError

# Deflate cannot do better than 1032 : 1, so a header that claims more than that is not true.
MAX_RATIO = 1032
# A micro-CT of 2000 x 2000 x 1000 voxels has 4e9; the largest clinical scans have 5e8.
MOST_VOXELS = 1 << 32
# Writers pad to blocks of up to 64 KiB; more than this after the last voxel is something else.
MOST_SURPLUS = 1 << 20
# Scans deflate to a half or, with much air, to a tenth of their size; only masks shrink 1000 : 1.
DENSE_RATIO, DENSE_FLOOR = 200, 1 << 28
# Below this nobody asks how much memory there is.
SMALL = 1 << 26
BLOCK = 1 << 20
AGAIN = "Copy or export it again"
CHANGED, WAIT = "it changed while it was read", "Wait until nothing writes there, and run again"


@dataclass(frozen=True)
class Need:
    """What the voxels that a header claims will take.

    Parameters
    ----------
    path
        The file, for messages.
    shape
        As claimed.
    start, size
        Bytes before the voxels, and of the voxels, in the unpacked stream.
    packed
        Whether they are deflated.
    dense
        Whether this is a scan, which does not shrink as a mask does.
    """

    path: Path
    shape: tuple[int, ...]
    start: int
    size: int
    packed: bool
    dense: bool = False

    @property
    def end(self) -> int:
        """Bytes up to the end of the voxels, unpacked."""
        return self.start + self.size

    def check(self, there: int) -> None:
        """Before anything is allocated: are they all there, few enough, and is there memory for them?

        Parameters
        ----------
        there
            Bytes that the file has for this stream.

        Raises
        ------
        InputError
            If the file cannot hold them, holds far more than them, or they are too many.
        MemoryLimitError
            If they do not fit into the memory that is available.
        """
        if self.end > there * (MAX_RATIO if self.packed else 1):
            raise self.short(None if self.packed else there)
        # What cannot be deflated grows by less than a thousandth.
        if there > self.end * (2 if self.packed else 1) + MOST_SURPLUS:
            raise self.surplus()
        check_size(self.path, self.shape, self.size, there if self.packed else 0)
        if self.dense and self.packed:
            check_dense(self.path, there, self.end)

    def short(self, got: int | None) -> InputError:
        """The refusal of a file that ends too early."""
        found = "far more than the file can hold" if got is None else f"found {got}"
        what = (
            f"the file is truncated, or its header is wrong: {times(self.shape)} voxels need {self.end} bytes"
        )
        return InputError(f"{what}, {found}", where=self.path, todo=AGAIN)

    def surplus(self) -> InputError:
        """The refusal of a file that holds far more than its header says."""
        what = (
            f"the header does not fit the file: more than {MOST_SURPLUS} bytes follow the last of"
            f" {times(self.shape)} voxels"
        )
        return InputError(what, where=self.path, todo=AGAIN)


class Opened:
    """A regular file that is read once: its beginning first, then the rest if that may be read.

    Parameters
    ----------
    path
        A FIFO or a device is refused, not waited for.

    Raises
    ------
    InputError
        If it is no regular file, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._head = path, b""
        try:
            # Without O_NONBLOCK, opening a FIFO waits for its other end.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror or error}", where=path) from error
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            os.close(handle)
            what = "this is no file that can be read, but a pipe, a device or a folder"
            raise InputError(what, where=path)
        self._file, self.size = os.fdopen(handle, "rb", buffering=0), facts.st_size

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def raw(self) -> BinaryIO:
        """The file itself, for a library that reads from one that is open."""
        return cast("BinaryIO", self._file)

    def begin(self, count: int) -> bytes:
        """The first bytes: `count` of them, or all that there are."""
        wanted = bytearray(max(0, min(count, self.size) - len(self._head)))
        self._head += bytes(wanted[: self._fill(memoryview(wanted))])
        return self._head[:count]

    def whole(self) -> bytearray:
        """All bytes, as many as there were when it was opened.

        Raises
        ------
        InputError
            If there are more or fewer by now.
        """
        content = bytearray(self.size)
        content[: len(self._head)] = self._head
        got = len(self._head) + self._fill(memoryview(content)[len(self._head) :])
        if got < self.size or os.fstat(self._file.fileno()).st_size != self.size:
            raise self._changed()
        return content

    def blocks(self, size: int) -> Iterator[bytes]:
        """All bytes, a few at a time: of a file that need not be in memory as a whole."""
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
    """The bytes up to the end of the voxels, and how many follow; read to the end, where the checksum is.

    Parameters
    ----------
    packed
        A zlib stream, or a gzip stream of one or several members.
    need
        How many bytes are wanted.

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
    """The first `count` bytes of a stream, from its own first bytes.

    Raises
    ------
    InputError
        If it is damaged.
    """
    head = b""
    try:
        for block in _blocks(memoryview(packed)):
            head += block
            if len(head) >= count:
                break
    except EOFError:
        pass  # of course: these are its first bytes only
    except zlib.error as error:
        raise damaged(path) from error
    return head[:count]


def _blocks(packed: memoryview) -> Iterator[bytes]:
    """What a stream unpacks to, in small blocks; what follows it and is no further member comes as it is."""
    stream = zlib.decompressobj(wbits=47)  # finds out by itself whether it is zlib or gzip
    for start in range(0, len(packed), BLOCK):
        rest = bytes(packed[start : start + BLOCK])
        while rest:
            if stream.eof:
                rest = rest.lstrip(b"\0")  # tapes and block devices pad with zeros
                if not rest:
                    break
                if not rest.startswith(b"\x1f"):
                    yield rest
                    break
                stream = zlib.decompressobj(wbits=31)
            yield stream.decompress(rest, BLOCK)
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
    yield stream.flush()
    if not stream.eof:
        raise EOFError


def damaged(path: Path) -> InputError:
    """The refusal of a packed file that is not whole."""
    what = "the compressed file is damaged: its stream ends too early or fails its checksum"
    return InputError(what, where=path, todo=AGAIN)


def check_dense(path: Path, packed: int, size: int) -> None:
    """Refuse what unpacks to gigabytes and cannot be a scan, whose noise is not packed so tightly.

    Parameters
    ----------
    path
        The file.
    packed, size
        Bytes as they are stored, and unpacked.

    Raises
    ------
    InputError
        If it is that.
    """
    if size > max(DENSE_FLOOR, DENSE_RATIO * packed):
        what = f"{packed} bytes unpack to {size}: no scan can be packed so tightly"
        raise InputError(what, where=path, todo=AGAIN)


def check_size(path: Path, shape: tuple[int, ...], size: int, beside: int = 0) -> None:
    """Refuse voxels that are too many, or more than there is memory for, before it is allocated.

    Parameters
    ----------
    path
        The file.
    shape
        As its header claims it.
    size
        Bytes of the voxels.
    beside
        Bytes of the file that are held as well.

    Raises
    ------
    InputError
        If they are too many.
    MemoryLimitError
        If the memory does not suffice.
    """
    voxels = 1
    for side in shape:
        voxels *= int(side)
    if voxels > MOST_VOXELS:
        what = f"the header claims {times(shape)} voxels; up to {MOST_VOXELS} are read"
        raise InputError(what, where=path, todo="Give the part that matters, or a coarser scan")
    needed = size + 4 * voxels + beside  # all that comes after works on a copy in float32
    if needed > SMALL and needed > (free := free_bytes()):
        what = (
            f"the memory did not suffice: {times(shape)} voxels take {needed / 1e9:.1f} GB,"
            f" {free / 1e9:.1f} GB are free"
        )
        raise MemoryLimitError(what, where=path, todo="Give more memory, or a coarser scan")


def times(shape: tuple[int, ...]) -> str:
    """`4 x 5 x 6`."""
    return " x ".join(str(n) for n in shape)


def free_bytes() -> float:
    """Memory that this process could still get: of the machine, its container and its own limit."""
    free = [float(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvail")]
    for most, used, facts, key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file "),
        (
            "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
            "total_inactive_file ",
        ),
    ):  # fmt: skip
        limit, taken = (" ".join(_lines(f"/sys/fs/cgroup/{name}")) for name in (most, used))
        if limit.isdecimal() and taken.isdecimal():
            # What files are cached goes before anything is refused.
            cached = [int(x.split()[1]) for x in _lines(f"/sys/fs/cgroup/{facts}") if x.startswith(key)]
            free.append(float(int(limit) - int(taken) + sum(cached)))
    return min([*free, *_own_limit()], default=float("inf"))


def _own_limit() -> list[float]:
    """What `ulimit -v` leaves, where there is such a thing and it is set."""
    try:
        import resource
    except ImportError:
        return []
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = " ".join(_lines("/proc/self/statm")).split()
    if limit == resource.RLIM_INFINITY or not pages:
        return []
    return [float(limit - int(pages[0]) * resource.getpagesize())]


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
