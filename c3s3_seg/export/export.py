"""Build an export, compare it with torch, and only then write it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from c3s3_seg.bundle import CARD, MANIFEST, ModelBundle, Network
from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.export.card import in_bundle_card, stand_alone_card
from c3s3_seg.export.compare import ProbabilityBackend, compare
from c3s3_seg.export.metadata import properties, weights
from c3s3_seg.export.onnx import onnx_graph
from c3s3_seg.export.openvino import openvino_files
from c3s3_seg.export.parity import Parity
from c3s3_seg.export.spec import Built, GraphSpec
from c3s3_seg.export.standalone import standalone_graph
from c3s3_seg.export.trace import INPUT
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend, TorchBackend, load_torch
from c3s3_seg.inference.tiling import FloatArray
from c3s3_seg.system.choices import ExportTarget
from c3s3_seg.system.files import (
    check_folder,
    check_output_file,
    make_own_folder,
    remove_partial,
    write_whole,
)
from c3s3_seg.system.lock import hold
from c3s3_seg.system.ownership import check_set, replacing
from c3s3_seg.system.schema import dump, plain

FACTS = "export.json"
# Files that a format writes; a name that begins with a dot follows the stem.
NAMES: dict[ExportTarget, tuple[str, ...]] = {
    "onnx": (".onnx", CARD),
    "openvino": (".xml", ".bin", CARD),
    "tensorrt": (".engine", ".onnx", ".json", CARD),
    "monai-bundle": (
        "models/model.ts",
        "configs/metadata.json",
        "configs/inference.json",
        f"docs/{CARD}",
    ),
}


def check_output(bundle: ModelBundle, target: ExportTarget, spec: GraphSpec, out: Path | None) -> None:
    """Check, before minutes of work, that the files can be written and replace no file of other origin.

    Parameters
    ----------
    bundle, target, spec
        Same as in `export_folder`.
    out
        Folder of a stand-alone export; None: the bundle's own.

    Raises
    ------
    InputError
        If a file cannot be written, or would replace such a file.
    """
    if out is None:
        check_output_file(bundle.folder / CARD)
        check_set(bundle.folder, [CARD, *(network.graph for network in bundle.networks)], MANIFEST)
        bundle.card()  # raises before the work if the card cannot be read, since it is rewritten
        return
    stem = spec.stem(bundle)
    check_folder(out)
    if out.resolve() == bundle.folder.resolve():
        todo = "Give another folder, or leave -o out: then the graphs are written into the bundle"
        raise InputError("is the bundle's own folder", where=out, todo=todo)
    check_set(out, [stem + name if name.startswith(".") else name for name in NAMES[target]], FACTS)


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Create the folder, and remove it at the end if nothing was written to it."""
    made = [path for path in (out, *out.parents) if not os.path.exists(path)]
    check_output_file(out / FACTS)
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def export_in_bundle(bundle: ModelBundle, scans: Sequence[Volume]) -> tuple[ModelBundle, dict[str, Parity]]:
    """Write the ONNX graph of each network into the bundle, if it agrees with torch on these scans.

    The parity goes into the manifest and onto the card.

    Raises
    ------
    InputError
        If there is no scan, or the bundle cannot be written to.
    RefusedError
        If a graph does not agree; the bundle is left unchanged.
    """
    _check_scans(scans)
    check_output(bundle, "onnx", GraphSpec(), None)
    graphs: dict[str, bytes] = {}
    parities: dict[str, Parity] = {}
    for network in bundle.networks:
        graphs[network.graph] = onnx_graph(bundle, network)
        parities[network.graph] = _check_graph(bundle, network, graphs[network.graph], scans)
    files = {**graphs, CARD: in_bundle_card(bundle.card() or f"# {bundle.task.name}\n", parities).encode()}
    return bundle.add(files, {name: dump(parity) for name, parity in parities.items()}), parities


