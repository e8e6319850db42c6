"""Whole volume or tiles: the shipped default compared with overlapping tiles, on the validation cases.

    python benchmarks/default_mode.py [--data DATA] [--bundle left-atrium-72]

Scores are means over the cases, on the scan's own grid; 95HD is in voxels by the paper's protocol, as in the
README.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from c3s3_seg import ModelBundle, Settings, load, load_mask, open_predictor
from c3s3_seg.inference import BackendRequest
from c3s3_seg.metrics.scoring import paper_score

WAYS = {
    "as the bundle says": Settings(),
    "tiles, overlap 0.5": Settings(overlap=0.5),
    "tiles, overlap 0.5, Gaussian": Settings(overlap=0.5, weighting="gaussian"),
    "as the bundle says, bfloat16": BackendRequest(precision="bfloat16"),
    "as the bundle says, mirrored along all axes": Settings(mirroring=(0, 1, 2)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/la"))
    parser.add_argument("--bundle", default="left-atrium-72")
    options = parser.parse_args()
    bundle = ModelBundle.find(options.bundle)
    names = json.loads((options.data / "dataset.json").read_text())["unlabelled"][-8:]
    cases = []
    for name in names:
        scan = load(options.data / "imagesTr" / f"{name}.nii.gz")
        cases.append((scan, load_mask(options.data / "labelsTr" / f"{name}.nii.gz", grid=scan.geometry)))
    print("| | Dice | 95HD (voxel) | tiles |\n|---|---|---|---|")
    for way, how in WAYS.items():
        try:
            if isinstance(how, BackendRequest):
                predictor = open_predictor(bundle, backend=how)
            else:
                predictor = open_predictor(bundle, settings=how)
        except Exception as error:  # for example a precision that this processor lacks
            print(f"| {way} | {error} | | |")
            continue
        found = [predictor(scan) for scan, _ in cases]
        scores = [paper_score(f.mask, truth) for f, (_, truth) in zip(found, cases, strict=True)]
        dice, hd95 = fmean(s.dice for s in scores), fmean(s.hd95_vox for s in scores)
        print(f"| {way} | {dice:.4f} | {hd95:.2f} | {fmean(f.tiles for f in found):.0f} |", flush=True)


if __name__ == "__main__":
    main()
