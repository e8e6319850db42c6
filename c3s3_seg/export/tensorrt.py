"""Build a TensorRT engine for the GPU of this machine, with the ONNX file of its graph."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.export.compare import ProbabilityBackend
from c3s3_seg.export.spec import Built, GraphSpec
from c3s3_seg.export.standalone import standalone_graph
from c3s3_seg.inference.backends.engine_cache import CacheKey, EngineCache, ShapeProfile, library
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.inference.backends.tensorrt import TensorRtBackend


def tensorrt_engine(bundle: ModelBundle, spec: GraphSpec) -> Built:
    """Build NAME.engine, NAME.onnx and NAME.json, which states what the engine fits.

    The batch is free from 1 to `spec.batch` (default 1), sides are multiples of the task's up to 192.

    Raises
    ------
    MissingError
        If TensorRT or a GPU is missing; nothing is exported then.
    RefusedError
        If TensorRT does not accept the graph.
    """
    library()  # raises before seconds of tracing if TensorRT is missing
    graph = standalone_graph(bundle, GraphSpec(spec.precision, None, spec.ensemble))
    channels = spec.members(bundle)[0][1].channels
    profile = ShapeProfile(bundle.task.patch, bundle.task.multiple, channels, spec.batch or 1)
    key = CacheKey.here(graph, profile)
    name = spec.stem(bundle)
    files = {
        f"{name}.engine": EngineCache.default().engine(graph, profile),
        f"{name}.onnx": graph,
        f"{name}.json": json.dumps(asdict(key), indent=1).encode(),
    }
    return Built(files, _open, batch=_takes(profile))


def _takes(profile: ShapeProfile) -> str:
    """Return a text such as `1 to 4 patches with sides of 16 x 16 x 16 to 192 x 192 x 192`."""
    least, _, most = profile.shapes()
    smallest, largest = (" x ".join(map(str, shape[2:])) for shape in (least, most))
    patches = "1 patch" if profile.batch == 1 else f"1 to {profile.batch} patches"
    return f"{patches} with sides of {smallest} to {largest}"


def _open(path: Path) -> Backend:
    backend = TensorRtBackend(path.read_bytes())
    return ProbabilityBackend(backend, backend.name, largest_tile=backend.largest_tile)
