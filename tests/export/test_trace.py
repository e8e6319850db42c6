"""torch -> ONNX: the batch size and the sides stay free, whether the graph depends on them or not."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.export.trace import trace

pytestmark = pytest.mark.slow
TASK = Task("toy", "MR", (Label("a", 1),), Recipe((1.0, 1.0, 1.0)), (32, 32, 32))


class Plain(nn.Module):
    """A network whose graph is the same for all sides."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(x)
        return y + x


class Reshaping(Plain):
    """A network whose trace would contain the sides if they were fixed."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.flatten(2).cumsum(2).reshape(y.shape)


@pytest.mark.parametrize(("net", "batch"), [(Plain(), None), (Plain(), 3), (Reshaping(), None)])
def test_batch_and_sides_are_free(net: nn.Module, batch: int | None) -> None:
    model = trace(net.eval(), TASK, 1, "logits", batch=batch)
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        assert [size.dim_param for size in sizes][2:] == ["16*x", "16*y", "16*z"]
        assert (sizes[0].dim_param, sizes[0].dim_value) == (("", 3) if batch else ("batch", 0))
    patches = np.random.default_rng(0).normal(size=(3, 1, 16, 64, 80)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"scan": patches})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, net(torch.from_numpy(patches)).numpy(), rtol=1e-4, atol=1e-3)
