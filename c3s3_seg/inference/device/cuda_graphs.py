"""What a GPU is told for one shape of patches, recorded once and played again: a CUDA graph.

A network is some hundred kernels, and the processor starts them one by one; for small tiles that takes longer
than the kernels do. Not run on a GPU so far; what surrounds the recording is tested on the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from c3s3_seg.system.hardware import is_memory_error, lacks_engine

if TYPE_CHECKING:
    from torch import Tensor, device

Network = Callable[["Tensor"], "Tensor"]
Recorder = Callable[[Network, "Tensor"], Network]

KEPT = 3  # shapes: each keeps all maps of the network in memory, and scans without tiles seldom share a shape
WORTH = 8  # tiles of a shape before it is recorded, which costs two passes and waits for the whole GPU
ORDINARY = (0, 0)  # the pool of memory that is no graph's own
_one_at_a_time = threading.Lock()  # CUDA takes one recording at a time in a process


class Recordings:
    """What networks that were opened together know of each other's recorded work.

    They share a GPU: where its memory is full, the recorded work of all of them goes.
    """

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._networks: WeakSet[CudaGraphs] = WeakSet()
        self.failure: str | None = None  # of a recording; CUDA's state is not to be relied on afterwards

    def add(self, network: CudaGraphs) -> None:
        """One more network."""
        with self._alone:
            self._networks.add(network)

    def hold(self, place: device) -> bool:
        """Whether anything is recorded on a device."""
        return any(network.holds(place) for network in self._all())

    def drop(self, place: device) -> None:
        """Forget all that is recorded on a device, and give its memory back."""
        import torch

        for network in self._all():
            network.forget(place)
        torch.cuda.empty_cache()  # does nothing where CUDA was never used

    def memory(self, place: device) -> int:
        """Bytes that recorded work keeps on a device, and torch counts neither as in use nor as the driver's.

        The maps within a graph are free between two runs, but for the graph alone.
        """
        return pool_memory(place) if self.hold(place) else 0

    def _all(self) -> list[CudaGraphs]:
        with self._alone:
            return list(self._networks)


class CudaGraphs:
    """A network whose work is recorded for the shapes that come often.

    The first patches of a shape run as they are: what the libraries load and choose is not recorded, and a
    shape that comes a few times is not worth a recording.

    Parameters
    ----------
    network
        (N, 1, X, Y, Z) -> (N, C, X, Y, Z) tensors on one GPU; the same work whenever the shape is the same.
    record
        Makes of the network and of patches what plays the work again on other patches of that shape.
    recordings
        Shared with the other networks that were opened with this one.
    worth
        How often a shape has to come before it is recorded, and again after it was dropped.
    """

    def __init__(
        self,
        network: Network,
        record: Recorder,
        recordings: Recordings | None = None,
        worth: int = WORTH,
    ) -> None:
        self._network, self._record, self._worth = network, record, worth
        self._seen: dict[tuple[int, ...], int] = {}
        self._recorded: dict[tuple[int, ...], Network] = {}
        self._place: device | None = None
        self._alone = threading.Lock()  # recorded work has one place for its patches
        self._failure: str | None = None
        self.recordings = recordings or Recordings()
        self.recordings.add(self)

    @property
    def failure(self) -> str | None:
        """Why nothing more is recorded; None while it is."""
        return self._failure or self.recordings.failure

    def holds(self, place: device) -> bool:
        """Whether anything is recorded on a device."""
        return bool(self._recorded) and self._place == place

    def forget(self, place: device) -> None:
        """Drop what is recorded on a device; every shape has to come anew."""
        with self._alone:
            if self._place == place:
                self._recorded.clear()
                self._seen.clear()

    def __call__(self, patches: Tensor) -> Tensor:
        """The logits, in memory of their own."""
        logits = None
        try:
            logits = self._logits(patches)
        except Exception as error:
            if not _is_full(error) or not self.recordings.hold(patches.device):
                raise
        if logits is not None:
            return logits
        # Not in the `except`: its traceback holds the maps that memory was full with.
        self.recordings.drop(patches.device)
        return self._network(patches)

    def _logits(self, patches: Tensor) -> Tensor | None:
        """The logits; None if a recording failed."""
        shape = tuple(patches.shape)
        with self._alone:
            if shape not in self._recorded and self._is_due(shape) and not self._add(shape, patches):
                return None
            play = self._recorded.pop(shape, None)
            if play is not None:
                self._recorded[shape] = play  # now the last of those that may be dropped
                return play(patches).clone()  # the logits of the next patches are written there
        return self._network(patches)

    def _is_due(self, shape: tuple[int, ...]) -> bool:
        if self.failure is not None:
            return False
        seen = self._seen.get(shape, 0)
        self._seen[shape] = seen + 1
        return seen >= self._worth

    def _add(self, shape: tuple[int, ...], patches: Tensor) -> bool:
        """Record a shape; False where that cannot be done, which ends recording."""
        while len(self._recorded) >= KEPT:
            oldest = next(iter(self._recorded))
            del self._recorded[oldest]
            self._seen[oldest] = 0
        self._place = patches.device
        try:
            with _one_at_a_time:
                self._recorded[shape] = self._record(self._network, patches)
        except RuntimeError as error:
            self._note(error)
        return shape in self._recorded

    def _note(self, error: RuntimeError) -> None:
        """Memory that is full ends the recording of this network; another failure that of all of them."""
        full = _is_full(error)
        why = "memory was full" if full else (str(error).splitlines() or [type(error).__name__])[0][:200]
        told = f"no CUDA graph was recorded, which costs time only: {why}"
        if full:
            self._failure = told
        else:
            self.recordings.failure = told


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised after, may be a lack of memory.

    Ending a recording in which memory was full fails too, in other words.
    """
    seen: set[int] = set()
    while isinstance(error, Exception) and id(error) not in seen:
        if is_memory_error(error) or lacks_engine(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def pool_memory(place: device) -> int:
    """Bytes in the pools of CUDA graphs on a device that torch has reserved and nothing uses."""
    import torch

    index = torch.cuda.current_device() if place.index is None else place.index
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        if segment["device"] == index and tuple(segment.get("segment_pool_id", ORDINARY)) != ORDINARY
    )


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
        # A recording that cannot be ended leaves its stream the current one (torch 2.13): the outer context
        # restores it. Other threads read scans meanwhile; only what this one does belongs to the recording.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            logits = network(given)

    def play(others: Tensor) -> Tensor:
        given.copy_(others)
        graph.replay()
        return logits

    return play
