"""Names and decimals of the metrics: the only place in which a report rounds."""

from __future__ import annotations

import math

# Column of the score -> header and decimals, in the order in which they are shown.
COLUMNS = {
    "dice": ("Dice", 4),
    "jaccard": ("Jaccard", 4),
    "hd95_mm": ("95HD (mm)", 2),
    "hd95_vox": ("95HD (voxel)", 2),
    "asd_mm": ("ASD (mm)", 2),
    "asd_vox": ("ASD (voxel)", 2),
    "assd_mm": ("ASSD (mm)", 2),
    "volume_ml": ("Volume (ml)", 1),
    "volume_error_ml": ("Error (ml)", 1),
    "absolute_error_ml": ("Absolute error (ml)", 1),  # in comparisons
}
# Decimals of a volume below so many ml: a nodule of 0.04 ml is not shown as 0.0, nor 1.34 and 1.38 ml as 1.3
# and 1.4 beside their difference of 0.04.
SMALL_VOLUMES = ((1.0, 3), (10.0, 2))
_MORE = {"truth_ml": ("Truth (ml)", 1), "hd_mm": ("HD (mm)", 2), "uncertainty_mm": ("Uncertainty (mm)", 2)}
_MORE |= {"p": ("Wilcoxon p", 3), "n": ("Cases", 0)}


def column(name: str) -> tuple[str, int]:
    """Return header and decimals of any column of a score."""
    if name.startswith("nsd"):
        kind, _, tolerance = name.removesuffix("mm").rpartition("_")
        return f"NSD{' by area' if kind == 'nsd_area' else ''}, {tolerance} mm", 3
    return _MORE.get(name) or COLUMNS[name]


def rounded(value: float, decimals: int, *, infinite: str = "inf", undefined: str = "nan") -> str:
    """Return a number with so many decimals, or the word for infinite or undefined."""
    if math.isnan(value):
        return undefined
    if math.isinf(value):
        return infinite if value > 0 else f"-{infinite}"
    return f"{value:.{decimals}f}"


def in_page(value: float, name: str) -> str:
    """Return a value of a column as pages show it."""
    return _shown(value, name, "∞", "–")


def in_terminal(value: float, name: str) -> str:
    """Return a value of a column as tables of the terminal show it."""
    return _shown(value, name, "inf", "nan")


def probability(p: float, *, undefined: str = "nan") -> str:
    """Return a p value with three decimals; "<0.001" if it is less than that."""
    return "<0.001" if p < 0.001 else rounded(p, 3, undefined=undefined)


def _shown(value: float, name: str, infinite: str, undefined: str) -> str:
    if name == "p":
        return probability(value, undefined=undefined)
    decimals = column(name)[1]
    if name.endswith("_ml") and value != 0:
        decimals = next((places for below, places in SMALL_VOLUMES if abs(value) < below), decimals)
    if name.endswith("_ml") and 0 < abs(value) < 10.0**-decimals:
        return f"{value:.1g}"
    return rounded(value, decimals, infinite=infinite, undefined=undefined)
