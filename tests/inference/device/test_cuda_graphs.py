"""The code around a CUDA graph. The recorder here has one buffer for patches and outputs, as a GPU's has."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from c3s3_seg.inference.device import cuda_graphs
from c3s3_seg.inference.device.cuda_graphs import (
    KEPT,
    WORTH,
    CudaGraphs,
    Recordings,
    pool_memory,
    record_on_gpu,
)

Network = Callable[[Tensor], Tensor]


class Recorder:
    """A recorder that counts recordings; each recording writes all its outputs into the same memory."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, network: Network, patches: Tensor) -> Network:
        self.shapes.append(tuple(patches.shape))
        given, answer = patches.clone(), network(patches)

        def play(others: Tensor) -> Tensor:
            given.copy_(others)
            return answer.copy_(network(given))

        return play


def double(patches: Tensor) -> Tensor:
    return 2 * patches


CPU = torch.device("cpu")
FULL = "CUDA out of memory. Tried to allocate 2 GiB"
STATE = "operation not permitted when stream is capturing"


def patches(side: int, value: float = 1.0) -> Tensor:
    return torch.full((1, 1, side, 1, 1), value)


def test_a_shape_that_comes_often_is_recorded_once() -> None:
    recorder = Recorder()
    graphs = CudaGraphs(double, recorder)
    answers = [graphs(patches(4, float(n))) for n in range(WORTH)]
    assert recorder.shapes == []
    answers += [graphs(patches(4, float(WORTH + n))) for n in range(3)]
    assert recorder.shapes == [(1, 1, 4, 1, 1)]
    found = [float(answer.mean()) for answer in answers]  # each output has memory of its own
    assert found == [2 * n for n in range(WORTH + 3)]
    graphs(patches(2))
    assert len(recorder.shapes) == 1


def test_the_last_few_shapes_are_kept() -> None:
    recorder = Recorder()
    graphs = CudaGraphs(double, recorder, worth=1)
    shapes = [(1, 1, n, 1, 1) for n in range(1, KEPT + 2)]
    for shape in [*shapes, *shapes]:
        graphs(torch.zeros(shape))
    assert recorder.shapes == shapes
    graphs(torch.zeros(shapes[-1]))
    assert recorder.shapes == shapes
    graphs(torch.zeros(shapes[0]))  # dropped for the last shape: counted anew
    assert recorder.shapes == shapes
    graphs(torch.zeros(shapes[0]))
    assert recorder.shapes == [*shapes, shapes[0]]


def test_shapes_in_turn_are_not_recorded_at_every_scan() -> None:
    recorder = Recorder()
    graphs = CudaGraphs(double, recorder, worth=3)
    for _ in range(12):
        for side in range(1, KEPT + 2):
            graphs(patches(side))
    assert KEPT < len(recorder.shapes) <= 12 * (KEPT + 1) // 4  # at most 1 in 4 uses


@pytest.mark.parametrize(
    ("words", "told"), [(f"{STATE}\nat x.cpp", "is capturing"), (FULL, "memory was full")]
)
def test_what_cannot_be_recorded_runs_as_it_is_and_says_so(words: str, told: str) -> None:
    asked: list[int] = []

    def refuse(network: Network, patches: Tensor) -> Network:
        asked.append(1)
        raise RuntimeError(words)

    graphs = CudaGraphs(double, refuse, worth=1)
    for _ in range(4):
        assert torch.equal(graphs(patches(4)), 2 * patches(4))
    assert len(asked) == 1
    assert graphs.failure is not None
    assert graphs.failure.endswith(told)


def test_the_end_of_a_recording_that_fails_hides_no_lack_of_memory() -> None:
    def refuse(network: Network, patches: Tensor) -> Network:
        try:
            raise RuntimeError(FULL)
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    recordings = Recordings()
    graphs = CudaGraphs(double, refuse, recordings, worth=0)
    assert torch.equal(graphs(patches(4)), 2 * patches(4))
    assert graphs.failure is not None
    assert recordings.failure is None  # other networks may still record


def test_a_failure_other_than_memory_ends_the_recordings_of_all_networks() -> None:
    def refuse(network: Network, patches: Tensor) -> Network:
        raise RuntimeError(STATE)

    recordings, recorder = Recordings(), Recorder()
    other, graphs = (CudaGraphs(double, record, recordings, worth=0) for record in (recorder, refuse))
    other(patches(4))
    assert recordings.hold(CPU)
    graphs(patches(4))
    assert not recordings.hold(CPU)
    other(patches(2))
    assert len(recorder.shapes) == 1
    assert other.failure == graphs.failure is not None


