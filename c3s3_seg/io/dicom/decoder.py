"""Decode compressed pixels in a child process with bounded memory and time.

Decoders of JPEG and related formats are C code, and a damaged or malicious file can crash them, make
them run for ever or exhaust the memory. That ends the child, and the parent refuses this one file.

Run as a program, this module is the child: it reads a line of JSON, and writes one and the pixels.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from c3s3_seg.errors import cause_of
from c3s3_seg.geometry.volume import Array
from c3s3_seg.system.names import absolute, printable

# A frame of 512 x 512 takes 0.05 s at most, and starting the child 0.5 s, on an idle machine. On a busy
# machine the child waits for its turn: after FRAME_S its processor time counts, up to LONGEST_S.
START_S, FRAME_S, LONGEST_S = 30.0, 8.0, 60.0
STEP_S = 0.25
MEMORY = 1 << 31  # bytes, above the memory of the child when it is ready
MAX_FRAME = 1 << 29  # bytes of one decoded frame
PIPE = 1 << 20  # bytes: a frame of 512 x 512 goes through at once, not in eight pieces
FASTEST = "pyjpegls"
NOT_STARTED = "the decoder did not start"  # the machine's fault: a later run tries again
# Attributes that decoding a frame requires (PS3.3, C.7.6.3).
NEEDED = (
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
)
RLE, JPEG_EXTENDED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.51"


class DecoderRefusal(Exception):  # noqa: N818 - an answer of the child, not an error of this package
    """The reason why the pixels of a file cannot be decoded. `todo` is set if the file is not damaged."""

    def __init__(self, why: str, todo: str = "") -> None:
        super().__init__(why)
        self.todo = todo


class PixelDecoder:
    """The parent's end of the decoder. A child that died is restarted for the next file."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()  # one for all frames: a new buffer costs as much as reading a frame

    def pixels(self, path: Path, frame: int | None, shape: tuple[int, int]) -> Array:
        """Return the stored pixels (row, column) of a file or frame, not rescaled; valid until the next call.

        Raises
        ------
        DecoderRefusal
            If the frame is too large, or its decoder is missing, failed, or took too long or too much memory.
        """
        if shape[0] * shape[1] * 4 > MAX_FRAME:
            raise DecoderRefusal(f"{shape[0]} x {shape[1]} pixels in one frame")
        if self._child is None:
            self._child = self._start()
        question = {"path": absolute(path), "frame": frame}
        try:
            return self._ask(self._child, json.dumps(question).encode() + b"\n")
        except (TimeoutError, EOFError, OSError) as error:
            self.close()
            slow = isinstance(error, TimeoutError)
            raise DecoderRefusal("the decoder took too long" if slow else "the decoder crashed") from None

    def close(self) -> None:
        """End the child process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # One thread: the linear algebra library, which is not used, would reserve memory for each thread.
        home = str(Path(__file__).parents[3])
        paths = os.pathsep.join(p for p in (home, os.environ.get("PYTHONPATH")) if p)
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        # -P: nothing is imported from the working folder, which may hold anything.
        command = [sys.executable, "-P", "-m", "c3s3_seg.io.dicom.decoder"]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        _widen(child.stdout)
        try:
            _line(child, START_S)
        except (TimeoutError, EOFError, OSError):
            self._child = child
            self.close()
            todo = "The file may be sound: see whether there is memory left, and try again"
            raise DecoderRefusal(f"cannot be decoded: {NOT_STARTED}", todo) from None
        return child

    def _ask(self, child: subprocess.Popen[bytes], question: bytes) -> Array:
        if child.stdin is None:
            raise EOFError
        child.stdin.write(question)
        reply = json.loads(_line(child, FRAME_S))
        if "error" in reply:
            raise DecoderRefusal(reply["error"], reply.get("todo", ""))
        dtype, shape = np.dtype(reply["dtype"]), tuple(reply["shape"])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size > MAX_FRAME:
            raise DecoderRefusal("it unpacks to more than its header says")
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        _fill(child, memoryview(self._buffer)[:size], FRAME_S)
        return np.frombuffer(self._buffer, dtype, size // dtype.itemsize).reshape(shape)


def _widen(pipe: IO[bytes] | None) -> None:
    """Enlarge the buffer of a pipe, if the system supports and permits it."""
    if sys.platform != "linux":
        return
    import fcntl

    if pipe is not None:
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


def _wait(child: subprocess.Popen[bytes], pipe: IO[bytes], waited_s: float, limit_s: float) -> float:
    """Wait for something to read; raise TimeoutError when the child has worked for too long, or hangs.

    `waited_s` is the time waited before; the result adds the time waited now. The time is counted and not
    taken from a clock: a program that was stopped, or slept with its machine, has not waited.
    """
    worked = None  # read only if there is nothing to read yet
    while sys.platform != "win32" and not select.select([pipe], [], [], STEP_S)[0]:
        waited_s += STEP_S
        now = _worked_s(child.pid)
        worked = now if worked is None else worked
        if waited_s > max(limit_s, LONGEST_S) or (waited_s > limit_s and not now - worked < 0.5 * limit_s):
            raise TimeoutError
    return waited_s


def _worked_s(pid: int) -> float:
    """Return the processor time of a process so far, in s; infinite if it cannot be determined."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float("inf")


