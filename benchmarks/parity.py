"""Differences of each exported format from torch: the table of docs/export.md.

    python benchmarks/parity.py [DATA] [BUNDLE]      DATA: the folder `la`, default ../shared/data/la

The data are the 8 validation cases: whole scans on their own grid and the patches that cover them. Every
format is written by `export_folder`, so each row has also passed the parity check. An ensemble is
the networks of the bundle and of its linked bundle in one graph, compared with torch running each of
them. The last rows are MONAI's own runner on the exported folder: its pre- and post-processing instead
of this package's. The scans have their origin at zero, where MONAI pairs other voxels than elsewhere,
so MONAI also gets them moved by 100 mm.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from c3s3_seg import ModelBundle, load, load_mask, save
from c3s3_seg.bundle import Task
from c3s3_seg.export.compare import masks_apart
from c3s3_seg.export.export import export_folder, export_in_bundle
from c3s3_seg.export.parity import Parity, ScanParity
from c3s3_seg.export.spec import GraphSpec
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference import open_predictor
from c3s3_seg.system.choices import ExportTarget

CASES = 8  # the last of the unlabelled list: the validation cases of the shipped configuration
FORMATS: tuple[tuple[str, ExportTarget, GraphSpec], ...] = (
    ("onnx float32", "onnx", GraphSpec()),
    ("onnx float16", "onnx", GraphSpec("float16")),
    ("openvino float32", "openvino", GraphSpec()),
    ("openvino float16", "openvino", GraphSpec("float16")),
    ("onnx float32, ensemble", "onnx", GraphSpec(ensemble=True)),
    ("onnx float16, ensemble", "onnx", GraphSpec("float16", ensemble=True)),
    ("openvino float32, ensemble", "openvino", GraphSpec(ensemble=True)),
    ("monai-bundle, ensemble", "monai-bundle", GraphSpec(ensemble=True)),
    ("monai-bundle, network", "monai-bundle", GraphSpec()),
)


def row(name: str, proof: Parity, size: float | None = None) -> str:
    """Return a line of the table; without a size, only the columns of whole scans are filled."""
    worst = proof.worst
    left = "- | - | -" if size is None else f"{size / 1e6:.1f} | {proof.difference:.1e} | {proof.flipped}"
    return (
        f"| {name} | {left} | {worst.flipped} | {worst.dice:.6f} | {worst.hd95_mm:.3f}"
        f" | {worst.asd_mm:.5f} | {worst.nsd:.5f} |"
    )


def monai_rows(exported: Path, task: Task, scans: list[Volume], references: list[Volume]) -> None:
    """Print the rows of MONAI's runner on the scans as they are, and moved by 100 mm."""
    label = "monai-bundle, MONAI's runner"
    print(row(label, monai_runs(exported, "as-they-are", task, scans, references)), flush=True)
    pairs = [(moved(scan), moved(mask)) for scan, mask in zip(scans, references, strict=True)]
    there = monai_runs(exported, "moved", task, *map(list, zip(*pairs, strict=True)))
    print(row(f"{label}, scans moved", there))
    even = [n for n, scan in enumerate(scans) if not any(side % 2 for side in scan.array.shape)]
    if even:
        some = replace(there, scans=tuple(there.scans[n] for n in even))
        print(row(f"the same, {len(even)} scan(s) with even sides", some), flush=True)


def moved(volume: Volume) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += 100
    return Geometry(volume.geometry.shape, affine).volume(volume.array)


def monai_runs(folder: Path, name: str, task: Task, scans: list[Volume], references: list[Volume]) -> Parity:
    """Run MONAI's bundle runner on scans in a process; return the parity of its masks with the references."""
    data, out = folder / name, folder / f"{name}-masks"
    data.mkdir()
    for number, scan in enumerate(scans):
        save(scan, data / f"{number}.nii.gz")
    words = ["run", "--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    words += ["--bundle_root", ".", "--dataset_dir", str(data), "--output_dir", str(out)]
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words], cwd=folder, check=True, capture_output=True
    )
    proofs: list[ScanParity] = []
    for number, mine in enumerate(references):
        theirs = load_mask(out / f"{number}_mask.nii.gz", grid=mine.geometry)
        proofs.append(masks_apart(task, mine, theirs, 0.0))
    return Parity("float32", "monai", 0, 0, 0.0, 0, tuple(proofs))


def main(data: Path, name: str) -> None:
    bundle = ModelBundle.find(name)
    names = json.loads((data / "dataset.json").read_text())["unlabelled"][-CASES:]
    paths = [data / "imagesTr" / f"{case}.nii.gz" for case in names]
    scans = [load(path) for path in paths]
    print("| format | MB | max difference, patches | flipped, patches | flipped, scans | worst Dice", end="")
    print(
        " | worst 95HD (mm) | worst ASD (mm) | worst NSD |\n|---|---|---|---|---|---|---|---|---|", flush=True
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy = ModelBundle.create(
            folder / "bundle",
            bundle.task,
            {n.weights: (bundle.folder / n.weights).read_bytes() for n in bundle.networks},
            bundle.networks,
            {},
        )
        exported, proofs = export_in_bundle(copy, scans)
        graph = bundle.networks[0].graph
        size = (exported.folder / graph).stat().st_size
        print(row("bundle's own graph, OpenVINO", proofs[graph], size), flush=True)
        for label, target, form in FORMATS:
            out = folder / label
            _, proof = export_folder(bundle, target, form, out, scans)
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            print(row(label, proof, size), flush=True)
        predictor = open_predictor(bundle, backend="torch")
        references = [predictor(scan).mask for scan in scans]
        monai_rows(out, bundle.task, scans, references)
    voxels, patches = sum(scan.array.size for scan in scans), proof.patches
    print(
        f"\n{len(scans)} scans, {voxels / 1e6:.0f} million voxels; {patches} patches of {bundle.task.patch}."
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    main(Path(words[0] if words else "../shared/data/la"), words[1] if len(words) > 1 else "left-atrium")
