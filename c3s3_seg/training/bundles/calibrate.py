"""Calibrate the uncertainty limit: test whether the disagreement of two networks predicts the error.

Each validation case is also segmented in degraded versions: noise, blur, motion-like ghosting, a cropped
field of view. For every version the 95HD between the networks' masks is compared with the true 95HD of the
mask that `predict` writes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle import Calibration, ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Geometry, Volume
from c3s3_seg.inference import Predictor, Settings, open_predictor
from c3s3_seg.metrics.scoring import score
from c3s3_seg.system.progress import Progress

UNTOUCHED = "none"
BAD = 2.0  # a scan is bad above this multiple of the median true 95HD of the untouched scans
LEAST_CASES = 2
DECIMALS = 3  # decimals of the numbers in the manifest
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Degradation = Callable[[Array], Array]


@dataclass(frozen=True)
class ReferenceCase:
    """A scan with its reference mask on the same grid."""

    name: str
    scan: Volume
    truth: Volume


@dataclass(frozen=True)
class CalibrationRow:
    """One version of a scan: 95HD between the networks and true 95HD, in mm; inf if one mask lacks a label.

    Each is the worst over the labels; labels that both masks lack are skipped, and it is 0 if they lack all.
    """

    case: str
    degradation: str
    between_mm: float
    true_mm: float


@dataclass(frozen=True)
class Limit:
    """The result of a calibration.

    Parameters
    ----------
    calibration
        Entry for the manifest.
    rows
        Every version of every case.
    caught, false_alarms
        Share of the bad versions that are flagged, and of the others, with each case left out in turn: the
        limit applied to a case was found on the other cases.
    """

    calibration: Calibration
    rows: tuple[CalibrationRow, ...]
    caught: float = field(default=float("nan"))
    false_alarms: float = field(default=float("nan"))


def calibrate_uncertainty(
    bundle: ModelBundle,
    cases: Iterable[ReferenceCase],
    found_on: str,
    bad_mm: float | None = None,
    report: Progress | None = None,
) -> Limit:
    """Find the 95HD between the networks above which a case needs to be inspected.

    Parameters
    ----------
    bundle
        Bundle with at least two networks.
    cases
        At least two cases that no network was trained on. They are taken one after the other, so that a
        generator need not hold all scans in memory.
    found_on
        Description of these cases, in words, for the manifest.
    bad_mm
        True 95HD above which a version is bad, greater than 0. None: twice the median of the untouched cases.
    report
        Called with each version of a case before it is segmented.

    Raises
    ------
    InputError
        If `bad_mm` is not greater than 0, there are too few cases or networks, or `limit_of` finds no limit.
    """
    check_bad_mm(bad_mm)
    predictor = open_predictor(bundle, settings=Settings(uncertainty=True))
    rows = [row for case in cases for row in _rows(case, predictor, report)]
    found = len({row.case for row in rows})
    if found < LEAST_CASES:
        raise InputError(f"found {found} validation cases, wanted {LEAST_CASES} or more to calibrate on")
    return limit_of(rows, found_on, bad_mm)


def check_bad_mm(bad_mm: float | None) -> None:
    """Raise an InputError unless `bad_mm` is None or, rounded to 0.001 mm, finite and above 0."""
    if bad_mm is not None and not (math.isfinite(bad_mm) and round(bad_mm, DECIMALS) > 0):
        raise InputError(f"--bad-mm is {bad_mm:g}, wanted a 95HD in mm of 0.001 or more")


def limit_of(rows: Sequence[CalibrationRow], found_on: str, bad_mm: float | None = None) -> Limit:
    """Return the limit that best separates bad scans from others; parameters as in `calibrate_uncertainty`.

    Raises
    ------
    InputError
        If no version is bad, or all are, or a limit would be 0, which a manifest cannot hold.
    """
    clean = statistics.median(row.true_mm for row in rows if row.degradation == UNTOUCHED)
    bad_mm = BAD * clean if bad_mm is None else bad_mm
    between, true = (np.array([getattr(row, key) for row in rows]) for key in ("between_mm", "true_mm"))
    bad = true > bad_mm
    if bad.all() or not bad.any() or not np.isfinite(bad_mm):
        what = f"{bad.sum()} of {len(rows)} scans have a 95HD above {bad_mm:.2f} mm: no limit divides them"
        raise InputError(what, todo="Say with --bad-mm which 95HD in mm is bad")
    figures = (best_threshold(between, bad), bad_mm, rank_correlation(rows), auroc(between, bad))
    threshold, limit, rank, area = (round(float(number), DECIMALS) for number in figures)
    if min(threshold, limit) <= 0:
        what = f"found a limit of {threshold:g} mm between the networks and of {limit:g} mm to the reference"
        todo = "Give validation cases that the networks do not all segment alike, or another --bad-mm"
        raise InputError(f"{what}, wanted both above 0", todo=todo)
    calibration = Calibration(threshold, limit, rank, area, len(rows), found_on)
    return Limit(calibration, tuple(rows), *_left_out(rows, between, bad))


def _rows(case: ReferenceCase, predictor: Predictor, report: Progress | None) -> Iterator[CalibrationRow]:
    """Yield one row per version of a case; degraded scans are meant to leave the domain, so it is allowed."""
    for degradation, scan, truth in degraded(case.scan, case.truth):
        if report is not None:
            report(f"{case.name}, {degradation}")
        found = predictor(scan, allow_out_of_domain=True)
        between = found.uncertainty.hd95_mm if found.uncertainty else {}
        true = {x.name: score(found.mask, truth, x.value).hd95_mm for x in predictor.task.labels}
        yield CalibrationRow(case.name, degradation, worst(between.values()), worst(true.values()))


def worst(distances_mm: Iterable[float]) -> float:
    """Return the largest distance except nan (a label that both masks lack: they agree); 0 if all are nan."""
    return max((mm for mm in distances_mm if not math.isnan(mm)), default=0.0)


def degraded(scan: Volume, truth: Volume) -> Iterator[tuple[str, Volume, Volume]]:
    """Yield (kind, scan, mask) for the untouched scan, then for two strengths of each degradation."""
    array = scan.array.astype(np.float32)
    for name, degradation in DEGRADATIONS.items():
        yield name, scan.geometry.volume(np.asarray(degradation(array), np.float32), scan.source), truth
    for name, share in CROPS.items():
        first = int(share * scan.geometry.shape[0])
        affine = scan.geometry.affine.copy()
        affine[:3, 3] = scan.geometry.to_mm((first, 0, 0))
        x, y, z = scan.geometry.shape
        grid = Geometry((x - first, y, z), affine)
        yield name, grid.volume(array[first:], scan.source), grid.volume(truth.array[first:])


def _noise(strength: float) -> Degradation:
    return lambda scan: scan + np.random.default_rng(0).normal(0, strength * scan.std(), scan.shape)


def _blur(voxels: float) -> Degradation:
    def degradation(scan: Array) -> Array:
        from scipy import ndimage

        return np.asarray(ndimage.gaussian_filter(scan, voxels))

    return degradation


def _ghosts(strength: float) -> Degradation:
    """Return a degradation that adds copies shifted along the second axis, like ghosts of breathing."""

    def degradation(scan: Array) -> Array:
        shift = scan.shape[1] // 4 + int(np.random.default_rng(0).integers(-5, 6))
        return np.asarray(scan + strength * (np.roll(scan, shift, 1) + np.roll(scan, -shift, 1)))

    return degradation


DEGRADATIONS: dict[str, Degradation] = {
    UNTOUCHED: lambda scan: scan,
    "noise 0.5": _noise(0.5),
    "noise 1": _noise(1.0),
    "blur 1.5": _blur(1.5),
    "blur 3": _blur(3.0),
    "ghosts 0.3": _ghosts(0.3),
    "ghosts 0.6": _ghosts(0.6),
}
CROPS = {"crop 15 %": 0.15, "crop 30 %": 0.30}  # share cut off the start of the first axis


def rank_correlation(rows: Sequence[CalibrationRow]) -> float:
    """Return Spearman's correlation of the 95HD between the networks and the true one; 0 if one is fixed."""
    from scipy import stats

    between, true = ([getattr(row, key) for row in rows] for key in ("between_mm", "true_mm"))
    if len(set(between)) < 2 or len(set(true)) < 2:
        return 0.0
    return float(stats.spearmanr(between, true).statistic)


