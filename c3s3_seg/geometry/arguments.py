"""Arguments of the Python API that are no volume: what they are, and how to make one of them."""

from __future__ import annotations

import os

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume


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
