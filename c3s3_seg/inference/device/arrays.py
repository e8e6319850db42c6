"""`ArrayOperations` in torch, on a GPU or on the CPU.

Not run on a GPU so far. No operation waits for the GPU, except those that return a number or an array to the
host, and the upload of a scan, which the driver copies from ordinary (pageable) memory in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.resample import AxisWeights
from c3s3_seg.system.memory import available_memory

if TYPE_CHECKING:
    from torch import Tensor, device

HOST_BLOCK, GPU_BLOCK = 2_000_000, 32_000_000  # voxels; on a GPU few large kernels beat many small ones
BLOCK_BYTES = 256  # bytes of free memory for each voxel of a block
# Types that torch computes with; others become float32, their type in the end, before they are copied.
KNOWN = {"b1", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8"}


@dataclass(frozen=True)
class TorchArrays:
    """Array operations on tensors of one device."""

    device: device

    on_device = True

    @property
    def own_memory(self) -> bool:
        """See `ArrayOperations`."""
        return self.device.type == "cuda"

    @property
    def block(self) -> int:
        """See `ArrayOperations`. A voxel takes some 20 bytes; a GPU must have `BLOCK_BYTES` free for it."""
        if not self.own_memory:
            return HOST_BLOCK
        return min(GPU_BLOCK, max(HOST_BLOCK, (self.free() or 0) // BLOCK_BYTES))

    @cached_property
    def _torch(self) -> Any:
        import torch

        return torch

    def free(self, processes: int = 1) -> int | None:
        """See `ArrayOperations`: the driver's free memory, and the memory that torch holds unused.

        The part that CUDA graphs keep, `Recordings.memory`, is to be subtracted by callers that use graphs.
        """
        if not self.own_memory:
            free = available_memory()
            return None if free is None else free // processes
        cuda = self._torch.cuda
        left, _ = cuda.mem_get_info(self.device)
        held = cuda.memory_reserved(self.device) - cuda.memory_allocated(self.device)
        return int(left // processes + held)

    def of(self, array: NDArray[Any]) -> Tensor:
        """See `ArrayOperations`. The host waits until its copy is made; axes are flipped on the device."""
        reversed_axes = _reversed(array)
        tensor = self._torch.from_numpy(_plain(np.flip(array, reversed_axes))).to(self.device)
        return self.flip(tensor, reversed_axes)

    def _small(self, array: NDArray[Any]) -> Tensor:
        """Return a few numbers on the device, without waiting for a GPU: pinned memory can be copied later.

        torch keeps that memory until the copy is made, and reuses it for the next copy.
        """
        tensor: Tensor = self._torch.from_numpy(_plain(array))
        if not self.own_memory:
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def host(self, array: Tensor) -> NDArray[Any]:
        """See `ArrayOperations`."""
        return np.asarray(array.cpu().numpy())

    def put(self, view: NDArray[Any], array: Tensor) -> None:
        """See `ArrayOperations`: in the order of the host's memory, so that one copy brings it there."""
        reversed_axes = _reversed(view)
        goal = self._torch.from_numpy(np.flip(view, reversed_axes))
        order = sorted(range(view.ndim), key=lambda axis: -abs(view.strides[axis]))
        goal.permute(order).copy_(self.flip(array, reversed_axes).permute(order).contiguous())

    def workspace(self, view: NDArray[Any]) -> Tensor:
        """See `ArrayOperations`."""
        return self.zeros(view.shape, str(view.dtype))

    def zeros(self, shape: Sequence[int], kind: str = "float32") -> Tensor:
        """See `ArrayOperations`."""
        zeros: Tensor = self._torch.zeros(tuple(shape), dtype=getattr(self._torch, kind), device=self.device)
        return zeros

    def moveaxis(self, array: Tensor, source: int, goal: int) -> Tensor:
        """See `ArrayOperations`."""
        return array.moveaxis(source, goal)

    def flip(self, array: Tensor, axes: Sequence[int]) -> Tensor:
        """See `ArrayOperations`."""
        return array.flip(tuple(axes)) if axes else array

    def pad(self, array: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
        """See `ArrayOperations`."""
        behind = [count for before_and_behind in reversed(pads) for count in before_and_behind]
        padded: Tensor = self._torch.nn.functional.pad(array, behind)
        return padded

    def concatenate(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        """See `ArrayOperations`."""
        joined: Tensor = self._torch.cat(tuple(arrays), dim=axis)
        return joined

    def copy(self, array: Tensor) -> Tensor:
        """See `ArrayOperations`."""
        return array.clone()

    def dense(self, array: Tensor) -> Tensor:
        """See `ArrayOperations`."""
        return array.contiguous()

    def along(self, weights: AxisWeights, array: Tensor, axis: int) -> Tensor:
        """See `ArrayOperations`."""
        total: Tensor | None = None
        sides = [-1 if n == axis else 1 for n in range(array.ndim)]
        for index, weight in weights.neighbours():
            part = array.index_select(axis, self._small(index))
            part *= self._small(weight).reshape(sides)
            if total is None:
                total = part
            else:
                total += part
        if total is None:
            raise ValueError("every output has a neighbour that counts")
        return total

    def larger(self, array: Tensor, other: Tensor) -> Tensor:
        """See `ArrayOperations`."""
        return array.maximum(other)

    def softmax(self, logits: Tensor) -> Tensor:
        """See `ArrayOperations`. The sum is formed class by class, as numpy forms it."""
        out = logits - logits.amax(dim=1, keepdim=True)
        out.exp_()
        total = out[:, :1].clone()
        for number in range(1, out.shape[1]):
            total += out[:, number : number + 1]
        out /= total
        return out

    def run(self, backend: Any, patches: Tensor) -> Tensor:
        """See `ArrayOperations`."""
        logits: Tensor = backend.on_device(patches)
        return logits

    def is_real(self, array: Tensor) -> bool:
        """See `ArrayOperations`."""
        return array.dtype.is_floating_point

    def single(self, array: Tensor) -> Tensor:
        """See `ArrayOperations`."""
        return array.float()

    def not_finite(self, array: Tensor) -> int:
        """See `ArrayOperations`. Waits for the device, so that a failure there is an error of this tile."""
        low, high = array.aminmax()
        if bool(self._torch.isfinite(low) & self._torch.isfinite(high)):
            return 0
        return int((~self._torch.isfinite(array)).sum())


def _reversed(array: NDArray[Any]) -> tuple[int, ...]:
    """Return the axes along which an array runs backwards in memory, which torch does not support."""
    return tuple(axis for axis, step in enumerate(array.strides) if step < 0)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that torch accepts: of a type that it knows, in this machine's byte order, writable."""
    if array.dtype.str[1:] not in KNOWN:
        return array.astype(np.float32)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native if native.flags.writeable else native.copy()
