"""Find the same scan twice: equal to the voxel, or re-saved, rescaled, cropped a little, with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.dataset.check.correlation import TINY, correlation, cube
from c3s3_seg.dataset.check.thumbnail import Thumbnail
from c3s3_seg.report.findings import Finding, Severity

Doubles = NDArray[np.float64]
SIZE, ACROSS, REACH = 14, 10, 4  # in voxels: side of a coarse cube, width of a usual scan, largest move
FAR = 0.45  # coarse likeness below which two scans differ; the same scan, cropped by 20 %: 0.50 and more
NEAREST = 3  # candidates per case that are compared closely
FINE = 26  # voxels across a scan in the close comparison
BAND = 2.0  # in these voxels: coarser structure is removed, as all patients share it
SOME = 2000  # points that are enough to find the move
DIFFERENT = 0.7  # likeness after a short search below which two scans differ
# Likeness of the fine structure. The same scan, cropped by 10 %, rescaled or with noise: 0.969 and more
# (atria), 0.974 (hippocampi), 0.980 (phantoms). Different scans: at most 0.931 (80 atria; one patient
# before and after ablation), 0.766 (hippocampi), 0.734 (phantoms).
SAME = 0.95


@dataclass(frozen=True)
class CasePair:
    """Two cases with the same scan, and their likeness: 1 if equal to the voxel."""

    first: str
    second: str
    likeness: float
    exact: bool


def same_voxels(hashes: Mapping[str, str]) -> list[CasePair]:
    """Return the pairs of cases whose voxels have the same hash."""
    alike: dict[str, list[str]] = {}
    for name, digest in hashes.items():
        alike.setdefault(digest, []).append(name)
    return [CasePair(a, b, 1.0, True) for names in alike.values() for a, b in combinations(names, 2)]


def same_scans(thumbnails: Mapping[str, Thumbnail], known: Sequence[CasePair] = ()) -> list[CasePair]:
    """Return the pairs of cases that show the same scan, except known pairs."""
    names, done = list(thumbnails), {frozenset((pair.first, pair.second)) for pair in known}
    if len(names) < 2:
        return []
    side_mm = float(
        np.prod(np.median([thumbnail.fov_mm for thumbnail in thumbnails.values()], axis=0)) ** (1 / 3)
    )
    every = list(thumbnails.values())
    fine: dict[int, _Fine] = {}
    pairs = []
    for (i, j), start_mm in _candidates(every, side_mm / ACROSS).items():
        if {names[i], names[j]} in done:
            continue
        for n in {i, j} - fine.keys():
            fine[n] = _Fine(every[n], side_mm / FINE)
        found = _likeness(fine[i], fine[j], start_mm)
        if found > SAME:
            pairs.append(CasePair(names[i], names[j], found, False))
    return pairs


def duplicates(pairs: Sequence[CasePair], kinds: Mapping[str, str]) -> list[Finding]:
    """Return a finding for each pair; only a note unless a case is in validation or test.

    Parameters
    ----------
    pairs
        Pairs of cases with the same scan.
    kinds
        Case -> labelled, unlabelled, validation or test.
    """
    return [_finding(pair, kinds[pair.first], kinds[pair.second]) for pair in pairs]


def _finding(pair: CasePair, first: str, second: str) -> Finding:
    # End-diastole and end-systole of one heart reach 0.97: likeness alone does not tell them from a copy.
    how = f"the same scan or another phase of it (likeness {pair.likeness:.2f})"
    how = "the same voxels twice" if pair.exact else how
    # A scan twice in training only has double weight.
    severity: Severity = "info"
    todo = "Leave one of them out, unless it shall count twice"
    if {first, second} & {"validation", "test"}:
        severity = "error" if pair.exact and first != second else "warning"
        todo = "Leave one of them out" if first == second else "Put both on one side, or leave one out"
    if first == second and not pair.exact:
        todo = "Leave one of them out if it is a copy; keep both if they are two phases"
    where = f"both are {first}" if first == second else f"one is {first}, the other {second}"
    cases = (pair.first, pair.second)
    return Finding(
        severity,
        "duplicate",
        cases,
        f"{how}; {where}",
        "each scan once",
        todo,
        () if severity == "info" else cases,
    )


def _candidates(thumbnails: list[Thumbnail], step_mm: float) -> dict[tuple[int, int], Doubles]:
    """Return the pairs most alike at coarse resolution, and the move in mm of the first of each."""
    from scipy import fft

    size, near = SIZE + 2 * REACH - 2, np.r_[0 : REACH + 1, SIZE + REACH - 2 : SIZE + 2 * REACH - 2]
    spectra = fft.rfftn(np.stack([_coarse(t, step_mm) for t in thumbnails]), (size,) * 3, axes=(1, 2, 3))
    found: dict[tuple[int, int], Doubles] = {}
    for i, own in enumerate(spectra):
        moves = fft.irfftn(np.conj(own) * spectra, (size,) * 3, axes=(1, 2, 3))
        moves = moves[:, near][:, :, near][:, :, :, near].reshape(len(thumbnails), -1)
        likeness = moves.max(axis=1)
        likeness[i] = -1
        for j in np.argsort(likeness)[-NEAREST:].tolist():
            if likeness[j] < FAR:
                continue
            place = np.array(np.unravel_index(int(moves[j].argmax()), (2 * REACH + 1,) * 3))
            move = np.where(place <= REACH, place, place - 2 * REACH - 1) * step_mm
            found.setdefault((min(i, j), max(i, j)), move if i < j else -move)
    return found


def _coarse(thumbnail: Thumbnail, step_mm: float) -> NDArray[np.float32]:
    middle = (np.array(thumbnail.grey.shape) - 1) / 2
    found = cube(thumbnail.blurred(0.5 * step_mm), thumbnail.spacing_mm, middle, step_mm, SIZE)
    values = np.where(found.inside, found.values - found.values[found.inside].mean(), 0)
    return np.asarray(values / (np.linalg.norm(values) + TINY), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Points:
    """Points (3, n) in mm from the middle of a scan, and its fine structure (n,) there."""

    mm: Doubles
    values: NDArray[np.float32]


class _Fine:
    """A small copy without its coarse structure, and the points at which others are compared with it."""

    def __init__(self, thumbnail: Thumbnail, step_mm: float) -> None:
        self.step_mm, self.thumbnail = step_mm, thumbnail
        self.band = thumbnail.blurred(0.5 * step_mm) - thumbnail.blurred((0.25 + BAND**2) ** 0.5 * step_mm)
        every = self._points_mm()
        # A fixed choice: the same data give the same answer.
        self.some = self._read_at(every[:, np.random.default_rng(0).permutation(every.shape[1])[:SOME]])

    def all(self) -> _Points:
        """Return all points, with the fine structure there."""
        return self._read_at(self._points_mm())

    def _read_at(self, points_mm: Doubles) -> _Points:
        return _Points(points_mm, self._read(self._places(points_mm)))

    def _points_mm(self) -> Doubles:
        """Return points (3, n) from the middle; they are less dense in a scan far larger than others."""
        step_mm = max(self.step_mm, float(np.prod(self.thumbnail.fov_mm) ** (1 / 3)) / (2 * FINE))
        sides = [
            (np.arange(n) - (n - 1) / 2) * step_mm
            for n in np.ceil(self.thumbnail.fov_mm / step_mm).astype(int).tolist()
        ]
        return np.stack(np.meshgrid(*sides, indexing="ij")).reshape(3, -1)

    def correlation(self, moved: _Points, move_mm: Doubles) -> float:
        """Return the correlation with points of another, moved scan; -1 if under 40 % lie in this scan."""
        places = self._places(moved.mm - move_mm[:, None])
        known = ((places >= 0) & (places <= np.array(self.band.shape)[:, None] - 1)).all(axis=0)
        if np.count_nonzero(known) < 0.4 * known.size:
            return -1.0
        return correlation(self._read(places[:, known]), moved.values[known])

    def _places(self, points_mm: Doubles) -> Doubles:
        middle = (np.array(self.band.shape)[:, None] - 1) / 2
        return np.asarray(points_mm / self.thumbnail.spacing_mm[:, None] + middle, dtype=np.float64)

    def _read(self, places: Doubles) -> NDArray[np.float32]:
        from scipy import ndimage

        return np.asarray(ndimage.map_coordinates(self.band, places, order=1, mode="nearest"))


def _likeness(a: _Fine, b: _Fine, start_mm: Doubles) -> float:
    """Return the correlation of the fine structure at the best move of the larger onto the smaller scan."""
    from scipy.optimize import minimize

    if np.prod(a.thumbnail.fov_mm) < np.prod(b.thumbnail.fov_mm):
        a, b, start_mm = b, a, -start_mm
    for evaluations, tolerance, reach in ((45, 1e-3, 1.0), (120, 1e-4, 0.5)):
        steps = np.eye(3) * b.step_mm * reach
        options = {"xtol": 0.02 * b.step_mm, "ftol": tolerance, "maxfev": evaluations, "direc": steps}
        optimum = minimize(lambda m: -a.correlation(b.some, m), start_mm, method="Powell", options=options)
        start_mm = optimum.x
        if -optimum.fun < DIFFERENT:
            break
    return a.correlation(b.all(), start_mm)
