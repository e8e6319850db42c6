"""CUDA graphs: the work of a GPU for one shape of patches, recorded once and replayed.

A network is some hundred kernels, and the processor starts them one by one; for small tiles the starts take
longer than the kernels. Not run on a GPU so far; the code around the recording is tested on the CPU.
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

KEPT = 3  # most shapes: each keeps all maps of the network in memory, and untiled scans seldom share a shape
WORTH = 8  # tiles of a shape before its recording, which costs two passes and waits for the whole GPU
ORDINARY = (0, 0)  # identifier of the memory pool that belongs to no graph
_one_at_a_time = threading.Lock()  # CUDA allows one recording at a time in a process


class Recordings:
    """The recorded work of networks that were opened together.

    The networks share a GPU: if its memory is full, the recorded work of all of them is dropped.
    """

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._networks: WeakSet[CudaGraphs] = WeakSet()
        self.failure: str | None = None  # why a recording failed; CUDA's state is unreliable afterwards

    def add(self, network: CudaGraphs) -> None:
        """Add a network."""
        with self._alone:
            self._networks.add(network)

    def hold(self, place: device) -> bool:
        """Return whether anything is recorded on a device."""
        return any(network.holds(place) for network in self._all())

    def drop(self, place: device) -> None:
        """Drop all recordings on a device, and release their memory."""
        import torch

        for network in self._all():
            network.forget(place)
        torch.cuda.empty_cache()  # does nothing where CUDA was never used

    def memory(self, place: device) -> int:
        """Return the bytes that recordings keep on a device, which torch counts as reserved but not in use.

        The maps within a graph are free between two runs, but only that graph may use them.
        """
        return pool_memory(place) if self.hold(place) else 0

    def _all(self) -> list[CudaGraphs]:
        with self._alone:
            return list(self._networks)


class CudaGraphs:
    """A network whose work is recorded for the shapes that occur often.

    The first patches of a shape run without a recording: loading and choices of the libraries must not be
    recorded, and a shape that occurs a few times is not worth a recording.

    Parameters
    ----------
    network
        (N, 1, X, Y, Z) -> (N, C, X, Y, Z) tensors on one GPU; the same work whenever the shape is the same.
    record
        Called with the network and patches; returns a function that replays the work on others of that shape.
    recordings
        Recordings shared with the networks that were opened with this one; None: not shared.
    worth
        How often a shape has to occur before it is recorded, and again after it was dropped.
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
        """The reason why recording has ended; None while it continues."""
        return self._failure or self.recordings.failure

    def holds(self, place: device) -> bool:
        """Return whether anything is recorded on a device."""
        return bool(self._recorded) and self._place == place

    def forget(self, place: device) -> None:
        """Drop the recordings on a device; every shape is counted anew."""
        with self._alone:
            if self._place == place:
                self._recorded.clear()
                self._seen.clear()

    def __call__(self, patches: Tensor) -> Tensor:
        """Return the logits, in their own memory."""
        logits = None
        try:
            logits = self._logits(patches)
        except Exception as error:
            if not _is_full(error) or not self.recordings.hold(patches.device):
                raise
        if logits is not None:
            return logits
        # Not in the `except`, because its traceback holds the maps that filled the memory.
        self.recordings.drop(patches.device)
        return self._network(patches)

    def _logits(self, patches: Tensor) -> Tensor | None:
        """Return the logits; None if a recording failed."""
        shape = tuple(patches.shape)
        with self._alone:
            if shape not in self._recorded and self._is_due(shape) and not self._add(shape, patches):
                return None
            play = self._recorded.pop(shape, None)
            if play is not None:
                self._recorded[shape] = play  # now the last shape to be dropped
                return play(patches).clone()  # the next patches overwrite the logits
        return self._network(patches)

    def _is_due(self, shape: tuple[int, ...]) -> bool:
        if self.failure is not None:
            return False
        seen = self._seen.get(shape, 0)
        self._seen[shape] = seen + 1
        return seen >= self._worth

    def _add(self, shape: tuple[int, ...], patches: Tensor) -> bool:
        """Record a shape; return False if that fails, which ends recording."""
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
        """Note a failure: full memory ends the recording of this network, another failure of all networks."""
        full = _is_full(error)
        why = "memory was full" if full else (str(error).splitlines() or [type(error).__name__])[0][:200]
        told = f"no CUDA graph was recorded, which costs time only: {why}"
        if full:
            self._failure = told
        else:
            self.recordings.failure = told


def _is_full(error: BaseException | None) -> bool:
    """Return whether an error, or an earlier error in its chain, may be a lack of memory.

    Ending a recording in which memory was full fails too, with another message.
    """
    seen: set[int] = set()
    while isinstance(error, Exception) and id(error) not in seen:
        if is_memory_error(error) or lacks_engine(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def pool_memory(place: device) -> int:
    """Return the bytes in the pools of CUDA graphs on a device that torch has reserved and nothing uses."""
    import torch

    index = torch.cuda.current_device() if place.index is None else place.index
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        if segment["device"] == index and tuple(segment.get("segment_pool_id", ORDINARY)) != ORDINARY
    )


def record_on_gpu(network: Network, patches: Tensor) -> Network:
    """Record the network's work on a GPU, on its own stream; return a function that replays the work.

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
            network(given)  # allocations at the first use of a stream are not recorded
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # A recording that fails to end leaves its stream the current stream (torch 2.13): the outer context
        # restores the old one. Other threads read scans meanwhile; only this thread's work is recorded.
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
