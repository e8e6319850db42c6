"""Write NIfTI, NRRD and MHA files to a temporary name, read back and compare them, then rename them."""

from __future__ import annotations

import gzip
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import GeometryError, InputError, MemoryLimitError, StorageError, shown
from c3s3_seg.geometry.arguments import LINE, require_volume
from c3s3_seg.geometry.volume import Array, Geometry, Volume
from c3s3_seg.io.content import BLOCK, damaged
from c3s3_seg.io.image.files import check_finite, image_suffix, load_image
from c3s3_seg.io.image.nifti import MOST_PER_AXIS, read_affine, read_forms
from c3s3_seg.io.image.nifti_forms import RAS_TO_LPS, SROW, Forms, placing
from c3s3_seg.io.limits import SPACING_RANGE_MM
from c3s3_seg.system.files import OF_THE_STORAGE, lack_of_room, sync
from c3s3_seg.system.reading import given_path

SAVE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
# A NIfTI affine is float32: 6e-5 mm at 1000 mm from the origin.
WRITTEN_TOL_MM = 1e-3
NOTE_BYTES = 79  # `descrip` has 80, the last of which is 0
GZIP_LEVEL = 4  # an image of 50 MB becomes 1 % larger than with level 6, in a quarter of the time
NIFTI = (".nii", ".nii.gz")
HEAD_BYTES = 348  # of NIfTI-1
OTHER_FORMAT = "Write .nrrd or .mha, which have no such limit"


def save(
    volume: Volume, path: str | Path, *, note: str = "", ready: Callable[[Path], None] | None = None
) -> None:
    """Write an image file to a temporary name, sync it, read it back, compare it, and only then rename it.

    Parameters
    ----------
    volume
        Any real type but float16, of 8 to 64 bits, which is kept; bool becomes uint8. The grid must have
        right angles. If its source is a NIfTI file with this grid, a NIfTI file gets the sform, the qform
        and their codes from there, because readers differ in which of them they take.
    path
        `.nii`, `.nii.gz`, `.nrrd` or `.mha` in a folder that exists. A file of this name is replaced.
    note
        Up to 79 bytes of UTF-8, in one line, for the header's free text (NIfTI: descrip): the program that
        made the file.
    ready
        Called with the complete file under its temporary name, before it is renamed.

    Raises
    ------
    StorageError
        If the disk is full, or the folder accepts no file for another reason that the next file has too.
    InputError
        If the file cannot be written in full for any reason; then `path` is as it was before.
    MemoryLimitError
        If the memory does not suffice to read the file back; `path` is then as it was before.
    GeometryError
        If the grid has no right angles, or an image file cannot hold it: see `check_grid`.
    """
    require_volume(volume)
    path = given_path(path)
    _check_note(note, path)
    suffix = image_suffix(path)
    if suffix not in SAVE_SUFFIXES:
        raise InputError(f"cannot write '{path.name}'; wanted {', '.join(SAVE_SUFFIXES)}", where=path)
    if not path.parent.is_dir():
        raise InputError("the folder to write to does not exist", where=path.parent, todo="Create it first")
    check_grid(volume.geometry, suffix, path)
    # In the memory order of the file, SimpleITK copies rows far faster, and the comparison is faster.
    array = np.asfortranarray(_writable(volume.array, path))
    # Short, as a name of 255 bytes has no room for more, and hidden, so that a search for cases skips it.
    aside = path.parent / f".{secrets.token_hex(6)}{suffix}"
    forms = _forms_to_keep(volume, suffix)
    try:
        _write(array, volume.geometry, aside, **({"note": note} if note else {}))
        _keep_forms(forms, volume.geometry, aside)
        sync(aside)
        _compare(array, volume.geometry, aside, forms)
        _publish(aside, path, ready)
    except GeometryError as error:  # no lack of room
        what = f"the file could not be written in full: {error.what}"
        raise GeometryError(what, where=path, todo=error.todo) from error
    except StorageError:  # of what `ready` writes
        raise
    except InputError as error:
        raise _unwritten(path, error.what, array.nbytes) from error
    except MemoryLimitError as error:  # it names the temporary file
        raise MemoryLimitError(error.what, where=path, todo=error.todo) from error
    except OSError as error:
        if error.errno not in OF_THE_STORAGE:  # such as a too long name, not shared by the next file
            what = f"the file could not be written: {error.strerror or error}"
            raise InputError(what, where=path) from error
        raise _unwritten(path, error.strerror or "", array.nbytes) from error
    except RuntimeError as error:
        raise _unwritten(path, "the file was refused", array.nbytes) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _publish(aside: Path, path: Path, ready: Callable[[Path], None] | None) -> None:
    if ready is not None:
        ready(aside)
    os.replace(aside, path)
    sync(path.parent)


