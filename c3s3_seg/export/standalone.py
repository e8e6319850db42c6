"""Write one self-contained ONNX file: weights, softmax and the metadata needed to use it."""

from __future__ import annotations

import warnings
from typing import Any

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import MissingError, to_install
from c3s3_seg.export.metadata import properties
from c3s3_seg.export.spec import GraphSpec, Members
from c3s3_seg.export.trace import trace
from c3s3_seg.inference.backends.runtimes import load_torch

OUTPUT = "probabilities"
# In half precision a probability has three digits; operators after the last convolution stay in single.
SINGLE = ("Softmax", "Unsqueeze", "Concat", "ReduceMean")


def standalone_graph(bundle: ModelBundle, spec: GraphSpec) -> bytes:
    """Return the graph (N, 1, X, Y, Z) float32 -> probabilities (N, C, X, Y, Z) float32.

    Sides are free multiples of the task's.

    Raises
    ------
    InputError
        If the weights are not those of the network that the bundle names, or there is one network
        and an ensemble is requested.
    MissingError
        If half precision is requested and its converter is not installed.
    """
    import onnx

    members = spec.members(bundle)
    model = trace(averaged(members), bundle.task, members[0][1].channels, OUTPUT, batch=spec.batch)
    if spec.precision == "float16":
        model = _to_half(model)
    onnx.helper.set_model_props(model, properties(bundle.task, members, spec.precision))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()  # type: ignore[no-any-return]


def averaged(members: Members) -> Any:
    """Return a torch module: scan -> the mean of the networks' probabilities."""
    import torch
    from torch import Tensor, nn

    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.networks = nn.ModuleList(load_torch(*member) for member in members)

        def forward(self, scan: Tensor) -> Tensor:
            outputs = [torch.softmax(network(scan), dim=1) for network in self.networks]
            return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(dim=0)

    return Averaged().eval()


def _to_half(model: Any) -> Any:
    try:
        from onnxconverter_common import float16
    except ImportError:
        what = "half precision needs onnxconverter-common, which is not installed"
        raise MissingError(what, todo=to_install("train")) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each weight that is too small for half precision
        single = [*float16.DEFAULT_OP_BLOCK_LIST, *SINGLE]
        half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=single)
    _output_in_single(half)
    return half


def _output_in_single(model: Any) -> None:
    """Drop the last cast: the converter narrows outputs of nodes in single precision, the graph's too."""
    from onnx import TensorProto

    (output,) = model.graph.output
    (last,) = (node for node in model.graph.node if output.name in node.output)
    if last.op_type == "Cast":
        (before,) = (node for node in model.graph.node if last.input[0] in node.output)
        before.output[0] = output.name
        model.graph.node.remove(last)
    output.type.tensor_type.elem_type = TensorProto.FLOAT