def _line(child: subprocess.Popen[bytes], limit_s: float) -> bytes:
    line, byte = b"", bytearray(1)
    while not line.endswith(b"\n"):
        _fill(child, memoryview(byte), limit_s)
        line += byte
    return line


def _fill(child: subprocess.Popen[bytes], view: memoryview, limit_s: float) -> None:
    """Fill the view with bytes from the child."""
    pipe = child.stdout
    if pipe is None:
        raise EOFError
    waited_s, got = 0.0, 0
    while got < len(view):
        waited_s = _wait(child, pipe, waited_s, limit_s)
        count = pipe.readinto(view[got:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        got += count


def main() -> None:
    """Run the child: answer questions until its input ends."""
    import warnings

    # pydicom would import `requests`, to download examples, which makes the child start a quarter later.
    sys.modules["requests"] = None  # type: ignore[assignment]
    import pydicom  # before the limit, which excludes memory in use already

    warnings.simplefilter("ignore")
    replies, questions = sys.stdout.buffer, sys.stdin.buffer
    _limit()
    replies.write(b"ready\n")
    replies.flush()
    held: dict[str, Any] = {}
    for line in questions:
        question = json.loads(line)
        try:
            if question["path"] not in held:
                held = {question["path"]: _open(Path(question["path"]), pydicom)}
            pixels = _decode(held[question["path"]], question["frame"])
        except DecoderRefusal as refused:
            _send(replies, {"error": str(refused), "todo": refused.todo})
            continue
        except Exception as error:  # pydicom and its decoders raise errors of any type
            _send(replies, {"error": cause_of(error)})
            continue
        _send(replies, {"dtype": pixels.dtype.str, "shape": pixels.shape})
        replies.write(np.ascontiguousarray(pixels).data)
        replies.flush()


def _send(replies: IO[bytes], reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def _limit() -> None:
    if sys.platform == "win32":
        return
    import resource

    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _open(path: Path, pydicom: Any) -> Any:
    from c3s3_seg.io.dicom.header import read_whole

    data = read_whole(path)
    _check_holds_pixels(data)
    syntax = data.file_meta.TransferSyntaxUID
    if syntax not in pydicom.uid.AllTransferSyntaxes:  # private, or newer than this pydicom
        why = f"is stored in the transfer syntax '{printable(str(syntax))}', which is not known here"
        raise DecoderRefusal(why, "Export it uncompressed")
    if syntax.is_encapsulated:
        _check_decoder(syntax, int(data.BitsStored))
        _check_end(data, path)
    return data


def _check_holds_pixels(data: Any) -> None:
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in data:
            why = f"holds {keyword}, which no slice of CT, MR or PET has; wanted whole numbers in PixelData"
            raise DecoderRefusal(
                why, "The file is whole: have it exported with PixelData, or convert it to NIfTI"
            )
    if "PixelData" not in data:
        raise DecoderRefusal("it holds no PixelData")
    lacks = [keyword for keyword in NEEDED if data.get(keyword) is None]
    if lacks:
        todo = "The file is whole, its header is not valid: have the series exported again"
        raise DecoderRefusal(f"cannot be decoded: its header has no {', '.join(lacks)}", todo)


def _check_decoder(syntax: Any, bits: int) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies) if decoder else ""
        todo = f"Install one of its decoders ({needs})" if needs else "Export it uncompressed"
        raise DecoderRefusal(f"is compressed as {syntax.name}, for which no decoder is installed", todo)
    if syntax == JPEG_EXTENDED and bits > 8 and "pylibjpeg" not in decoder.available_plugins:
        why = f"is compressed as {syntax.name} with {bits} bits, which the installed decoders cannot read"
        raise DecoderRefusal(why, "Export it uncompressed, or install pylibjpeg-libjpeg (under the GPL)")


def _check_end(data: Any, path: Path) -> None:
    """Raise EOFError if pixels of undefined length lack their delimiter (PS3.5, A.4): the file is cut."""
    pixels = data["PixelData"]
    if not pixels.is_undefined_length:
        return
    with path.open("rb") as file:
        file.seek(pixels.file_tell + len(pixels.value))
        if file.read(8) != b"\xfe\xff\xdd\xe0" + bytes(4):
            raise EOFError("no sequence delimiter after the pixels")


def _decode(data: Any, frame: int | None) -> Array:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return np.asarray(pixel_array(data, index=frame))
    # For JPEG-LS pydicom tries GDCM first, which takes 1.4 times as long.
    plugin = FASTEST if FASTEST in get_decoder(syntax).available_plugins else ""
    pixels = np.asarray(pixel_array(data, index=frame, decoding_plugin=plugin))
    if syntax != RLE:
        _check_range(pixels, int(data.BitsStored))
    return pixels


def _check_range(pixels: Array, bits: int) -> None:
    """Refuse values that the header's bits cannot hold: JPEG streams have a bit depth of their own.

    In RLE, as in plain pixels, overlays may use the bits above BitsStored; here none may (PS3.5, 8.1.1).
    """
    low = -(1 << bits - 1) if pixels.dtype.kind == "i" else 0
    if int(pixels.min()) < low or int(pixels.max()) >= 1 << bits:
        raise DecoderRefusal(f"it holds values that its header's {bits} bits cannot")


if __name__ == "__main__":
    main()
