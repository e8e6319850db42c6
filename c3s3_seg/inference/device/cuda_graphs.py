"""What a GPU is told for one shape of patches, recorded once and played again: a CUDA graph.

A network is some hundred kernels, and the processor starts them one by one; for small tiles that takes longer
than the kernels do. Not run on a GPU so far; what surrounds the recording is tested on the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from c3s3_seg.system.hardware import is_memory_error

if TYPE_CHECKING:
    from torch import Tensor

Network = Callable[["Tensor"], "Tensor"]
Recorder = Callable[[Network, "Tensor"], Network]

KEPT = 3  # shapes: each keeps all maps of the network in memory, and scans without tiles seldom share a shape


class CudaGraphs:
    """A network whose work is recorded for the shapes that come again.

    The first patches of a shape run as they are: what the libraries load and choose is not recorded, and a
    shape that comes once is not worth a recording.

    Parameters
    ----------
    network
        (N, 1, X, Y, Z) -> (N, C, X, Y, Z) tensors on one GPU; the same work whenever the shape is the same.
    record
        Makes of the network and of patches what plays the work again on other patches of that shape.
    """

    def __init__(self, network: Network, record: Recorder) -> None:
        self._network, self._record = network, record
        self._seen: set[tuple[int, ...]] = set()
        self._recorded: dict[tuple[int, ...], Network] = {}
        self._alone = threading.Lock()  # recorded work has one place for its patches
        self.failure: str | None = None

    def __call__(self, patches: Tensor) -> Tensor:
        """The logits, in memory of their own."""
        shape = tuple(patches.shape)
        with self._alone:
            played = None
            if shape in self._seen and self.failure is None:
                played = self._recorded.pop(shape, None) or self._new(patches)
            self._seen.add(shape)
            if played is not None:
                self._recorded[shape] = played
                return played(patches).clone()  # the next patches are answered in the same place
        return self._network(patches)

    def _new(self, patches: Tensor) -> Network | None:
        """A recording; None where it cannot be made, which ends all recording."""
        while len(self._recorded) >= KEPT:
            del self._recorded[next(iter(self._recorded))]
        try:
            return self._record(self._network, patches)
        except RuntimeError as error:
            self._recorded.clear()
            why = "memory was full" if is_memory_error(error) else str(error).splitlines()[0][:200]
            self.failure = f"no CUDA graph was recorded, which costs time only: {why}"
            return None


def record_on_gpu(network: Network, patches: Tensor) -> Network:
    """Record what the network does on a GPU, on a stream of its own.

    Raises
    ------
    RuntimeError
        If something in the network cannot be recorded, or memory is full.
    """
    import torch

    with torch.cuda.device(patches.device):
        given, stream = patches.clone(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            network(given)  # what is allocated for a stream when it is first used is not recorded
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads read scans meanwhile; only what this one does belongs to the recording.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            logits = network(given)

    def play(others: Tensor) -> Tensor:
        given.copy_(others)
        graph.replay()
        return logits

    return play
