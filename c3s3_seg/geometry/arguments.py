"""Checks of the kinds of arguments of the Python API, where no type checker may run over the callers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import InputError, shown
from c3s3_seg.geometry.volume import Geometry, Volume

LONGEST_VALUE = 80  # characters of a value that a message repeats


@dataclass(frozen=True)
class ArgumentKind:
    """A kind of arguments.

    Parameters
    ----------
    wanted
        Description of its values, to follow "wanted" in the message.
    fits
        Called to get whether a value belongs to it.
    plain
        Called to convert such a value: numbers of numpy become those of Python, which JSON takes.
    """

    wanted: str
    fits: Callable[[Any], bool]
    plain: Callable[[Any], Any]

    def take(self, name: str, found: object) -> Any:
        """Return the value of the argument `name`, converted.

        Raises
        ------
        InputError
            If it is of another kind: the text "no" would count as true.
        """
        if self.fits(found):
            return self.plain(found)
        raise InputError(f"found {_described(name, found)}, wanted {self.wanted}")

    def or_none(self) -> ArgumentKind:
        """Return the same kind, and None."""
        return ArgumentKind(
            self.wanted,
            lambda value: value is None or self.fits(value),
            lambda value: None if value is None else self.plain(value),
        )


def take_fields(instance: object, kinds: Mapping[str, ArgumentKind]) -> None:
    """Convert fields of a frozen dataclass in place, each to its kind, as `ArgumentKind.take` does."""
    for name, kind in kinds.items():
        object.__setattr__(instance, name, kind.take(name, getattr(instance, name)))


def instances_of(cls: type, wanted: str) -> ArgumentKind:
    """Return the kind of all instances of a class, which are not converted."""
    return ArgumentKind(wanted, lambda value: isinstance(value, cls), lambda value: value)


def whole_numbers(wanted: str, count: int | None = None) -> ArgumentKind:
    """Return the kind of tuples, lists and arrays (n,) of whole numbers; None: any number of them."""

    def fit(values: Any) -> bool:
        row = isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim == 1)
        return row and count in (None, len(values)) and all(map(_is_whole, values))

    return ArgumentKind(wanted, fit, lambda values: tuple(int(value) for value in values))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    """Return whether a value is a whole number of any type: 2e9 bytes are one."""
    return _is_number(value) and (isinstance(value, Integral) or float(value).is_integer())


FLAG = ArgumentKind("True or False", lambda value: isinstance(value, bool | np.bool_), bool)
NUMBER = ArgumentKind("a finite number", lambda value: _is_number(value) and math.isfinite(value), float)
WHOLE_NUMBER = ArgumentKind("a whole number", _is_whole, int)
LINE = ArgumentKind(
    "one line of printable text", lambda value: isinstance(value, str) and value.isprintable(), str
)
PATH = ArgumentKind("a path", lambda value: isinstance(value, str | os.PathLike) and value != "", Path)
GRID = instances_of(Geometry, "a Geometry, such as that of a Volume: volume.geometry")


def _described(name: str, value: object) -> str:
    """Return an argument for a message: the begin of its value, or its type: an array may be a scan."""
    if value is not None and not isinstance(value, str | Real | list | tuple | np.generic):
        return f"{name} of type {type(value).__name__}"
    text = repr(value) if isinstance(value, str) else shown(value)
    return f"{name}={text}" if len(text) <= LONGEST_VALUE else f"{name}={text[:LONGEST_VALUE]}..."


def require_volume(found: object, wanted: str = "a Volume") -> None:
    """Raise if an argument of the Python API is no `Volume`; the message says how to make one of it.

    Raises
    ------
    InputError
        If it is an image of another package, an array, a path or anything else.
    """
    if isinstance(found, Volume):
        return
    if type(found).__module__.partition(".")[0] in ("nibabel", "SimpleITK"):  # their axes are not ours
        todo = "Save the image to a file and give that, or read it with c3s3_seg.load (a mask: load_mask)"
    elif isinstance(found, str | os.PathLike):
        todo = "Read the file with c3s3_seg.load (a mask: c3s3_seg.load_mask)"
    else:
        todo = (
            "An array becomes a Volume with: Geometry.build(array.shape, spacing_mm, direction=axes)"
            ".volume(array). Its axes are x, y, z, with the spacing in mm along each; without a direction"
            " they must run to the patient's left, back and head (LPS), which those of nibabel (mostly to the"
            " right and the front) and SimpleITK (z, y, x) do not"
        )
    raise InputError(f"found {type(found).__name__}, wanted {wanted}", todo=todo)
