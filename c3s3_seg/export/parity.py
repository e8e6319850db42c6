"""Does an exported graph say what torch says? Asked on real patches, before it is written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import RefusedError
from c3s3_seg.export.onnx import onnx_graph
from c3s3_seg.inference.backends import OpenVinoBackend, TorchBackend, load_torch
from c3s3_seg.inference.window import Tiling, softmax
from c3s3_seg.io import load
from c3s3_seg.phantom import simulate
from c3s3_seg.volume import Volume

LARGEST_DIFFERENCE = 1e-3  # of a probability; single precision gives about 1e-5
LARGEST_FLIPPED = 1e-5  # share of voxels whose label may change: ties within rounding


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from torch.

    Parameters
    ----------
    patches, voxels
        How many were compared.
    difference
        Largest |difference| of a probability.
    flipped
        Voxels whose most probable class differs.
    """

    patches: int
    voxels: int
    difference: float
    flipped: int

    @property
    def holds(self) -> bool:
        """Whether both are within their limits."""
        few = max(1, int(LARGEST_FLIPPED * self.voxels))
        return self.difference <= LARGEST_DIFFERENCE and self.flipped <= few

    def __str__(self) -> str:
        return (
            f"{self.patches} patches, largest difference of a probability {self.difference:.1e}"
            f" (limit {LARGEST_DIFFERENCE:.0e}), {self.flipped} of {self.voxels} voxels with another"
            f" label (limit {LARGEST_FLIPPED:.0e})"
        )


def check_scans(bundle: ModelBundle, given: Sequence[Path]) -> tuple[list[Volume], str]:
    """What to compare on, and its name for the report.

    The scans that are given; else a validation case of the data the bundle was trained on, where
    that folder is at hand; else a phantom.
    """
    if given:
        return [load(path) for path in given], f"{len(given)} given scan(s)"
    facts = bundle.manifest.training
    cases: dict[str, object] = next(iter(facts.get("validation_cases", {}).values()), {})
    folder = Path(facts.get("config", {}).get("data", {}).get("folder", ""))
    for name in cases:
        path = folder / "imagesTr" / f"{name}.nii.gz"
        if path.is_file():
            return [load(path)], f"validation case {name}"
    return [simulate(0).scan], "a simulated scan"


def export_onnx(bundle: ModelBundle, scans: Sequence[Volume]) -> tuple[ModelBundle, dict[str, Parity]]:
    """Write the ONNX graph of each network into the bundle, if it agrees with torch on these scans.

    Raises
    ------
    RefusedError
        If it does not; the bundle is left as it was.
    """
    graphs, proofs = {}, {}
    for network in bundle.networks:
        graph = onnx_graph(bundle, network)
        proof = compare(bundle, network, graph, scans)
        if not proof.holds:
            raise RefusedError(
                f"the exported {network.graph} differs from torch: {proof}", where=bundle.folder
            )
        graphs[network.graph], proofs[network.graph] = graph, proof
    return bundle.add(graphs), proofs


def compare(bundle: ModelBundle, network: Network, graph: bytes, scans: Sequence[Volume]) -> Parity:
    """Run both on patches of the training size that cover the middle of each scan."""
    patches = [patch for scan in scans for patch in _patches(bundle, scan)]
    expected = _run(TorchBackend(load_torch(bundle, network)), patches)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / network.graph
        path.write_bytes(graph)
        # The graph reads its weights from the file beside it.
        (Path(folder) / network.weights).write_bytes((bundle.folder / network.weights).read_bytes())
        found = _run(OpenVinoBackend(path), patches)
    differences = [float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)]
    flipped = [int((a.argmax(1) != b.argmax(1)).sum()) for a, b in zip(expected, found, strict=True)]
    return Parity(len(patches), sum(patch.size for patch in patches), max(differences), sum(flipped))


def _run(backend: TorchBackend | OpenVinoBackend, patches: list[np.ndarray]) -> list[np.ndarray]:
    return [softmax(backend(patch)) for patch in patches]


def _patches(bundle: ModelBundle, scan: Volume) -> list[np.ndarray]:
    volume = bundle.task.recipe.to_model(scan).array
    tiling = Tiling.overlapping(volume.shape, bundle.task.patch, 0.25)
    padded = np.pad(volume, [(0, n - m) for n, m in zip(tiling.shape, volume.shape, strict=True)])
    return [np.ascontiguousarray(padded[tile])[None, None] for tile in tiling.slices()]
