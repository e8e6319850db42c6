"""Memory and seconds of stitching alone: 512 x 512 x 300 voxels, 2 and 25 classes, overlap 0.5.

    python benchmarks/memory.py [--classes 2 25] [--shape 512 512 300] [--tile 112 112 80] [--back]
    python benchmarks/memory.py --tiles [--bundle left-atrium]

The network is one small convolution and a softmax, the same for all, so that the figures show the
stitching. Each row is a process of its own, which has done the same on a small scan before; memory is
the peak above the memory that the process held at the start, which includes the scan. With `--back`
the network's grid is half as fine along each axis, and the labels are required on the scan's grid:
the peer interpolates its probabilities, as its users do.

`--tiles` measures the cost of a tile in each runtime, for the figures of `c3s3_seg/inference/memory.py`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from contenders import Result, apart, watched

OVERLAP = 0.5
ROWS = {"monai": "MONAI sliding_window_inference", "nnunet": "nnU-Net's predictor", "ours": "ours"}
TILES = ((64, 64, 48), (96, 96, 64), (112, 112, 80), (160, 128, 96))


def main() -> None:
    options = parsed()
    if options.one:
        child(options)
    elif options.tiles:
        tiles(options.bundle)
    else:
        for classes in options.classes:
            compare(classes, options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", nargs="+", type=int, default=[2, 25])
    parser.add_argument("--shape", nargs=3, type=int, default=[512, 512, 300])
    parser.add_argument("--tile", nargs=3, type=int, default=[112, 112, 80])
    parser.add_argument("--back", action="store_true")
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument("--bundle", default="left-atrium")
    parser.add_argument("--only", nargs="*", default=["monai", "ours"], choices=list(ROWS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(classes: int, options: argparse.Namespace) -> None:
    words = [
        "--classes",
        str(classes),
        "--shape",
        *map(str, options.shape),
        "--tile",
        *map(str, options.tile),
    ]
    words += ["--back"] if options.back else []
    print(f"\n{classes} classes, {options.shape}{', half the grid and back' if options.back else ''}\n")
    print("| | MB above the process | share | s | other labels |\n|---|---|---|---|---|")
    first: Result | None = None
    for name in options.only:
        found = apart(__file__, name, words)
        if isinstance(found, str):
            print(f"| {ROWS[name]} | failed: {found} | | | |")
            continue
        first = first or found
        other, share = int((found.labels != first.labels).sum()), found.above_mb / first.above_mb
        print(
            f"| {ROWS[name]} | {found.above_mb:.0f} | {share:.2f} | {found.wall_s:.1f} | {other} |",
            flush=True,
        )


def child(options: argparse.Namespace) -> None:
    import torch

    name, target = options.one
    classes, goal, tile = options.classes[0], tuple(options.shape), tuple(options.tile)
    shape = tuple(n // 2 for n in goal) if options.back else goal
    volume = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(classes, 1, 3, 3, 3, generator=generator)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.nn.functional.conv3d(x, kernel, padding=1), 1)

    work = {"ours": ours, "monai": monai, "nnunet": nnunet}[name]
    few = tuple(min(n, 2 * t) for n, t in zip(shape, tile, strict=True))
    small = np.ascontiguousarray(volume[tuple(slice(0, n) for n in few)])
    small_goal = tuple(n * 2 for n in few) if options.back else few
    watched(
        lambda: work(network, volume, tile, goal, classes),
        Path(target),
        warm_up=lambda: work(network, small, tile, small_goal, classes),
    )


def ours(network, volume, tile, goal, classes):  # type: ignore[no-untyped-def]
    import torch

    from c3s3_seg.inference.streaming import stream
    from c3s3_seg.inference.tiling import Tiling
    from c3s3_seg.inference.to_scan_grid import ScanGridResampler

    labels = np.zeros(goal, np.uint8)
    slabs = stream(
        volume,
        Tiling.overlapping(volume.shape, tile, OVERLAP),
        lambda x: network(torch.from_numpy(x)).numpy(),
    )
    for block in ScanGridResampler(volume.shape, goal, classes)(slabs):
        best, mask = block.channel(0).copy(), labels[block.where]
        for number in range(1, classes):
            values = block.channel(number)
            mask[values > best] = number
            np.maximum(best, values, out=best)
    return labels


def monai(network, volume, tile, goal, classes):  # type: ignore[no-untyped-def]
    import torch
    from monai.inferers.utils import sliding_window_inference

    with torch.inference_mode():
        answer = sliding_window_inference(
            torch.from_numpy(volume)[None, None], tile, 1, network, overlap=OVERLAP
        )
        if tuple(answer.shape[2:]) != goal:
            answer = torch.nn.functional.interpolate(answer, goal, mode="trilinear", align_corners=False)
        return answer[0].max(0).indices.numpy()  # eleven times faster than argmax


def nnunet(network, volume, tile, goal, classes):  # type: ignore[no-untyped-def]
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP, use_gaussian=False, use_mirroring=False, device=torch.device("cpu")
    )
    predictor.network, predictor.allow_tqdm = network, False
    predictor.configuration_manager = type("Configuration", (), {"patch_size": list(tile)})()
    predictor.label_manager = type("Labels", (), {"num_segmentation_heads": classes})()
    answer = predictor.predict_sliding_window_return_logits(torch.from_numpy(volume)[None])
    return answer.max(0).indices.numpy()


def tiles(name: str) -> None:
    from c3s3_seg import ModelBundle
    from c3s3_seg.inference.tuning.measure_runtime import measured

    bundle = ModelBundle.find(name)
    network = bundle.networks[0]
    print(f"{network.architecture}, {network.filters} filters\n")
    print("| runtime | base MB | bytes a voxel | worst miss MB |\n|---|---|---|---|")
    for runtime in ("openvino", "onnx", "torch"):
        found = [measured(bundle, runtime, None, tile) for tile in TILES]
        voxels, peaks = np.array([(m.voxels, m.peak_bytes) for m in found], float).T
        line = np.polyfit(voxels, peaks, 1)
        miss = np.abs(np.polyval(line, voxels) - peaks).max()
        print(f"| {runtime} | {line[1] / 1e6:.0f} | {line[0]:.0f} | {miss / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
