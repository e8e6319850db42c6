"""How far each exported format is from torch: the table of docs/export.md.

    python benchmarks/parity.py [DATA] [BUNDLE]      DATA: the folder `la`, default ../shared/data/la

The 8 validation cases, whole scans on their own grid and the patches that cover them. Every format is
written by `export_folder`, so each row has also passed the gate. An ensemble is the bundle's networks and
its companion's in one graph, against torch running each of them. The last row is MONAI's own runner on
the exported folder: its pre- and post-processing instead of ours.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from c3s3_seg import ModelBundle, load, load_mask
from c3s3_seg.bundle import Task
from c3s3_seg.export.compare import masks_apart
from c3s3_seg.export.form import Form, Target
from c3s3_seg.export.parity import Parity, ScanParity
from c3s3_seg.export.write import export_folder, export_in_bundle
from c3s3_seg.inference import open_predictor
from c3s3_seg.volume import Volume

CASES = 8  # the last of the unlabelled list: the validation cases of the shipped configuration
FORMATS: tuple[tuple[str, Target, Form], ...] = (
    ("onnx fp32", "onnx", Form()),
    ("onnx fp16", "onnx", Form("fp16")),
    ("openvino fp32", "openvino", Form()),
    ("openvino fp16", "openvino", Form("fp16")),
    ("onnx fp32, ensemble", "onnx", Form(ensemble=True)),
    ("onnx fp16, ensemble", "onnx", Form("fp16", ensemble=True)),
    ("openvino fp32, ensemble", "openvino", Form(ensemble=True)),
    ("monai-bundle, ensemble", "monai-bundle", Form(ensemble=True)),
    ("monai-bundle, network", "monai-bundle", Form()),
)


def row(name: str, size: float, proof: Parity, patches: bool = True) -> str:
    worst = proof.worst
    left = f"{proof.difference:.1e} | {proof.flipped}" if patches else "- | -"
    return (
        f"| {name} | {size:.1f} | {left} | {worst.flipped} | {worst.dice:.6f} | {worst.hd95_mm:.3f}"
        f" | {worst.asd_mm:.5f} | {worst.nsd:.5f} |"
    )


def monai_runs(folder: Path, scans: list[Path], task: Task, references: list[Volume]) -> Parity:
    """MONAI's bundle runner on the folder, in a process of its own; masks compared with ours."""
    data, out = folder / "data", folder / "masks"
    data.mkdir()
    for path in scans:
        (data / path.name).symlink_to(path.resolve())
    words = ["run", "--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    words += ["--bundle_root", ".", "--dataset_dir", str(data), "--output_dir", str(out)]
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words], cwd=folder, check=True, capture_output=True
    )
    proofs: list[ScanParity] = []
    for path, mine in zip(scans, references, strict=True):
        theirs = load_mask(out / path.name.replace(".nii.gz", "_mask.nii.gz"), grid=mine.geometry)
        proofs.append(masks_apart(task, mine, theirs, 0.0))
    return Parity("fp32", "monai", 0, 0, 0.0, 0, tuple(proofs))


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
        print(row("bundle's own graph, OpenVINO", size / 1e6, proofs[graph]), flush=True)
        for label, target, form in FORMATS:
            out = folder / label
            _, proof = export_folder(bundle, target, form, out, scans)
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            print(row(label, size / 1e6, proof), flush=True)
        predictor = open_predictor(bundle, backend="torch")
        references = [predictor(scan).mask for scan in scans]
        theirs = monai_runs(out, paths, bundle.task, references)
        print(row("monai-bundle, MONAI's runner", size / 1e6, theirs, patches=False))
    voxels, patches = sum(scan.array.size for scan in scans), proof.patches
    print(
        f"\n{len(scans)} scans, {voxels / 1e6:.0f} million voxels; {patches} patches of {bundle.task.patch}."
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    main(Path(words[0] if words else "../shared/data/la"), words[1] if len(words) > 1 else "left-atrium")
