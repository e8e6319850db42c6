"""Whole volume or tiles, bfloat16 and mirrored views, on the validation cases.

    python benchmarks/default_mode.py [--data DATA] [--bundle left-atrium-72] [--cases 8]

Scores are means over the cases, on the scan's own grid; 95HD is in voxels by the paper's protocol. The first
six rows are those of docs/inference.md; no row depends on the tiles that a bundle has by default.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from c3s3_seg import ModelBundle, Settings, load, load_mask, open_predictor
from c3s3_seg.inference import BackendRequest
from c3s3_seg.metrics.scoring import paper_score
from c3s3_seg.system.choices import Precision

WHOLE = Settings(whole=True)
WAYS: dict[str, tuple[Settings, Precision]] = {
    "whole volume at once": (WHOLE, "auto"),
    "tiles, overlap 0.25": (Settings(overlap=0.25), "auto"),
    "tiles, overlap 0.5": (Settings(overlap=0.5), "auto"),
    "tiles, overlap 0.75": (Settings(overlap=0.75), "auto"),
    "tiles, overlap 0.5, Gaussian": (Settings(overlap=0.5, weighting="gaussian"), "auto"),
    "tiles, overlap 0.75, Gaussian": (Settings(overlap=0.75, weighting="gaussian"), "auto"),
    "whole volume at once, bfloat16": (WHOLE, "bfloat16"),
    "whole volume at once, mirrored along all axes": (Settings(whole=True, mirroring=(0, 1, 2)), "auto"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/la"))
    parser.add_argument("--bundle", default="left-atrium-72")
    parser.add_argument("--cases", type=int, default=8, help="the first of the 8 validation cases")
    options = parser.parse_args()
    bundle = ModelBundle.find(options.bundle)
    names = json.loads((options.data / "dataset.json").read_text())["unlabelled"][-8:]
    cases = []
    for name in names[: options.cases]:
        scan = load(options.data / "imagesTr" / f"{name}.nii.gz")
        cases.append((scan, load_mask(options.data / "labelsTr" / f"{name}.nii.gz", grid=scan.geometry)))
    print("| | Dice | 95HD (voxel) | tiles |\n|---|---|---|---|")
    for way, (settings, precision) in WAYS.items():
        try:
            predictor = open_predictor(bundle, settings=settings, backend=BackendRequest(precision=precision))
        except Exception as error:  # for example a precision that this processor lacks
            print(f"| {way} | {error} | | |")
            continue
        found = [predictor(scan) for scan, _ in cases]
        scores = [paper_score(f.mask, truth) for f, (_, truth) in zip(found, cases, strict=True)]
        dice, hd95 = fmean(s.dice for s in scores), fmean(s.hd95_vox for s in scores)
        print(f"| {way} | {dice:.4f} | {hd95:.2f} | {fmean(f.tiles for f in found):.0f} |", flush=True)


if __name__ == "__main__":
    main()
