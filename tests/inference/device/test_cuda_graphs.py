"""What surrounds a recording. The recorder here keeps one place for patches and answers, as a GPU's does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from c3s3_seg.inference.device.cuda_graphs import KEPT, CudaGraphs

Network = Callable[[Tensor], Tensor]


class Recorder:
    """Counts recordings; each writes all its answers into the same memory."""

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


def test_a_shape_that_comes_again_is_recorded_once() -> None:
    recorder = Recorder()
    graphs = CudaGraphs(double, recorder)
    answers = [graphs(torch.full((1, 1, 4, 4, 4), float(n))) for n in range(4)]
    assert recorder.shapes == [(1, 1, 4, 4, 4)]
    assert [float(answer.mean()) for answer in answers] == [0, 2, 4, 6]  # each in memory of its own
    graphs(torch.zeros(1, 1, 2, 2, 2))
    assert len(recorder.shapes) == 1


def test_the_last_few_shapes_are_kept() -> None:
    recorder = Recorder()
    graphs = CudaGraphs(double, recorder)
    shapes = [(1, 1, n, 1, 1) for n in range(1, KEPT + 2)]
    for shape in [*shapes, *shapes]:
        graphs(torch.zeros(shape))
    assert recorder.shapes == shapes
    graphs(torch.zeros(shapes[-1]))
    assert recorder.shapes == shapes
    graphs(torch.zeros(shapes[0]))
    assert recorder.shapes == [*shapes, shapes[0]]


@pytest.mark.parametrize(
    ("words", "told"),
    [("operation not permitted when stream is capturing\nat x.cpp", "is capturing"),
     ("CUDA out of memory. Tried to allocate 2 GiB", "memory was full")],
)  # fmt: skip
def test_what_cannot_be_recorded_runs_as_it_is_and_says_so(words: str, told: str) -> None:
    asked: list[int] = []

    def refuse(network: Network, patches: Tensor) -> Network:
        asked.append(1)
        raise RuntimeError(words)

    graphs = CudaGraphs(double, refuse)
    patches = torch.ones(1, 1, 4, 4, 4)
    for _ in range(3):
        assert torch.equal(graphs(patches), 2 * patches)
    assert len(asked) == 1
    assert graphs.failure is not None
    assert graphs.failure.endswith(told)
