"""Several ways to run one network on one scan: wall and CPU seconds, peak memory, agreement of the labels.

    python benchmarks/inference.py [--data DATA] [--bundle left-atrium] [--size 112 112 80] [--repeats 3]
                                   [--spacing MM] [--only NAME ...]

The scan is the first validation atrium of DATA (the folder `la`), on the bundle's own grid unless
`--spacing` gives another (0.625: as acquired). Every row is measured in processes of its own, with one
runtime each; figures are medians over processes. Seconds and memory are those of network and stitching;
each process has done the same work once before, so that imports and first calls are not timed. Ratios
are relative to MONAI's row. nnU-Net's row appears if nnunetv2 is installed, rows in bfloat16 if the
processor supports it (AVX-512 BF16, AMX).
"""

import argparse
import importlib.util
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from contenders import Result, apart, watched

OVERLAP = 0.5
ROWS = {
    "published": "published loop, torch",
    "monai": "MONAI sliding_window_inference, torch",
    "nnunet": "nnU-Net's predictor, torch",
    "tiles-torch": "ours, same tiles, torch",
    "tiles": "ours, same tiles, OpenVINO",
    "whole": "ours, whole volume at once, OpenVINO",
    "monai-bf16": "MONAI sliding_window_inference, torch, bfloat16 by autocast",
    "tiles-bf16": "ours, same tiles, OpenVINO, bfloat16",
    "whole-bf16": "ours, whole volume at once, OpenVINO, bfloat16",
}


def main() -> None:
    options = parsed()
    if options.one:
        child(options)
        return
    words = passed_on(options)
    left_out = () if importlib.util.find_spec("nnunetv2") else ("nnunet",)
    if not computes_bfloat16():
        left_out += tuple(name for name in ROWS if name.endswith("bf16"))
    names = options.only or [name for name in ROWS if name not in left_out]
    results: dict[str, list[Result]] = {name: [] for name in names}
    for _ in range(options.repeats):  # in turn, so that a busy minute affects all contenders
        for name in names:
            found = apart(__file__, name, words)
            if isinstance(found, str):
                sys.exit(f"{name} failed: {found}")
            results[name].append(found)
    table(results)


