"""Choose where the steps around the network run: in numpy on the host, or in torch on the network's device.

The predictor, the tiles and the mask are the same for both; this module holds the differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from c3s3_seg.bundle.preprocessing import ExactScan, Recipe, exact_in_float32, flat, refuse_flat
from c3s3_seg.errors import C3S3Error, MemoryLimitError, MissingError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference.arrays import HOST, ArrayOperations
from c3s3_seg.inference.backends.execute import Backend, DeviceBackend, KeepingBackend
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.tiling import Array, FloatArray
from c3s3_seg.system.hardware import is_cuda, is_memory_error

if TYPE_CHECKING:
    from c3s3_seg.inference.device.arrays import TorchArrays

Prepared = FloatArray | ExactScan
GPU_SHARE = 0.8  # share of a GPU's free memory to plan with: its libraries take some, too


class Place(Protocol):
    """The steps that differ between host and device."""

    @property
    def arrays(self) -> ArrayOperations:
        """The array operations."""
        ...

    def prepare(self, recipe: Recipe, part: Volume) -> Prepared:
        """Prepare a scan, as far as possible while the network runs on another scan.

        Raises
        ------
        InputError
            If float32 cannot hold the intensities or, on the host, all voxels become the same.
        """
        ...

    def to_network(self, recipe: Recipe, prepared: Prepared, part: Geometry, where: Path | None) -> Array:
        """Return the scan on the model's grid: (x, y, z) float32.

        Raises
        ------
        InputError
            If all voxels on that grid are the same.
        MemoryLimitError
            If the device's memory is full.
        """
        ...


class HostPlace:
    """The host, with numpy: all steps are done in `prepare`."""

    arrays: ArrayOperations = HOST

    def prepare(self, recipe: Recipe, part: Volume) -> Prepared:
        """See `Place`: (x, y, z) float32 on the model's grid."""
        prepared = recipe.to_model(part)
        refuse_flat(part, prepared)
        return prepared.array

    def to_network(self, recipe: Recipe, prepared: Prepared, part: Geometry, where: Path | None) -> Array:
        """See `Place`."""
        return prepared


@dataclass(frozen=True)
class DevicePlace:
    """The network's device, with torch: scans go there in `to_network`, so that only one stage is there.

    Parameters
    ----------
    device
        Device of all networks, such as `cpu` or `cuda:0`.
    settings
        Settings with the memory that may be taken.
    backends
        The networks.
    """

    device: str
    settings: Settings
    backends: tuple[Backend, ...]

    @property
    def arrays(self) -> TorchArrays:
        """See `Place`."""
        import torch

        from c3s3_seg.inference.device.arrays import TorchArrays

        return TorchArrays(torch.device(self.device))

    def prepare(self, recipe: Recipe, part: Volume) -> Prepared:
        """See `Place`: the scan's own voxels, not resampled."""
        return exact_in_float32(part)

    def to_network(self, recipe: Recipe, prepared: Prepared, part: Geometry, where: Path | None) -> Array:
        """See `Place`."""
        from c3s3_seg.inference.device.prepare import scale, to_model_grid

        if not isinstance(prepared, ExactScan):
            raise TypeError("the scan was prepared for the host")
        arrays = self.arrays
        limit = memory_limit(self.settings, arrays, self.backends)
        try:
            array = to_model_grid(prepared, part, recipe.grid(part), arrays, limit)
            array = scale(recipe.intensity, array, prepared.offset)
            low, high = array.aminmax()
            nothing_to_see = not bool(high > low)
        except C3S3Error:
            raise
        except Exception as error:
            if not is_memory_error(error):
                raise
            what = f"memory was full on {self.device} while the scan was brought to the model's grid"
            raise MemoryLimitError(what, where=where, todo="Give on_device=False, or --max-memory") from error
        if nothing_to_see:
            raise flat(prepared, where)
        return array


def memory_limit(settings: Settings, arrays: ArrayOperations, backends: Sequence[Backend] = ()) -> int | None:
    """Return the bytes that this process may take where the arrays lie; None if there is no limit.

    A GPU always sets a limit: the processes that share it may plan with a share of its free memory. Memory
    that these networks keep for themselves is not free.
    """
    own = settings.own_memory_bytes
    free = arrays.free(settings.processes) if arrays.own_memory else None
    if free is None:
        return own
    room = max(0, int(GPU_SHARE * (free - kept_memory(backends))))
    return room if own is None else min(own, room)


def kept_memory(backends: Sequence[Backend]) -> int:
    """Return the bytes that networks keep and `give_back` releases."""
    keeping = [backend for backend in backends if isinstance(backend, KeepingBackend)]
    return max((backend.kept_memory for backend in keeping), default=0)  # each reports the whole process


def give_back(backends: Sequence[Backend]) -> None:
    """Make networks release the memory that they keep and can do without."""
    for backend in backends:
        if isinstance(backend, KeepingBackend):
            backend.give_back()


def place_for(backends: Sequence[Backend], settings: Settings) -> Place:
    """Return where the steps around the networks run, given `Settings.on_device` and the networks.

    Raises
    ------
    MissingError
        If the device was requested, and a network takes no tensors there or torch does not run there.
    """
    wanted, device = settings.on_device, _shared_device(backends)
    if wanted is False or (wanted is None and not (device and is_cuda(device) and _torch_has_cuda())):
        return HostPlace()
    if device is None:
        names = ", ".join(dict.fromkeys(backend.name for backend in backends))
        what = f"on_device was asked for, and the network runs in {names}, which takes no tensors of torch"
        raise MissingError(what, todo="Take the backend torch or onnx, or leave on_device out")
    if is_cuda(device) and not _torch_has_cuda():
        what = f"on_device was asked for on {device}, and torch does not run there"
        raise MissingError(what, todo="Install a CUDA build of torch, or leave on_device out")
    return DevicePlace(device, settings, tuple(backends))


def _shared_device(backends: Sequence[Backend]) -> str | None:
    """Return the device on which all networks take tensors; None if one takes none, or devices differ."""
    places = {backend.place if isinstance(backend, DeviceBackend) else None for backend in backends}
    return places.pop() if len(places) == 1 else None


def _torch_has_cuda() -> bool:
    """Return whether torch is installed and can use a GPU; only called where a network runs on one."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