def _check_note(note: str, path: Path) -> None:
    LINE.take("note", note)  # a line break would begin another line of a header
    size = len(note.encode())
    if size > NOTE_BYTES:
        what = f"found a note of {size} bytes, wanted at most {NOTE_BYTES}"
        raise InputError(what, where=path, todo="Shorten it: other letters than English ones take 2 or more")


def check_grid(geometry: Geometry, suffix: str, where: Path | None) -> None:
    """Refuse a grid that image files of a suffix cannot hold.

    Parameters
    ----------
    geometry, suffix
        The grid, and one of `SAVE_SUFFIXES`.
    where
        The file that a message names.

    Raises
    ------
    GeometryError
        If the grid has no right angles, or a spacing outside `SPACING_RANGE_MM`; for NIfTI also if an axis
        has more than 32767 voxels, or lies so far from the origin that rounding to float32 moves its voxels.
    """
    (low, high), spacing = SPACING_RANGE_MM, geometry.spacing_mm
    if spacing.min() < low or spacing.max() > high:
        what = f"found a spacing of {shown(spacing)} mm, wanted {low} to {high:g}: it could not be read again"
        raise GeometryError(what, where=where, todo="Give the spacing in mm")
    if not geometry.is_orthogonal:
        raise GeometryError("the axes are not perpendicular, which an image file cannot keep", where=where)
    if suffix not in NIFTI:
        return
    if max(geometry.shape) > MOST_PER_AXIS:
        what = f"found {max(geometry.shape)} voxels along an axis; a NIfTI file holds {MOST_PER_AXIS} at most"
        raise GeometryError(what, where=where, todo=OTHER_FORMAT)
    most = np.finfo(np.float32).max
    with np.errstate(over="ignore"):  # positions that no scan has
        rounded = Geometry(geometry.shape, geometry.affine.clip(-most, most).astype(np.float32))
        note = rounded.distance_note(geometry, WRITTEN_TOL_MM)
        holds = rounded.matches(geometry, WRITTEN_TOL_MM)
    if not holds:
        what = f"a NIfTI file rounds positions to float32, which moves the voxels of this grid{note}"
        raise GeometryError(what, where=where, todo=OTHER_FORMAT)


def _writable(array: Array, path: Path) -> Array:
    array = array.astype(np.uint8) if array.dtype == bool else array
    sizes = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (4, 8)}.get(array.dtype.kind, ())
    if array.dtype.itemsize not in sizes:
        raise InputError(f"cannot write voxels of type {array.dtype.name}", where=path)
    if array.dtype.kind == "f":
        check_finite(array, path)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _write(array: Array, geometry: Geometry, path: Path, note: str = "") -> None:
    import SimpleITK

    # Its warnings would go to stderr unchanged.
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # type: ignore[no-untyped-call]
    image: Any = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(geometry.spacing_mm.tolist())
    image.SetOrigin(geometry.origin_mm.tolist())
    image.SetDirection(geometry.direction.ravel().tolist())
    if note:
        image.SetMetaData("ITK_FileNotes", note)
    with _unicode_path(path) as place:
        SimpleITK.WriteImage(image, place, useCompression=path.suffix != ".nii")