def _check_graph(bundle: ModelBundle, network: Network, graph: bytes, scans: Sequence[Volume]) -> Parity:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / network.graph
        path.write_bytes(graph)
        # The graph reads its weights from the file beside it.
        (Path(folder) / network.weights).write_bytes((bundle.folder / network.weights).read_bytes())
        reference = [TorchBackend(load_torch(bundle, network))]
        parity = compare(bundle.task, reference, [OpenVinoBackend(path)], scans)
    return _approved(parity, network.graph, bundle.folder)


def export_folder(
    bundle: ModelBundle, target: ExportTarget, spec: GraphSpec, out: Path, scans: Sequence[Volume]
) -> tuple[Path, Parity]:
    """Write an export that does not need this package to a folder, if it agrees with torch on these scans.

    Returns
    -------
    The path of the network, and its parity, which is also in `export.json` and on the card.

    Raises
    ------
    RefusedError
        If the export does not agree; the folder is left unchanged.
    InputError
        If there is no scan, this form is not possible (an ensemble of one network, say), or the folder cannot
        be written to, holds files of these names that no export wrote, or another export writes into it.
    MissingError
        If a library of the format is not installed, or there is no GPU for an engine.
    """
    _check_scans(scans)
    check_output(bundle, target, spec, out)
    with _folder(out):
        return _export(bundle, target, spec, out, scans)


def _check_scans(scans: Sequence[Volume]) -> None:
    if not scans:
        raise InputError("there is no scan to compare on", todo="Give one with --check")


def _export(
    bundle: ModelBundle, target: ExportTarget, spec: GraphSpec, out: Path, scans: Sequence[Volume]
) -> tuple[Path, Parity]:
    members, built = spec.members(bundle), build(bundle, target, spec)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), built.files)
        reference = [TorchBackend(load_torch(*member)) for member in members]
        opened = built.open(Path(folder) / built.network)
        parity = _approved(
            compare(bundle.task, reference, [opened], scans, spec.precision), built.network, out
        )
    card = stand_alone_card(bundle.task, members, spec, built, parity).encode()
    files = {**built.files, built.card: card}
    record = {
        "format": target,
        "properties": properties(bundle.task, members, spec.precision),
        "weights": weights(members),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "parity": dump(parity),
    }
    with hold(out), replacing(out, files, FACTS):
        for place in {(out / name).parent for name in (*files, FACTS)}:
            remove_partial(place)
        _write(out, files)
        _write(out, {FACTS: json.dumps(plain(record), indent=1, allow_nan=False).encode()})
    return out / built.network, parity


def build(bundle: ModelBundle, target: ExportTarget, spec: GraphSpec) -> Built:
    """Return the files of one format, in memory."""
    if target == "monai-bundle":
        from c3s3_seg.export.monai import monai_bundle

        return monai_bundle(bundle, spec)
    if target == "tensorrt":
        from c3s3_seg.export.tensorrt import tensorrt_engine

        return tensorrt_engine(bundle, spec)
    if target == "openvino":
        # The whole graph in single precision: OpenVINO rounds the weights itself.
        graph = standalone_graph(bundle, GraphSpec("float32", spec.batch, spec.ensemble))
        files = openvino_files(bundle, graph, spec)
    else:
        files = {f"{spec.stem(bundle)}.onnx": standalone_graph(bundle, spec)}
    onnxruntime = target == "onnx" and importlib.util.find_spec("onnxruntime") is not None

    def opened(path: Path) -> Backend:
        if onnxruntime:
            return ProbabilityBackend(_in_onnx_runtime(path), "onnx", spec.batch)
        return ProbabilityBackend(OpenVinoBackend(path), "openvino", spec.batch)

    return Built(files, opened)


def _in_onnx_runtime(path: Path) -> Callable[[FloatArray], FloatArray]:
    """Return a function that runs an ONNX file on the CPU, so that parity does not depend on this machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda patches: np.asarray(session.run(None, {INPUT: patches})[0])


def _approved(parity: Parity, name: str, where: Path) -> Parity:
    """Return the parity, or raise a RefusedError with reasons if the network differs from torch."""
    if parity.holds:
        return parity
    raise RefusedError(f"the exported {name} differs from torch: {'; '.join(parity.faults)}", where=where)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        if (folder / name).parent != folder:
            make_own_folder((folder / name).parent)
        write_whole(folder / name, content)
