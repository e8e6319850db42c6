"""Write a backbone as an ONNX graph that reads its weights from the bundle's safetensors file.

ONNX allows a tensor to be in another file at an offset, and safetensors is plain bytes behind a
header. So each number is stored once, in half precision or 8 bits, and the graph widens it when it
is loaded.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError
from c3s3_seg.export.trace import trace
from c3s3_seg.inference.backends.runtimes import load_torch
from c3s3_seg.models.weights_format import SCALE
from c3s3_seg.system.schema import dump

OUTPUT = "logits"
KINDS = {"F16": "FLOAT16", "F32": "FLOAT", "I8": "INT8"}  # safetensors -> ONNX


def onnx_graph(bundle: ModelBundle, network: Network) -> bytes:
    """Return the graph of one network, (N, 1, X, Y, Z) -> logits (N, C, X, Y, Z), batch and sides free.

    Raises
    ------
    InputError
        If the weights in the bundle are not those of the network that it names.
    """
    import onnx

    net = load_torch(bundle, network)
    model = trace(net, bundle.task, network.channels, OUTPUT, fold=False)
    _drop_invented_biases(model, set(net.state_dict()))
    _use_stored_weights(model, bundle.folder / network.weights)
    properties = {
        "c3s3.task": json.dumps(dump(bundle.task)),
        "c3s3.network": json.dumps(dump(network)),
        "c3s3.output": "logits; probabilities are their softmax over axis 1",
    }
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _drop_invented_biases(model: Any, ours: set[str]) -> None:
    """Drop the zero biases, of a shape that ONNX forbids, that the exporter adds to convolutions without."""
    invented = {tensor.name for tensor in model.graph.initializer} - ours
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in invented:
            del node.input[2]
    kept = [tensor for tensor in model.graph.initializer if tensor.name in ours]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _use_stored_weights(model: Any, weights: Path) -> None:
    """Point every initializer at its bytes in the safetensors file, widened to float32 when loaded."""
    from onnx import TensorProto, helper

    stored = _layout(weights)
    widen, scales = [], []
    for tensor in model.graph.initializer:
        entry, name = stored[tensor.name], tensor.name
        if entry.kind not in KINDS:
            raise InputError(f"'{name}' is {entry.kind}, wanted {', '.join(KINDS)}", where=weights)
        if list(tensor.dims) != entry.shape:
            raise InputError(f"'{name}' is {entry.shape}, wanted {list(tensor.dims)}", where=weights)
        if entry.kind == "F16":
            tensor.name = f"{name}.half"
            widen.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
        elif entry.kind == "I8":
            tensor.name, scale = f"{name}.int8", TensorProto(name=name + SCALE, dims=[entry.shape[0]])
            widen.append(helper.make_node("DequantizeLinear", [tensor.name, scale.name], [name], axis=0))
            _make_external(scale, stored[scale.name], weights.name)
            scales.append(scale)
        _make_external(tensor, entry, weights.name)
    nodes = [*widen, *model.graph.node]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(scales)


def _make_external(tensor: Any, entry: _Entry, location: str) -> None:
    from onnx import TensorProto

    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_type = TensorProto.DataType.Value(KINDS[entry.kind])
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": location, "offset": entry.offset, "length": entry.length}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))


@dataclass(frozen=True)
class _Entry:
    """The location of a tensor in a safetensors file: dtype, shape, offset and length in bytes."""

    kind: str
    shape: list[int]
    offset: int
    length: int


def _layout(path: Path) -> dict[str, _Entry]:
    """Return the location of each tensor in a safetensors file, by name."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    entries = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        entries[name] = _Entry(entry["dtype"], entry["shape"], 8 + size + begin, end - begin)
    return entries
