"""Read the pixels of slices: decoded, without bits that are no pixel value, rescaled."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import C3S3Error, InputError, cause_of, quantity, shown
from c3s3_seg.geometry.volume import Array, narrow
from c3s3_seg.io.dicom.decoder import DecoderRefusal, PixelDecoder
from c3s3_seg.io.dicom.header import Slice
from c3s3_seg.io.limits import check_size
from c3s3_seg.system.names import printable


@dataclass(frozen=True)
class PixelPlane:
    """The rescaled pixels (row, column) of a slice, and a mask of those that are padding, if any.

    The values are float32, or float64 where an intercept far above the slope would merge them in float32.
    """

    values: Array
    padding: NDArray[np.bool_] | None


class Pixels:
    """A reader of slice pixels. Use it in a `with`: compressed pixels are decoded in a child process.

    Parameters
    ----------
    root
        The folder that messages name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._decoder: PixelDecoder | None = None
        # For slices with an odd HighBit: whether their lowest bits are used, None if all values are 0.
        self._loose: dict[str, bool | None] = {}

    def __enter__(self) -> Pixels:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._decoder is not None:
            self._decoder.close()

    def read(self, item: Slice, out: Array | None = None) -> PixelPlane:
        """Read the pixels of one slice, into `out` (row, column) if given.

        Raises
        ------
        InputError
            If the pixels cannot be decoded, are not as many as the header states, or are not finite.
        """
        try:
            # Before pydicom fails on the same fault; but pixels in floating point have no BitsStored.
            bits = _Bits.of(item) if item.text("BitsStored") else None
            stored = self._stored(item)
            bits = bits or _Bits.of(item)
            clean = bits.clean(stored)
            if bits.unused:
                self._loose[item.name] = bits.uses_low_bits(stored, clean)
            values = bits.scale(clean, out)
            padding = bits.padding(stored, clean)
        except (C3S3Error, MemoryError):
            raise
        except _Odd as odd:
            raise InputError(
                f"the pixels of '{item.name}' cannot be decoded: {odd}",
                where=self.root,
                todo="The file is whole, its header is not valid: have the series exported again",
            ) from None
        except Exception as error:  # a damaged header can hold anything
            if isinstance(error, OSError) and error.errno:
                what = f"the file '{item.name}' cannot be read: {cause_of(error)}"
                todo = "See whether the disk or the share answers: a later run tries again"
                raise InputError(what, where=self.root, todo=todo) from error
            raise self._damaged(item, cause_of(error)) from error
        if not ((stored.dtype.kind != "f" and bits.whole) or np.isfinite(values).all()):
            raise InputError(f"the file '{item.name}' has NaN or infinite pixel values", where=self.root)
        return PixelPlane(values, padding)

    def notes(self) -> tuple[str, ...]:
        """Return the notes on all slices that were read.

        Raises
        ------
        InputError
            If HighBit states that the values lie in the upper bits, and no value contradicts this.
        """
        if not self._loose:
            return ()
        name, count = next(iter(self._loose)), len(self._loose)
        told = {used for used in self._loose.values() if used is not None}
        if told == {False}:
            raise InputError(
                f"HighBit of '{name}' is not BitsStored - 1, and no value uses the lowest bits: whether the"
                " values lie in the upper or in the lower bits is not known",
                where=self.root,
                todo="The file is whole, its header is not valid: have the series exported again",
            )
        found = quantity(count, "slice")
        return (f"HighBit is not BitsStored - 1 in {found}: no value needs more bits than BitsStored",)

    def kind(self, slices: list[Slice]) -> type[np.floating[Any]]:
        """Return the type that holds the values of all slices. Unreadable ones are refused when read."""
        wide = False
        for item in slices:
            with suppress(ValueError, _Odd):
                wide = wide or _Bits.of(item).kind is np.float64
        return np.float64 if wide else np.float32

    def _stored(self, item: Slice) -> Array:
        shape = item.number("Rows", 0), item.number("Columns", 0)
        pixels = _plain(item, shape)
        if pixels is not None:
            return pixels
        if self._decoder is None:
            self._decoder = PixelDecoder()
        try:
            pixels = self._decoder.pixels(item.path, item.frame, shape)
        except DecoderRefusal as refused:
            if refused.todo:
                raise InputError(f"'{item.name}' {refused}", where=self.root, todo=refused.todo) from None
            raise self._damaged(item, str(refused)) from None
        if pixels.shape != shape:
            what = f"'{item.name}' holds {shown(pixels.shape)} pixels where its header says {shown(shape)}"
            raise InputError(what, where=self.root)
        return pixels

    def _damaged(self, item: Slice, why: str) -> InputError:
        return InputError(
            f"the file '{item.name}' is damaged: its pixels cannot be decoded ({why})",
            where=self.root,
            todo="Copy or export the series again",
        )


