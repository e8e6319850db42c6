"""The array arithmetic around the network: in numpy on the host, or in torch where the network runs.

Stitching, resampling and the choice of labels are written once, over these operations. Both kinds do the
same operations in the same order in the same precision, so both give the same numbers; only the exponential
function of the softmax is each library's own, which differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.resample import AxisWeights, along
from c3s3_seg.inference.tiling import Array, softmax
from c3s3_seg.system.memory import available_memory

BLOCK = 2_000_000  # voxels on the scan's grid that are worked on at a time: 8 MB a class


class ArrayOperations(Protocol):
    """Operations on arrays of one place, of any shape and of float32 unless stated otherwise.

    `Array` is a numpy array on the host and a torch tensor on a device.
    """

    @property
    def on_device(self) -> bool:
        """Whether the arrays lie where the network runs, and not in numpy."""
        ...

    @property
    def own_memory(self) -> bool:
        """Whether that place has a memory of its own, as a GPU has."""
        ...

    @property
    def block(self) -> int:
        """Voxels of the scan's grid that are worked on at a time."""
        ...

    def free(self, processes: int = 1) -> int | None:
        """Bytes that new arrays of this process may take; None where that is not known.

        Parameters
        ----------
        processes
            How many share what the place has left. What one has reserved for itself it need not share.
        """
        ...

    def of(self, array: NDArray[Any]) -> Array:
        """An array of the host, of any dtype."""
        ...

    def host(self, array: Array) -> NDArray[Any]:
        """The array on the host; may be the array itself."""
        ...

    def put(self, view: NDArray[Any], array: Array) -> None:
        """Write into an array of the host, of the same shape and dtype."""
        ...

    def workspace(self, view: NDArray[Any]) -> Array:
        """Where to fill an array of the host that holds zeros, before it is `put` there."""
        ...

    def zeros(self, shape: Sequence[int], kind: str = "float32") -> Array:
        """Of `float32` or `uint8`."""
        ...

    def moveaxis(self, array: Array, source: int, goal: int) -> Array:
        """A view with one axis in another place."""
        ...

    def flip(self, array: Array, axes: Sequence[int]) -> Array:
        """Reversed along these axes; may be a view."""
        ...

    def pad(self, array: Array, pads: Sequence[tuple[int, int]]) -> Array:
        """With so many zeros before and behind each axis."""
        ...

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """One behind the other."""
        ...

    def copy(self, array: Array) -> Array:
        """In memory of its own."""
        ...

    def dense(self, array: Array) -> Array:
        """The same numbers in row-major order; may be the array itself."""
        ...

    def along(self, weights: AxisWeights, array: Array, axis: int) -> Array:
        """See `geometry.resample.along`; the weights come from the host."""
        ...

    def larger(self, array: Array, other: Array) -> Array:
        """The larger of two numbers, everywhere."""
        ...

    def softmax(self, logits: Array) -> Array:
        """(N, K, X, Y, Z) -> probabilities over K, in memory that nobody else writes."""
        ...

    def run(self, backend: Any, patches: Array) -> Array:
        """What a network says of patches (N, 1, X, Y, Z), unchecked."""
        ...

    def is_real(self, array: Array) -> bool:
        """Whether it holds floating-point numbers."""
        ...

    def single(self, array: Array) -> Array:
        """As float32; too large a number becomes infinite."""
        ...

    def not_finite(self, array: Array) -> int:
        """How many numbers are NaN or infinite."""
        ...


class HostArrays:
    """numpy."""

    on_device = False
    own_memory = False
    block = BLOCK

    def free(self, processes: int = 1) -> int | None:
        """See `ArrayOperations`."""
        free = available_memory()
        return None if free is None else free // processes

    def of(self, array: NDArray[Any]) -> Array:
        """See `ArrayOperations`."""
        return array

    def host(self, array: Array) -> NDArray[Any]:
        """See `ArrayOperations`."""
        return np.asarray(array)

    def put(self, view: NDArray[Any], array: Array) -> None:
        """See `ArrayOperations`."""
        if array is not view:
            view[...] = array

    def workspace(self, view: NDArray[Any]) -> Array:
        """See `ArrayOperations`."""
        return view

    def zeros(self, shape: Sequence[int], kind: str = "float32") -> Array:
        """See `ArrayOperations`."""
        return np.zeros(shape, dtype=kind)

    def moveaxis(self, array: Array, source: int, goal: int) -> Array:
        """See `ArrayOperations`."""
        return np.moveaxis(array, source, goal)

    def flip(self, array: Array, axes: Sequence[int]) -> Array:
        """See `ArrayOperations`."""
        return np.flip(array, tuple(axes))

    def pad(self, array: Array, pads: Sequence[tuple[int, int]]) -> Array:
        """See `ArrayOperations`."""
        return np.pad(array, pads)

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """See `ArrayOperations`."""
        return np.concatenate(arrays, axis=axis)

    def copy(self, array: Array) -> Array:
        """See `ArrayOperations`."""
        return array.copy()

    def dense(self, array: Array) -> Array:
        """See `ArrayOperations`."""
        return np.ascontiguousarray(array)

    def along(self, weights: AxisWeights, array: Array, axis: int) -> Array:
        """See `ArrayOperations`."""
        return along(weights, array, axis)

    def larger(self, array: Array, other: Array) -> Array:
        """See `ArrayOperations`."""
        return np.maximum(array, other)

    def softmax(self, logits: Array) -> Array:
        """See `ArrayOperations`; in the logits' own memory where it may be written."""
        return softmax(logits)

    def run(self, backend: Any, patches: Array) -> Array:
        """See `ArrayOperations`."""
        return backend(patches)

    def is_real(self, array: Array) -> bool:
        """See `ArrayOperations`."""
        return bool(array.dtype.kind == "f")

    def single(self, array: Array) -> Array:
        """See `ArrayOperations`."""
        with np.errstate(over="ignore"):
            return np.asarray(array, dtype=np.float32)

    def not_finite(self, array: Array) -> int:
        """See `ArrayOperations`."""
        # NaN runs through both, infinity is one of them. 0.3 ms for an atrium, whose network takes 600 ms.
        if np.isfinite(array.min()) and np.isfinite(array.max()):
            return 0
        return int(np.count_nonzero(~np.isfinite(array)))


HOST = HostArrays()


def arrays_of(array: Array) -> ArrayOperations:
    """The operations for an array, by what it is."""
    if isinstance(array, np.ndarray):
        return HOST
    from c3s3_seg.inference.device.arrays import TorchArrays

    return TorchArrays(array.device)
