"""Trace torch to an ONNX model with batch and sides free, without the exporter's own metadata."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from c3s3_seg.bundle import Task
from c3s3_seg.errors import RefusedError

INPUT = "scan"
# torch.export determines by itself which sizes may vary; these bounds keep its search short.
LARGEST_BATCH, LARGEST_SIDE = 64, 1024
# Operators whose nodes are the same for any sides. Reshape, Resize, Expand, Slice and the like are
# not among them: a trace of fixed sides may contain these sides in their operands.
OF_ANY_SIDES = {
    "Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "ConvTranspose", "LeakyRelu", "ReduceMean",
    "Relu", "Softmax", "Unsqueeze",
}  # fmt: skip


def trace(
    net: Any, task: Task, channels: int, output: str, *, batch: int | None = None, fold: bool = True
) -> Any:
    """Return an ONNX model of a network in evaluation mode: `scan` (N, C, X, Y, Z) -> `output`.

    Parameters
    ----------
    net
        Torch module.
    task
        Task whose `multiple` the sides are multiples of.
    channels
        Number of input channels.
    output
        Name of the output.
    batch
        N, or None to leave it free. The sides are free multiples of the task's.
    fold
        Whether batch norms are folded into convolutions. If not, every parameter keeps its name.
    """
    import torch

    sides = [n * m for n, m in zip((2, 3, 4), task.multiple, strict=True)]
    example = torch.zeros(batch or 2, channels, *sides)
    # With sides that are free from the beginning, torch.export takes three times as long.
    model = _model(net, example, output, fold, None)
    if _fits_any_sides(model):
        _free_sides(model, batch, task.multiple)
    else:
        model = _model(net, example, output, fold, _free(batch, task.multiple))
    model.producer_name = "c3s3-seg"
    return model


def _model(net: Any, example: Any, output: str, fold: bool, free: dict[int, Any] | None) -> Any:
    import torch
    from onnxscript import optimizer

    with _quiet():
        program = torch.onnx.export(
            net, (example,), dynamo=True, optimize=fold, external_data=False, verbose=False,
            input_names=[INPUT], output_names=[output], dynamic_shapes=(free,) if free else None,
        )  # fmt: skip
        if program is None:
            raise RefusedError("torch.onnx.export gave no program")
        if not fold:
            optimizer.fold_constants(program.model)
    model = program.model_proto
    _drop_traces(model)
    return model


def _fits_any_sides(model: Any) -> bool:
    """Return whether nothing in a graph that was traced with fixed sides depends on these sides."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return all(
        node.op_type in OF_ANY_SIDES and not (node.op_type in ("Add", "Concat") and stored & set(node.input))
        for node in model.graph.node
    )


def _free_sides(model: Any, batch: int | None, multiple: tuple[int, int, int]) -> None:
    """Name batch and sides as a trace with free sizes does."""
    sides = [f"{n}*{axis}" if n > 1 else axis for axis, n in zip("xyz", multiple, strict=True)]
    names = [None if batch else "batch", None, *sides]
    for value in (*model.graph.input, *model.graph.output):
        for size, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if name:
                size.dim_param = name
    del model.graph.value_info[:]  # they have the fixed sides


def _free(batch: int | None, multiple: tuple[int, int, int]) -> dict[int, Any]:
    import torch

    side = torch.export.Dim
    free = {
        axis: n * side(name, min=1, max=LARGEST_SIDE // n) if n > 1 else side(name, min=1, max=LARGEST_SIDE)
        for axis, name, n in zip((2, 3, 4), "xyz", multiple, strict=True)
    }
    return free if batch else {0: side("batch", min=1, max=LARGEST_BATCH), **free}


def _drop_traces(model: Any) -> None:
    """Drop stack traces and dead constants: most of a graph, and the traces contain the exporter's paths."""
    read = {name for node in model.graph.node for name in node.input}
    alive = [node for node in model.graph.node if read & set(node.output) or node.op_type != "Constant"]
    del model.graph.node[:]
    model.graph.node.extend(alive)
    graph = model.graph
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's reports on its steps and absent packages, which do not concern users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
