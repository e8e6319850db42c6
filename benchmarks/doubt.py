"""Does the disagreement of two networks foretell the error? Calibrates a bundle's threshold, and how well.

    python benchmarks/doubt.py [--bundle phantom] [--data DATA] [--bad-mm MM] [--write]

DATA is a training set's folder; its validation cases are used (of `la`: the last 8 of the unlabelled
list). Without DATA, phantoms that no shipped bundle has seen stand in. Each case is also shown worsened:
noise, blur, motion-like ghosting and a cropped field of view, two degrees of each. For every one the
networks' 95HD(A, B) is set against the true 95HD of the mask that would ship.

Prints Spearman's rank correlation and the AUROC for "true 95HD above --bad-mm" (default: twice the median
of the untouched cases). Then each case is left out in turn: the threshold found on the others (largest
sensitivity + specificity) is judged on it. `--write` puts threshold and figures into the bundle's
manifest; give a bundle of your own, a folder.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from c3s3_seg import ModelBundle, Settings, load, load_mask, open_predictor
from c3s3_seg.bundle import Calibration
from c3s3_seg.metrics import score
from c3s3_seg.volume import Geometry, Volume

PHANTOMS = range(40_000, 40_008)
Harm = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Row:
    """One scan that was judged: 95HD between the networks, true 95HD, both in mm."""

    case: str
    harm: str
    doubt_mm: float
    true_mm: float


def noise(strength: float) -> Harm:
    return lambda scan, random: scan + random.normal(0, strength * scan.std(), scan.shape)


def blur(voxels: float) -> Harm:
    return lambda scan, random: ndimage.gaussian_filter(scan, voxels)


def ghosts(strength: float) -> Harm:
    """Copies shifted along the second axis, as breathing leaves them along the phase encoding."""

    def harm(scan: np.ndarray, random: np.random.Generator) -> np.ndarray:
        shift = scan.shape[1] // 4 + int(random.integers(-5, 6))
        return scan + strength * (np.roll(scan, shift, 1) + np.roll(scan, -shift, 1))

    return harm


HARMS: dict[str, Harm] = {
    "none": lambda scan, random: scan,
    "noise 0.5": noise(0.5),
    "noise 1": noise(1.0),
    "blur 1.5": blur(1.5),
    "blur 3": blur(3.0),
    "ghosts 0.3": ghosts(0.3),
    "ghosts 0.6": ghosts(0.6),
}
CROPS = {"crop 15 %": 0.15, "crop 30 %": 0.30}  # off one side of the first axis


def main() -> None:
    options = parsed()
    bundle = ModelBundle.find(options.bundle)
    predictor = open_predictor(bundle, settings=Settings(uncertainty=True))
    rows = []
    for name, scan, truth in cases(options.data):
        for harm, worse, wanted in worsened(scan, truth):
            found = predictor(worse)
            values = [
                (found.doubt.hd95_mm[label.name], score(found.mask, wanted, label.value).hd95_mm)
                for label in bundle.task.labels
            ]
            doubt, true = (
                max(column, key=lambda mm: np.inf if np.isnan(mm) else mm)
                for column in zip(*values, strict=True)
            )
            rows.append(Row(name, harm, ranked(doubt), ranked(true)))
            print(f"{name} {harm}: between {doubt:.2f} mm, true {true:.2f} mm", flush=True)
    clean = statistics.median(row.true_mm for row in rows if row.harm == "none")
    calibration = judged(rows, options.bad_mm or 2 * clean, options.data or "phantoms")
    if options.write:
        bundle.calibrated(calibration)
        print(f"\nwritten to {bundle.folder}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bad-mm", type=float)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def cases(data: Path | None) -> Iterator[tuple[str, Volume, Volume]]:
    if data is None:
        from c3s3_seg.phantom import simulate

        for seed in PHANTOMS:
            phantom = simulate(seed)
            yield f"phantom-{seed}", phantom.scan, phantom.truth
        return
    splits = json.loads((data / "dataset.json").read_text())
    for name in splits.get("validation") or splits["unlabelled"][-8:]:
        scan = load(data / "imagesTr" / f"{name}.nii.gz")
        yield name[:8], scan, load_mask(data / "labelsTr" / f"{name}.nii.gz", grid=scan.geometry)


def worsened(scan: Volume, truth: Volume) -> Iterator[tuple[str, Volume, Volume]]:
    array = scan.array.astype(np.float32)
    for name, harm in HARMS.items():
        worse = np.asarray(harm(array, np.random.default_rng(0)), np.float32)
        yield name, scan.geometry.volume(worse), truth
    for name, share in CROPS.items():
        first = int(share * scan.geometry.shape[0])
        affine = scan.geometry.affine.copy()
        affine[:3, 3] = scan.geometry.to_mm((first, 0, 0))
        shape = (scan.geometry.shape[0] - first, *scan.geometry.shape[1:])
        grid = Geometry(shape, affine)
        yield name, grid.volume(array[first:]), grid.volume(truth.array[first:])


def ranked(value: float) -> float:
    """Nothing found at all is the worst there is."""
    return float("inf") if np.isnan(value) else value


def judged(rows: list[Row], bad_mm: float, data: object) -> Calibration:
    doubt, true = (np.array([getattr(row, key) for row in rows]) for key in ("doubt_mm", "true_mm"))
    bad = true > bad_mm
    rank = float(stats.spearmanr(doubt, true).statistic)
    untouched = np.array([row.harm == "none" for row in rows])
    threshold, area = best_threshold(doubt, bad), auroc(doubt, bad)
    print(
        f"\n{len(rows)} scans of {len({row.case for row in rows})} cases;"
        f" bad: true 95HD above {bad_mm:.2f} mm"
    )
    print("\n| harm | median between (mm) | median true (mm) | bad | flagged |\n|---|---|---|---|---|")
    for harm in dict.fromkeys(row.harm for row in rows):
        here = np.array([row.harm == harm for row in rows])
        print(
            f"| {harm} | {np.median(doubt[here]):.2f} | {np.median(true[here]):.2f}"
            f" | {bad[here].sum()} of {here.sum()} | {(doubt[here] > threshold).sum()} |"
        )
    hits, alarms = held_out(rows, doubt, bad)
    print(f"\nSpearman {rank:.2f} (untouched cases alone: {spearman(doubt, true, untouched):.2f})")
    print(f"AUROC {area:.2f}; threshold {threshold:.2f} mm")
    print(f"cases left out in turn: {hits:.0%} of the bad flagged, {alarms:.0%} of the others")
    rounded = [round(float(number), 3) for number in (threshold, bad_mm, rank, area)]
    return Calibration(
        *rounded, len(rows), f"{Path(str(data)).name}, validation cases, as they are and worsened"
    )


def spearman(doubt: np.ndarray, true: np.ndarray, chosen: np.ndarray) -> float:
    return float(stats.spearmanr(doubt[chosen], true[chosen]).statistic)


def auroc(value: np.ndarray, bad: np.ndarray) -> float:
    """The chance that a bad scan has a higher value than another one; equal ones count half."""
    if bad.all() or not bad.any():
        return float("nan")
    above = value[bad][:, None] > value[~bad]
    equal = value[bad][:, None] == value[~bad]
    return float((above + 0.5 * equal).mean())


def best_threshold(value: np.ndarray, bad: np.ndarray) -> float:
    """Midway between the two values that it best divides: largest sensitivity + specificity."""
    places = np.unique(value[np.isfinite(value)])
    if len(places) < 2 or bad.all() or not bad.any():
        return float(places.max(initial=0.0))
    middles = (places[1:] + places[:-1]) / 2
    gain = [(value[bad] > t).mean() - (value[~bad] > t).mean() for t in middles]
    return float(middles[int(np.argmax(gain))])


def held_out(rows: list[Row], doubt: np.ndarray, bad: np.ndarray) -> tuple[float, float]:
    """Sensitivity, and share of false alarms, of thresholds that were found without the case."""
    flagged = np.zeros(len(rows), bool)
    for case in {row.case for row in rows}:
        here = np.array([row.case == case for row in rows])
        flagged[here] = doubt[here] > best_threshold(doubt[~here], bad[~here])
    return float(flagged[bad].mean()) if bad.any() else 0.0, float(flagged[~bad].mean())


if __name__ == "__main__":
    main()
