"""The disagreement of two networks as a predictor of the error, by kind of degradation.

    python benchmarks/uncertainty.py [--bundle phantom] [--data DATA] [--bad-mm MM]

Prints the figures that `c3s3-seg calibrate` measures and writes into a bundle's manifest. DATA is
the folder of a training set, whose validation cases are used (of `la`: the last 8 of the unlabelled
list). Without DATA, phantoms that no shipped bundle has seen are used.
"""

import argparse
import statistics
from pathlib import Path

from c3s3_seg import ModelBundle, load, load_mask
from c3s3_seg.dataset import DataSet
from c3s3_seg.phantom import simulate
from c3s3_seg.training.bundles.calibrate import (
    UNTOUCHED,
    Limit,
    ReferenceCase,
    calibrate_uncertainty,
    rank_correlation,
)

PHANTOMS = range(40_000, 40_008)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bad-mm", type=float)
    options = parser.parse_args()
    bundle = ModelBundle.find(options.bundle)
    found = cases(options.data)
    name = f"{len(found)} validation cases of {options.data.name}" if options.data else "phantoms"
    show(calibrate_uncertainty(bundle, found, name, options.bad_mm, lambda text: print(text, flush=True)))


def cases(folder: Path | None) -> list[ReferenceCase]:
    if folder is None:
        made = {seed: simulate(seed) for seed in PHANTOMS}
        return [
            ReferenceCase(f"phantom-{seed}", phantom.scan, phantom.truth) for seed, phantom in made.items()
        ]
    data = DataSet.load(folder)
    found = []
    for name in data.splits.hold_out(8).validation:
        scan = load(data.scan(name))
        found.append(ReferenceCase(name[:8], scan, load_mask(data.mask(name), grid=scan.geometry)))
    return found


def show(limit: Limit) -> None:
    facts = limit.calibration
    print("\n| degraded by | median between (mm) | median true (mm) | bad | flagged |\n|---|---|---|---|---|")
    for degradation in dict.fromkeys(row.degradation for row in limit.rows):
        here = [row for row in limit.rows if row.degradation == degradation]
        between, true = ([getattr(row, key) for row in here] for key in ("between_mm", "true_mm"))
        bad = sum(mm > facts.bad_mm for mm in true)
        flagged = sum(not mm <= facts.threshold_mm for mm in between)
        print(
            f"| {degradation} | {statistics.median(between):.2f} | {statistics.median(true):.2f}"
            f" | {bad} of {len(here)} | {flagged} |"
        )
    print(f"\nbad: true 95HD above {facts.bad_mm:.2f} mm")
    originals = [row for row in limit.rows if row.degradation == UNTOUCHED]
    print(f"Spearman over the {len(originals)} original scans {rank_correlation(originals):.2f}")
    print(f"Spearman {facts.spearman:.3f}, AUROC {facts.auroc:.2f}, limit {facts.threshold_mm:.2f} mm")
    print(
        f"cases left out in turn: {limit.caught:.0%} of the bad flagged, {limit.false_alarms:.0%} of others"
    )


if __name__ == "__main__":
    main()