class Needy:
    """A network that reports full memory as long as any network holds a recording."""

    def __init__(self, recordings: Recordings, words: str) -> None:
        self.recordings, self.words, self.runs = recordings, words, 0
        self.maps: weakref.ref[Tensor] | None = None

    def __call__(self, patches: Tensor) -> Tensor:
        self.runs += 1
        maps = patches + 0
        if self.recordings.hold(CPU):
            self.maps = weakref.ref(maps)
            raise RuntimeError(self.words)
        if self.maps is not None:
            assert self.maps() is None  # the maps of the first try are freed before the second
        return 2 * maps


@pytest.mark.parametrize("words", [FULL, "GET was unable to find an engine to execute this computation"])
def test_memory_that_is_full_drops_what_all_networks_have_recorded(words: str) -> None:
    recordings, recorder = Recordings(), Recorder()
    other = CudaGraphs(double, recorder, recordings, worth=0)
    needy = Needy(recordings, words)
    graphs = CudaGraphs(needy, Recorder(), recordings)
    other(patches(4))
    gc.disable()
    try:
        assert torch.equal(graphs(patches(2)), 2 * patches(2))
    finally:
        gc.enable()
    assert (needy.runs, recordings.hold(CPU)) == (2, False)
    assert other.failure is graphs.failure is None
    other(patches(4))  # recorded again, as only memory was lacking
    assert len(recorder.shapes) == 2


def test_memory_that_is_full_without_a_recording_is_the_runtimes_error() -> None:
    runs = []

    def full(patches: Tensor) -> Tensor:
        runs.append(1)
        raise RuntimeError(FULL)

    with pytest.raises(RuntimeError, match="out of memory"):
        CudaGraphs(full, Recorder())(patches(4))
    assert len(runs) == 1


def test_memory_that_is_full_when_the_answer_is_copied_is_full_too() -> None:
    class Answer:
        def clone(self) -> Tensor:
            raise RuntimeError(FULL)

    def record(network: Network, patches: Tensor) -> Any:
        return lambda others: Answer()

    graphs = CudaGraphs(double, record, worth=0)
    assert torch.equal(graphs(patches(4)), 2 * patches(4))
    assert not graphs.recordings.hold(CPU)


def test_networks_that_are_gone_are_forgotten() -> None:
    recordings = Recordings()
    CudaGraphs(double, Recorder(), recordings, worth=0)(patches(4))
    gc.collect()
    assert not recordings.hold(CPU)


def test_memory_of_graphs_is_counted_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    def segment(device: int, total: int, used: int, **pool: Any) -> dict[str, Any]:
        return {"device": device, "total_size": total, "allocated_size": used, **pool}

    segments = [
        segment(0, 100, 30, segment_pool_id=(0, 0)),
        segment(0, 200, 50, segment_pool_id=(0, 1)),
        segment(1, 400, 0, segment_pool_id=(0, 1)),
        segment(0, 800, 0),
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert pool_memory(torch.device("cuda:0")) == 150
    monkeypatch.setattr(cuda_graphs, "pool_memory", lambda place: 7)
    graphs = CudaGraphs(double, Recorder(), worth=0)
    assert graphs.recordings.memory(CPU) == 0
    graphs(patches(4))
    assert graphs.recordings.memory(CPU) == 7


class Streams:
    """The current stream of torch.cuda; a recording whose end fails leaves its own stream as the current."""

    def __init__(self) -> None:
        self.current: Any = self.stream()

    def stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda _: None)

    @contextmanager
    def use(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def record(self, graph: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.current = stream
        yield
        raise RuntimeError(STATE)


def test_a_recording_that_fails_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams()
    usual = streams.current
    parts = {"Stream": streams.stream, "stream": streams.use, "graph": streams.record}
    parts |= {"current_stream": lambda: streams.current, "CUDAGraph": object, "device": contextmanager(_none)}
    for name, part in parts.items():
        monkeypatch.setattr(torch.cuda, name, part)
    with pytest.raises(RuntimeError, match="is capturing"):
        record_on_gpu(double, patches(4))
    assert streams.current is usual


def _none(_: object) -> Iterator[None]:
    yield
