"""A TensorRT engine for the GPU of this machine, with the ONNX file it was made from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.export.compare import Probabilities
from c3s3_seg.export.spec import Built, Form
from c3s3_seg.export.standalone import standalone_graph
from c3s3_seg.inference.backends.engine_cache import Profile, Stamp, Vault, library
from c3s3_seg.inference.backends.runtimes import Backend
from c3s3_seg.inference.backends.tensorrt import TensorRtBackend


def tensorrt_engine(bundle: ModelBundle, form: Form) -> Built:
    """NAME.engine, NAME.onnx and NAME.json, which says what the engine fits.

    The batch is free from 1 to `form.batch` (default 1), sides are multiples of 16 up to 192.

    Raises
    ------
    MissingError
        If TensorRT or a GPU is missing; nothing is exported then.
    RefusedError
        If TensorRT does not take the graph.
    """
    library()  # seconds of tracing are not spent where there is nothing to build with
    graph = standalone_graph(bundle, Form(form.precision, None, form.ensemble))
    profile = Profile(bundle.task.patch, form.members(bundle)[0][1].channels, form.batch or 1)
    stamp = Stamp.here(graph, profile)
    name = form.stem(bundle)
    files = {
        f"{name}.engine": Vault.default().engine(graph, profile),
        f"{name}.onnx": graph,
        f"{name}.json": json.dumps(asdict(stamp), indent=1).encode(),
    }
    return Built(files, _open)


def _open(path: Path) -> Backend:
    backend = TensorRtBackend(path.read_bytes())
    return Probabilities(backend, backend.name)
