"""Convert to OpenVINO's own format: an XML graph with its weights in a file beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.export.metadata import properties
from c3s3_seg.export.spec import GraphSpec
from c3s3_seg.system.libraries import import_openvino


def openvino_files(bundle: ModelBundle, graph: bytes, spec: GraphSpec) -> dict[str, bytes]:
    """Return NAME.xml and NAME.bin for a stand-alone ONNX graph in single precision.

    `float16` halves the file: OpenVINO widens the weights where the device computes in single
    precision, as a CPU does. The metadata are in the XML's `rt_info`.
    """
    openvino = import_openvino()
    model = openvino.Core().read_model(graph)
    for key, text in properties(bundle.task, spec.members(bundle), spec.precision).items():
        model.set_rt_info(text, key.split("."))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{spec.stem(bundle)}.xml"
        openvino.save_model(model, path, compress_to_fp16=spec.precision == "float16")
        return {file.name: file.read_bytes() for file in (path, path.with_suffix(".bin"))}