def computes_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def table(results: dict[str, list[Result]]) -> None:
    base = results.get("monai") or next(iter(results.values()))
    first = medians(base)
    print("| | wall s | CPU s | peak MB | times faster | memory | other labels |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        wall, cpu, peak = medians(runs)
        other = int((runs[0].labels != base[0].labels).sum())
        size = runs[0].labels.size
        print(
            f"| {ROWS[name]} | {wall:.2f} | {cpu:.1f} | {peak:.0f} | {first[0] / wall:.1f}"
            f" | {peak / first[2]:.2f} | {other} of {size} |"
        )


def medians(runs: list[Result]) -> tuple[float, float, float]:
    wall, cpu, peak = (statistics.median(getattr(r, k) for r in runs) for k in ("wall_s", "cpu_s", "peak_mb"))
    return wall, cpu, peak


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data/la")
    parser.add_argument("--bundle", default="left-atrium")
    parser.add_argument("--size", nargs=3, type=int, help="of the tiles; default: the bundle's")
    parser.add_argument("--spacing", type=float, help="of the model's grid; default: the bundle's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(ROWS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def passed_on(options: argparse.Namespace) -> list[str]:
    words = ["--data", options.data, "--bundle", options.bundle]
    if options.size:
        words += ["--size", *map(str, options.size)]
    return words + (["--spacing", str(options.spacing)] if options.spacing else [])


def child(options: argparse.Namespace) -> None:
    from c3s3_seg import ModelBundle, load

    name, target = options.one
    bundle = ModelBundle.find(options.bundle)
    task = bundle.task
    if options.spacing:
        task = replace(task, recipe=replace(task.recipe, spacing_mm=(options.spacing,) * 3))
    if options.size:
        task = replace(task, patch=tuple(options.size))
    bundle = replace(bundle, manifest=replace(bundle.manifest, task=task))
    data = Path(options.data)
    case = json.loads((data / "dataset.json").read_text())["unlabelled"][-8]
    volume = task.recipe.to_model(load(data / "imagesTr" / f"{case}.nii.gz")).array
    work = (ours if name.startswith(("tiles", "whole")) else torch_work)(name, bundle, volume)
    watched(work, Path(target))


def ours(name, bundle, volume):  # type: ignore[no-untyped-def]
    """Return a function that computes the labels on the model's grid, slab by slab."""
    from c3s3_seg.inference.backends.select import BackendRequest, open_backend
    from c3s3_seg.inference.streaming import stream
    from c3s3_seg.inference.tiling import Tiling, softmax

    request = BackendRequest("torch" if name == "tiles-torch" else "openvino")
    if name.endswith("bf16"):
        request = replace(request, precision="bfloat16")
    backend = open_backend(bundle, bundle.networks[0], request)
    if name.startswith("whole"):
        tiling = Tiling.whole(volume.shape, (16, 16, 16))
    else:
        tiling = Tiling.overlapping(volume.shape, bundle.task.patch, OVERLAP)
    backend(np.zeros((1, 1, *tiling.tile), np.float32))

    def work() -> np.ndarray:
        labels = np.zeros(volume.shape, np.uint8)
        for slab in stream(volume, tiling, lambda patches: softmax(backend(patches))):
            here = np.moveaxis(labels, slab.axis, 0)[slab.start : slab.stop]
            values = np.moveaxis(slab.values, 1 + slab.axis, 1)
            best = values[0].copy()
            for number in range(1, len(values)):
                here[values[number] > best] = number
                np.maximum(best, values[number], out=best)
        return labels

    return work


def torch_work(name, bundle, volume):  # type: ignore[no-untyped-def]
    """Run a peer as its own users run it: plain torch with the weights of the same bundle."""
    import torch

    from c3s3_seg.inference.backends.runtimes import load_torch

    net = load_torch(bundle, bundle.networks[0]).to(memory_format=torch.contiguous_format)
    patch = bundle.task.patch
    with torch.inference_mode():
        net(torch.zeros(1, 1, *patch))
    peer = {"monai": monai, "nnunet": nnunet, "published": published}[name.removesuffix("-bf16")]
    half = name.endswith("-bf16")

    def work() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return peer(net, volume, patch)

    return work


def monai(net, volume, patch):  # type: ignore[no-untyped-def]
    import torch
    from monai.inferers.utils import sliding_window_inference

    scan = torch.from_numpy(volume)[None, None]
    answer = sliding_window_inference(
        scan, patch, 1, lambda x: torch.softmax(net(x).float(), 1), overlap=OVERLAP
    )
    return answer[0].argmax(0).numpy()


def nnunet(net, volume, patch):  # type: ignore[no-untyped-def]
    """Run nnU-Net's predictor without Gaussian weights and mirroring, so that the work is the same."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP, use_gaussian=False, use_mirroring=False, device=torch.device("cpu")
    )
    predictor.network, predictor.allow_tqdm = net, False
    predictor.configuration_manager = type("Configuration", (), {"patch_size": list(patch)})()
    predictor.label_manager = type("Labels", (), {"num_segmentation_heads": 2})()
    answer = predictor.predict_sliding_window_return_logits(torch.from_numpy(volume)[None])
    return answer.argmax(0).numpy()


def published(net, volume, patch):  # type: ignore[no-untyped-def]
    """Pad to a patch, visit every patch, add up and count, divide, argmax."""
    import torch

    short = [max(p - n, 0) for n, p in zip(volume.shape, patch, strict=True)]
    padded = np.pad(volume, [(s // 2, s - s // 2) for s in short])
    stride = [max(1, int(p * (1 - OVERLAP))) for p in patch]
    steps = [-(-(n - p) // s) + 1 for n, p, s in zip(padded.shape, patch, stride, strict=True)]
    score = np.zeros((2, *padded.shape), np.float32)
    count = np.zeros(padded.shape, np.float32)
    for index in np.ndindex(*steps):
        corner = [min(i * s, n - p) for i, s, n, p in zip(index, stride, padded.shape, patch, strict=True)]
        box = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        score[:, *box] += torch.softmax(net(torch.from_numpy(padded[box])[None, None]), 1)[0].numpy()
        count[box] += 1
    score /= count
    inside = tuple(slice(s // 2, s // 2 + n) for s, n in zip(short, volume.shape, strict=True))
    return score[:, *inside].argmax(0)


if __name__ == "__main__":
    main()