def _keep_skew(geometry: Geometry, path: Path) -> None:
    """Write the affine itself into a NIfTI file, where SimpleITK wrote the nearest rotation.

    Axes count as perpendicular up to a cosine of 1e-4, as after decimals were rounded in DICOM or by another
    program. At 0.5 m, the nearest rotation is up to 0.05 mm beside them. The qform stays a rotation, because
    a quaternion holds nothing else, and readers prefer the sform.
    """
    if Geometry(geometry.shape, read_affine(path)).matches(geometry, WRITTEN_TOL_MM):
        return
    rows = (RAS_TO_LPS @ geometry.affine)[:3].astype(np.float32).tobytes()
    _overwrite(path, {SROW: rows})


def _forms_to_keep(volume: Volume, suffix: str) -> bytes:
    """Return the forms of the NIfTI file that a volume is from, if they still give its grid; else none."""
    forms = volume.source.nifti_forms
    if not forms or suffix not in NIFTI:
        return b""
    with suppress(GeometryError):
        found = Geometry(volume.geometry.shape, Forms.unpack(forms).place(volume.geometry.shape)[0])
        if found.matches(volume.geometry, WRITTEN_TOL_MM):
            return forms
    return b""


def _keep_forms(forms: bytes, geometry: Geometry, path: Path) -> None:
    if image_suffix(path) not in NIFTI:
        return
    if not forms:
        _keep_skew(geometry, path)
    elif read_forms(path) != forms:  # their sform has the axes, too
        _overwrite(path, placing(forms))


def _overwrite(path: Path, fields: dict[int, bytes]) -> None:
    """Overwrite bytes of the header of a NIfTI-1 file: position -> bytes."""
    if path.suffix == ".nii":
        with path.open("r+b") as file:
            for position, content in fields.items():
                file.seek(position)
                file.write(content)
        return
    packed = BytesIO(path.read_bytes())
    try:
        with (
            gzip.open(packed) as old,
            path.open("wb") as whole,
            gzip.GzipFile("", "wb", GZIP_LEVEL, whole, mtime=0) as new,
        ):
            head = bytearray(old.read(HEAD_BYTES))
            for position, content in fields.items():
                head[position : position + len(content)] = content
            new.write(head)
            shutil.copyfileobj(old, new, BLOCK)
    except (EOFError, zlib.error) as error:
        raise damaged(path) from error


@contextmanager
def _unicode_path(path: Path) -> Iterator[str]:
    """Yield a path for SimpleITK, which ends the process if a folder's name is not Unicode."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{path.name}"
        finally:
            os.close(folder)
    else:
        yield str(path)


def _compare(array: Array, geometry: Geometry, path: Path, forms: bytes = b"") -> None:
    back = load_image(path)
    if back.array.dtype != array.dtype or not np.array_equal(back.array, array):
        raise InputError("the voxels that were read back differ")
    # Forms that were kept may disagree, or be unset, as those of the scan are.
    other = back.source.nifti_forms != forms if forms else bool(back.source.notes)
    if other or not back.geometry.matches(geometry, WRITTEN_TOL_MM):
        what = f"the grid that was read back differs: found {back.geometry}; wanted {geometry}"
        what += back.geometry.distance_note(geometry, WRITTEN_TOL_MM)
        raise GeometryError("".join((what, *(f"; {note}" for note in back.source.notes))), todo=OTHER_FORMAT)


def _unwritten(path: Path, reason: str, size: int) -> InputError:
    lack = lack_of_room(path.parent, size)
    return (StorageError if lack else InputError)(
        f"the file could not be written in full: {lack or reason}",
        where=path,
        todo="Check that the disk has room and that the folder may be written to",
    )