def auroc(value: Floats, bad: Flags) -> float:
    """Return the chance that a bad scan has a higher value than another scan; equal values count half."""
    above = value[bad][:, None] > value[~bad]
    equal = value[bad][:, None] == value[~bad]
    return float((above + 0.5 * equal).mean())


def best_threshold(value: Floats, bad: Flags) -> float:
    """Return the threshold with the largest sensitivity + specificity, midway between two finite values.

    It is the largest finite value (0 if there is none) if flagging only infinite values is best, if there
    are fewer than two finite values, or if all scans or no scans are bad.
    """
    places = np.unique(value[np.isfinite(value)])
    if len(places) < 2 or bad.all() or not bad.any():
        return float(places.max(initial=0.0))
    limits = np.append((places[1:] + places[:-1]) / 2, places[-1])
    gain = [(value[bad] > t).mean() - (value[~bad] > t).mean() for t in limits]
    return float(limits[int(np.argmax(gain))])


def _left_out(rows: Sequence[CalibrationRow], between: Floats, bad: Flags) -> tuple[float, float]:
    """Return sensitivity and share of false alarms, with limits that were found without the case."""
    flagged = np.zeros(len(rows), bool)
    for case in {row.case for row in rows}:
        here = np.array([row.case == case for row in rows])
        flagged[here] = between[here] > best_threshold(between[~here], bad[~here])
    return float(flagged[bad].mean()), float(flagged[~bad].mean())
