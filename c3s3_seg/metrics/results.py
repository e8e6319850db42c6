"""Scores of one label in one case, by the protocol `clinical` or `paper`.

`d_pt` are the distances from the prediction's surface to the truth's surface, `d_tp` those in the other
direction, see `metrics.surface_distance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Score:
    """The scores of one label in one case by the protocol `clinical`.

    Parameters
    ----------
    dice, jaccard
        Overlap of the masks, 0 to 1; 1 if both masks are empty, 0 if one is.
    hd95_mm
        95th percentile of `d_pt` and `d_tp` pooled.
    hd95_max_mm
        Larger of the two directed 95th percentiles.
    hd_mm
        Largest of all distances.
    asd_mm
        Mean of `d_pt`: one direction, prediction to truth.
    assd_mm
        Mean of `d_pt` and `d_tp` pooled.
    masd_mm
        Mean of the two directed means.
    nsd
        Pairs (tolerance in mm, share of both surfaces' voxels within the tolerance), by rising tolerance.
    volume_ml, truth_ml
        Volumes of prediction and truth.
    volume_error_ml
        Prediction minus truth.
    nsd_area
        Same as `nsd`, but with the share of both surfaces' area, see `surface_area`. Empty unless requested.

    Distances are nan if both masks are empty and inf if one is.
    """

    dice: float
    jaccard: float
    hd95_mm: float
    hd95_max_mm: float
    hd_mm: float
    asd_mm: float
    assd_mm: float
    masd_mm: float
    nsd: tuple[tuple[float, float], ...]
    volume_ml: float
    truth_ml: float
    volume_error_ml: float
    nsd_area: tuple[tuple[float, float], ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether both masks are empty: neither a hit nor a miss."""
        return math.isnan(self.hd_mm)

    def flat(self) -> dict[str, float]:
        """Return one number per column, in the order of the fields; `nsd` becomes `nsd_1mm`, `nsd_2mm`, ...

        `nsd_area` becomes `nsd_area_1mm` and so on.
        """
        row: dict[str, float] = {}
        for field in fields(self):
            if field.name in ("nsd", "nsd_area"):
                shares = getattr(self, field.name)
                row.update({f"{field.name}_{_short(tolerance)}mm": share for tolerance, share in shares})
            else:
                row[field.name] = getattr(self, field.name)
        return row


@dataclass(frozen=True)
class PaperScore:
    """The scores of one label in one case by the protocol `paper`: in voxels, as in published evaluations.

    Parameters
    ----------
    dice, jaccard
        Overlap, 0 to 1.
    hd95_vox
        95th percentile of `d_pt` and `d_tp` pooled, in voxels regardless of the spacing.
    asd_vox
        Mean of `d_pt`, in voxels.
    optimistic
        Whether the prediction was empty, the truth was not, and all four numbers are therefore 0: the worst
        overlap, but a perfect distance.
    """

    dice: float
    jaccard: float
    hd95_vox: float
    asd_vox: float
    optimistic: bool

    @property
    def nothing(self) -> bool:
        """Whether both masks are empty: Dice and distance are 0 as for a miss, but nothing was missed."""
        return self.dice == 0 and self.hd95_vox == 0 and not self.optimistic

    def flat(self) -> dict[str, float]:
        """Return one number per column, in the order of the fields; `optimistic` becomes 0 or 1."""
        return {field.name: getattr(self, field.name) + 0 for field in fields(self)}


@dataclass(frozen=True)
class CaseScore:
    """The scores of one label in one measured case.

    Parameters
    ----------
    case
        Name of the case.
    label
        Name of the label.
    score
        The scores, by the protocol `clinical` or `paper`.
    diagonal_mm, diagonal_vox
        Diagonal of the image in mm and in voxels: the largest possible distance, which replaces an infinite
        one in `Statistics.mean_penalised`. None: unknown, no replacement.
    notes
        Remarks on how the masks were read and what was done to them on request; one sentence each.
    """

    case: str
    label: str
    score: Score | PaperScore
    diagonal_mm: float | None = None
    notes: tuple[str, ...] = ()
    diagonal_vox: float | None = None


def _short(tolerance_mm: float) -> str:
    """Return a tolerance as text for a column name; different tolerances never share a name."""
    text = f"{tolerance_mm:g}"
    return text if float(text) == tolerance_mm else repr(tolerance_mm)
