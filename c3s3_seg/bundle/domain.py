"""The domain of a bundle: properties of its training scans, kept in the manifest, to compare a scan with.

Intensities are compared by their quantiles. MR intensities have no unit, so each scan is first scaled by its
own 1st and 99th percentile; CT intensities are Hounsfield units, and are compared unscaled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from c3s3_seg.errors import InputError, quantity
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.system.choices import Intensities
from c3s3_seg.system.schema import Rule, closed

RISING = Rule(lambda ends: ends[0] <= ends[1], "the smaller number first")
Length = Annotated[float, Gt(0), Le(1e5)]  # mm
NotNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Gt(0), Le(2**31)]
Range = Annotated[tuple[Length, Length], RISING]
Counts = Annotated[tuple[Count, Count], RISING]
Volumes = Annotated[tuple[NotNegative, NotNegative], RISING]
Floats = NDArray[np.float64]
STEPS = np.linspace(0.05, 0.95, 19)
CURVE = Rule(
    lambda q: len(q) == len(STEPS) and all(a <= b for a, b in pairwise(q)),
    f"{len(STEPS)} quantiles in rising order",
)
# This many voxels give the quantiles of a million voxels well enough.
SAMPLE = 100_000


@closed
@dataclass(frozen=True)
class Domain:
    """Properties of the scans of a training set.

    Parameters
    ----------
    scans
        Number of scans.
    spacing_mm, fov_mm, shape
        Smallest and largest value along the axes nearest to left, posterior, superior.
    intensities
        Whether intensities were `scaled` by percentiles of the scan, or are `absolute`.
    quantiles
        The mean quantiles of the intensities, at 5, 10, ... 95 percent.
    spread
        The mean distance of a scan's quantiles from those of the others, which 5 % of the scans exceed;
        increased for few scans by Student's t, since few scans show less than the true spread.
    volume_ml
        Label name -> smallest and largest volume; None if no masks were measured.
    """

    scans: Count
    spacing_mm: tuple[Range, Range, Range]
    fov_mm: tuple[Range, Range, Range]
    shape: tuple[Counts, Counts, Counts]
    intensities: Intensities
    quantiles: Annotated[tuple[float, ...], CURVE]
    spread: NotNegative
    volume_ml: dict[str, Volumes] | None = None

    def distance(self, scan: Volume) -> float:
        """Return the mean distance of a scan's quantiles from the training set's, in units of `spread`."""
        found = intensity_quantiles(scan, self.intensities)
        return float(np.abs(found - np.array(self.quantiles)).mean()) / max(self.spread, 1e-6)


def measure(scans: Iterable[Volume], intensities: Intensities) -> Domain:
    """Measure the domain of a training set.

    Parameters
    ----------
    scans
        All scans of the set, on their own grids; inspected one by one.
    intensities
        `absolute` for Hounsfield units, else `scaled`.

    Raises
    ------
    InputError
        If there are fewer than two scans, or for the reasons of `intensity_quantiles`.
    """
    rows, curves = [], []
    for scan in scans:
        rows.append(sizes_of(scan))
        curves.append(intensity_quantiles(scan, intensities))
    if len(rows) < 2:
        raise InputError(f"found {quantity(len(rows), 'scan')} to measure; wanted at least 2")
    spacing_mm, fov_mm, sizes = (_ranges(np.array([row[n] for row in rows])) for n in range(3))
    every = np.array(curves)
    others = (every.sum(axis=0) - every) / (len(every) - 1)
    spread = float(np.quantile(np.abs(every - others).mean(axis=1), 0.95)) * _few(len(every))
    whole = tuple((round(low), round(high)) for low, high in sizes)
    quantiles = tuple(round(float(q), 5) for q in every.mean(axis=0))
    return Domain(len(rows), spacing_mm, fov_mm, whole, intensities, quantiles, round(spread, 5))  # type: ignore[arg-type]


def sizes_of(scan: Volume) -> tuple[Floats, Floats, NDArray[np.int_]]:
    """Return spacing (mm), field of view (mm) and voxels of a scan, (3,) each.

    They are along the axes nearest to left, posterior, superior.
    """
    axes = list(scan.geometry.patient_axes[0])
    spacing, shape = scan.geometry.spacing_mm[axes], np.array(scan.geometry.shape)[axes]
    return spacing, spacing * shape, shape


def intensity_quantiles(scan: Volume, intensities: Intensities) -> Floats:
    """Return the intensity quantiles of a scan at 5, 10, ... 95 percent.

    Parameters
    ----------
    scan
        Scan on its own grid, of any real dtype.
    intensities
        `absolute`: unscaled. `scaled`: distance from the 1st percentile, divided by that of the 99th.

    Returns
    -------
    Floats
        (19,) float64, rising.

    Raises
    ------
    InputError
        If all intensities are the same or, for `scaled`, the 1st and 99th percentiles are equal.
    """
    # Quantiles of sorted values are found 4 times faster; between two whole numbers they would overflow.
    values = np.sort(sampled(scan.array)).astype(np.float64)
    low, *found, high = np.quantile(values, (0.01, *STEPS, 0.99))
    curve = np.array(found, dtype=np.float64)
    if intensities == "absolute" and values[0] < values[-1]:
        return curve
    if high <= low:
        every = "all" if scan.array.min() == scan.array.max() else "98% or more of the"
        what = f"{every} voxels have the same value: there is nothing to see"
        raise InputError(what, where=scan.source.path)
    return np.asarray((curve - low) / (high - low), dtype=np.float64)


def sampled(array: NDArray[Any]) -> NDArray[Any]:
    """Return some 100,000 voxels (i, j, k), from all planes: a step that divides a side would miss most."""
    step = max(1, array.size // SAMPLE)
    while math.gcd(step, array.size) > 1:
        step += 1
    return array.ravel()[::step]


def _few(scans: int) -> float:
    """Return the factor that widens the 95 % interval of so many scans: 6.5 for 2, 1.4 for 5, 1.02 for 60."""
    from scipy import special  # `scipy.stats` has both functions too, but takes half a second to import

    return float(special.stdtrit(scans - 1, 0.975) / special.ndtri(0.975))


def _ranges(values: Floats) -> tuple[Range, Range, Range]:
    x, y, z = ((round(float(v.min()), 4), round(float(v.max()), 4)) for v in values.T)
    return x, y, z
