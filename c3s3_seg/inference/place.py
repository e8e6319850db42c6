"""Where the steps around the network are done: in numpy on the host, or in torch where the network runs.

The predictor, the tiles and the mask are one and the same for both; here is what differs, and the choice.
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
GPU_SHARE = 0.8  # of what is free on a GPU may be planned with: its libraries take some, too


class Place(Protocol):
    """What differs between host and device."""

    @property
    def arrays(self) -> ArrayOperations:
        """The arithmetic."""
        ...

    def prepare(self, recipe: Recipe, part: Volume) -> Prepared:
        """What can be done while the network is at another scan.

        Raises
        ------
        InputError
            If the intensities are not what float32 holds, or on the host leave nothing to see.
        """
        ...

    def to_network(self, recipe: Recipe, prepared: Prepared, part: Geometry, where: Path | None) -> Array:
        """(x, y, z) float32 on the model's grid.

        Raises
        ------
        InputError
            If nothing is left in it for a network to see.
        MemoryLimitError
            If the device's memory is full.
        """
        ...


class HostPlace:
    """numpy: all is done in `prepare`."""

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
    """torch: the scan goes to the device when the network does, so that only one stage of a batch is there.

    Parameters
    ----------
    device
        `cpu`, `cuda:0`: where all networks run.
    settings
        The memory that may be taken.
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
        """See `Place`: the scan's own voxels."""
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
    """Bytes that this process may take where the arrays lie; None where nobody limits it.

    A GPU limits it always: the processes that share it may plan with a share of what is free there. What
    these networks keep for themselves is not.
    """
    own = settings.own_memory_bytes
    free = arrays.free(settings.processes) if arrays.own_memory else None
    if free is None:
        return own
    keeping = [backend for backend in backends if isinstance(backend, KeepingBackend)]
    kept = max((backend.kept_memory for backend in keeping), default=0)  # each says it of the process
    room = max(0, int(GPU_SHARE * (free - kept)))
    return room if own is None else min(own, room)


def give_back(backends: Sequence[Backend]) -> None:
    """Have networks give back the memory that they keep and can do without."""
    for backend in backends:
        if isinstance(backend, KeepingBackend):
            backend.give_back()


def place_for(backends: Sequence[Backend], settings: Settings) -> Place:
    """Where `Settings.on_device` and the networks put the steps around them.

    Raises
    ------
    MissingError
        If the device was asked for, and a network does not take tensors there.
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
    """Where all networks take tensors; None where one does not, or they are apart."""
    places = {backend.place if isinstance(backend, DeviceBackend) else None for backend in backends}
    return places.pop() if len(places) == 1 else None


def _torch_has_cuda() -> bool:
    """Whether torch is there and can use a GPU; only asked where a network already runs on one."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