def _plain(item: Slice, shape: tuple[int, int]) -> Array | None:
    """Return pixels that are stored uncompressed in the file; None leaves them to pydicom."""
    size = item.number("BitsAllocated", 0)
    if item.plain is None or size not in (8, 16, 32) or min(shape) < 1:
        return None
    kind = "i" if item.number("PixelRepresentation", 0) else "u"
    needed, (start, held) = shape[0] * shape[1] * size // 8, item.plain
    if held < needed:  # bytes after the pixels in the file are no pixels
        raise EOFError
    if held >= 2 * needed:
        what = f"it holds {held} bytes of pixels, and {shape[0]} x {shape[1]} of {size} bits are {needed}"
        raise _Odd(what)
    with item.path.open("rb") as file:
        file.seek(start)
        content = file.read(min(needed, 1 << 31))
    if len(content) < needed:
        raise EOFError
    return np.frombuffer(content, np.dtype(f"<{kind}{size // 8}")).reshape(shape)


class _Odd(Exception):  # noqa: N818 - it is turned into an InputError
    """The error for a header whose statements about its pixels cannot be true."""


@dataclass(frozen=True)
class _Bits:
    """The meaning of the stored numbers. `unused`: number of low bits without data, if HighBit is right."""

    stored: int
    unused: int
    slope: float
    intercept: float
    pad: tuple[int, int] | None

    @classmethod
    def of(cls, item: Slice) -> _Bits:
        allocated, stored = item.number("BitsAllocated", 0), item.number("BitsStored", 0)
        high = item.number("HighBit", allocated - 1)
        if not 1 <= stored <= allocated:
            found = f"BitsStored {stored}" if item.text("BitsStored") else "no BitsStored"
            raise _Odd(f"it has {found} with BitsAllocated {allocated}")
        if allocated % 8:
            raise _Odd(f"it has BitsAllocated {allocated}; wanted 8, 16 or 32")
        if high not in (stored - 1, allocated - 1):
            raise _Odd(f"it has HighBit {high} with BitsStored {stored}; wanted {stored - 1}")
        slope, intercept = _number(item, "RescaleSlope", 1), _number(item, "RescaleIntercept", 0)
        if slope == 0:
            raise _Odd("it has RescaleSlope 0, which makes all values the same")
        signed = item.text("PixelRepresentation")
        if signed not in ("0", "1"):
            found = (
                f"has PixelRepresentation '{printable(signed)}'" if signed else "has no PixelRepresentation"
            )
            raise _Odd(f"its header {found}; wanted 0 (unsigned) or 1 (signed)")
        return cls(stored, high + 1 - stored, slope, intercept, _pad(item))

    def uses_low_bits(self, pixels: Array, clean: Array) -> bool | None:
        """Return whether a value uses the low bits that HighBit declares unused; None if all values are 0.

        Raises
        ------
        _Odd
            If a value uses bits above BitsStored, so that its lower bits alone are not the value.
        """
        if not (np.array_equal(clean, pixels) or ((pixels >> self.stored) == 0).all()):
            raise _Odd(
                f"it has HighBit {self.stored + self.unused - 1} with BitsStored {self.stored}, and values"
                f" from {int(pixels.min())} to {int(pixels.max())}; wanted HighBit {self.stored - 1}"
            )
        if not pixels.any():
            return None
        return bool((pixels & ((1 << self.unused) - 1)).any())

    def clean(self, pixels: Array) -> Array:
        """Drop the bits above BitsStored, where old files keep overlays (PS3.5, 8.1.1)."""
        if pixels.dtype.kind == "f":
            return pixels
        spare = pixels.dtype.itemsize * 8 - self.stored
        # Shifting up and down again drops the spare bits, and extends the sign where there is one.
        return np.asarray((pixels << spare) >> spare) if spare else pixels

    @property
    def kind(self) -> type[np.floating[Any]]:
        """The type of the values: float32, or float64 where float32 (24 bits) would merge neighbours."""
        wide = self.stored > 24 or abs(self.intercept) > abs(self.slope) * (1 << 20)
        return np.float64 if wide else np.float32

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers that float32 holds exactly: up to 2^24."""
        numbers = self.slope.is_integer() and self.intercept.is_integer()
        return numbers and self.stored <= 16 and abs(self.slope) * 65536 + abs(self.intercept) < 1 << 24

    def scale(self, pixels: Array, out: Array | None) -> Array:
        """Apply slope and intercept; unless they are whole, in float64 first: one rounding, at the end."""
        values = np.empty(pixels.shape, self.kind) if out is None else out
        if pixels.dtype.kind == "f" or not self.whole:
            with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused later
                values[...] = pixels * np.float64(self.slope) + np.float64(self.intercept)
            return values
        values[...] = pixels
        if self.slope != 1:
            values *= np.float32(self.slope)
        if self.intercept != 0:
            values += np.float32(self.intercept)
        return values

    def padding(self, pixels: Array, clean: Array) -> NDArray[np.bool_] | None:
        """Return a mask of the pixels that only pad the image to a rectangle (PS3.3, C.7.5.1.1.2), or None.

        The padding value is compared with the pixels as stored and without the bits above BitsStored: the
        value may need more bits than that, and a negative value may be stored without its sign in those bits.
        """
        if self.pad is None or pixels.dtype.kind == "f":
            return None
        ends = [_stored_as(number, pixels.dtype) for number in self.pad]
        if ends[0] is None:
            return None
        low, high = ends[0], ends[0] if ends[1] is None else ends[1]
        found = (pixels >= min(low, high)) & (pixels <= max(low, high))
        if clean is not pixels:
            found |= (clean >= min(low, high)) & (clean <= max(low, high))
        return found if found.any() else None


def _number(item: Slice, keyword: str, default: float) -> float:
    text = item.text(keyword)
    try:
        value = float(text or default)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise _Odd(f"it has {keyword} '{printable(text)}'; wanted a number")
    return value


def _pad(item: Slice) -> tuple[int, int] | None:
    text, limit = item.text("PixelPaddingValue"), item.text("PixelPaddingRangeLimit")
    try:
        return (int(text), int(limit or text)) if text else None
    except ValueError:
        return None


def _stored_as(number: int, dtype: np.dtype[Any]) -> np.integer[Any] | None:
    """Return a padding value as a pixel of an integer type; None if no pixel of that type can have it.

    A value that does not fit is left from a conversion to fewer bits: cut to them, it would be the value of
    real pixels. Whether a negative value is written signed or unsigned differs from file to file.
    """
    bits = dtype.itemsize * 8
    if dtype.kind == "i" and 1 << bits <= number < 1 << 16:
        number -= 1 << 16  # a negative value of 16 bits that was read as unsigned
    if not -(1 << (bits - 1)) <= number < 1 << bits:
        return None
    return np.array([number % (1 << bits)], np.uint64).astype(dtype)[0]  # type: ignore[no-any-return]


def stack_planes(slices: list[Slice], pixels: Pixels) -> tuple[Array, tuple[str, ...]]:
    """Read all slices as one array (i, j, k) = (column, row, slice), and return it with the notes.

    The array is float32, or float64 where float32 would merge neighbouring values.

    Padding becomes the smallest value of the scan that is not padding.

    Raises
    ------
    InputError, MemoryLimitError
        If a slice cannot be read, or the slices do not fit into memory.
    """
    rows, columns = pixels.read(slices[0]).values.shape  # before memory is allocated for all slices
    kind = np.dtype(pixels.kind(slices))
    shape = columns, rows, len(slices)
    check_size(pixels.root, shape, math.prod(shape) * kind.itemsize)
    array = np.empty(shape[::-1], dtype=kind)
    padding: dict[int, NDArray[np.bool_]] = {}
    for n, item in enumerate(slices):
        plane = pixels.read(item, array[n])
        if plane.padding is not None:
            padding[n] = plane.padding
    note = _fill(array, padding)
    if array.dtype == np.float64:
        array = narrow(array)
    return array.transpose(2, 1, 0), (*pixels.notes(), *((note,) if note else ()))


def _fill(array: Array, padding: dict[int, NDArray[np.bool_]]) -> str:
    if not padding:
        return ""
    lows = [float(np.min(a, where=~padding[n], initial=np.inf)) if n in padding else float(a.min())
            for n, a in enumerate(array)]  # fmt: skip
    low = min(lows)
    if not np.isfinite(low):
        return "every pixel is the padding value: it was left as it is"
    for n, mask in padding.items():
        array[n][mask] = low
    return f"padding: {sum(int(m.sum()) for m in padding.values())} pixels were set to {low:g}"


def same_pixels(one: Slice, other: Slice, pixels: Pixels) -> bool:
    """Return whether two slices hold the same values."""
    first: Any = pixels.read(one).values
    return bool(np.array_equal(first, pixels.read(other).values))
