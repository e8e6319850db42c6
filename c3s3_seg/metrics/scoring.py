"""Compute overlap and boundary metrics: one definition for each number, in mm or in voxels.

Surfaces and the distances between them are those of `c3s3_seg.metrics.surface_distance`. `d_pt` are the
distances from the prediction's surface to the truth's surface, `d_tp` those in the other direction.
Percentiles interpolate linearly.

If both masks are empty, Dice and Jaccard are 1, and distances and NSD nan (there is nothing to measure); if
one is empty, Dice and Jaccard are 0, distances inf and NSD 0. A miss never has a distance of 0, except in
`paper_score`, which reports this in its field `optimistic`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from c3s3_seg.errors import GeometryError, InputError, shown
from c3s3_seg.geometry.arguments import FLAG, require_volume
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.metrics.nearest import Floats
from c3s3_seg.metrics.results import PaperScore, Score
from c3s3_seg.metrics.surface_distance import LabelPair, label_pairs, step_mm, surface_voxels, union_box


def score(
    prediction: Volume,
    truth: Volume,
    label: int = 1,
    *,
    tolerances_mm: Iterable[float] = (1.0, 2.0),
    area_nsd: bool = False,
) -> Score:
    """Return every number of the `clinical` protocol for one label.

    Parameters
    ----------
    prediction, truth
        Masks (i, j, k) of labels on the same grid; bool, integers, or floats that are exactly integral.
    label
        The label value to be measured, an integer from 1 on: 0 is the background.
    tolerances_mm
        Tolerances of the normalised surface distance, finite and not negative.
    area_nsd
        Whether to measure the normalised surface distance by area too.

    Returns
    -------
    Score
        Distances in mm, volumes in ml. Both masks empty: Dice 1, distances nan. One empty: Dice 0,
        distances inf, NSD 0. On a sheared grid (gantry tilt) distances follow the true axes.

    Raises
    ------
    GeometryError
        If the two grids differ.
    InputError
        If a mask is no `Volume` or holds nan, infinity or fractions, if the label is no integer from 1 on,
        if a mask holds only 0 and 255 and 255 was not requested, if a tolerance is negative or not finite,
        or if the area is requested on a sheared grid.

    Notes
    -----
    Two masks without a label in common are measured like any others: an organ labelled as another organ is
    a miss, Dice 0. `evaluate` checks whether the label values of a whole set are mixed up.
    """
    return scores(prediction, truth, (label,), tolerances_mm=tolerances_mm, area_nsd=area_nsd)[label]


def check_tolerances(tolerances_mm: Iterable[float]) -> tuple[float, ...]:
    """Return the tolerances of the normalised surface distance, as they were given.

    Raises
    ------
    InputError
        If a tolerance is negative or not finite.
    """
    # Read once: an iterator would be empty the second time, and the scores would lack their NSD.
    given = tuple(tolerances_mm) if np.iterable(tolerances_mm) else None
    if given is None or not all(map(_is_tolerance, given)):
        found = shown(tolerances_mm if given is None else given)
        raise InputError(f"found the tolerances {found} mm, wanted finite ones that are not negative")
    return given


def _is_tolerance(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and 0 <= float(value) < math.inf


def scores(
    prediction: Volume,
    truth: Volume,
    labels: Iterable[int],
    *,
    tolerances_mm: Iterable[float] = (1.0, 2.0),
    area_nsd: bool = False,
) -> dict[int, Score]:
    """Return the scores of several labels, each as from `score`, in one pass over the masks.

    Parameters
    ----------
    prediction, truth, tolerances_mm, area_nsd
        Same as in `score`.
    labels
        The label values to be measured.

    Returns
    -------
    dict
        Label -> score, in the order of `labels`.

    Raises
    ------
    GeometryError, InputError
        As in `score`, if any label is at fault.
    """
    labels = _check_arguments(prediction, truth, labels)
    tolerances = tuple(float(mm) for mm in sorted(set(check_tolerances(tolerances_mm))))
    by_area = FLAG.take("area_nsd", area_nsd)
    step = step_mm(truth.geometry)
    found = {
        label: _score(pair, truth.geometry.voxel_ml, tolerances)
        for label, pair in _pairs(prediction, truth, labels, step).items()
    }
    if not by_area:
        return found
    return {
        label: replace(score, nsd_area=_by_area(prediction, truth, label, tolerances))
        for label, score in found.items()
    }


def _score(pair: LabelPair, voxel_ml: float, tolerances_mm: Sequence[float]) -> Score:
    surfaces = pair.surfaces
    dice, jaccard = _overlap(pair)
    return Score(
        dice=dice,
        jaccard=jaccard,
        hd95_mm=surfaces.hd95(),
        hd95_max_mm=surfaces.hd95_max(),
        hd_mm=surfaces.hd(),
        asd_mm=surfaces.asd(),
        assd_mm=surfaces.assd(),
        masd_mm=surfaces.masd(),
        nsd=tuple((mm, surfaces.nsd(mm)) for mm in tolerances_mm),
        volume_ml=pair.first * voxel_ml,
        truth_ml=pair.second * voxel_ml,
        volume_error_ml=(pair.first - pair.second) * voxel_ml,
    )


def _by_area(
    prediction: Volume, truth: Volume, label: int, tolerances_mm: tuple[float, ...]
) -> tuple[tuple[float, float], ...]:
    from c3s3_seg.metrics.surface_area import area_within

    p, t = prediction.array == label, truth.array == label
    box = union_box(p, t)
    shares = area_within(p[box], t[box], step_mm(truth.geometry), tolerances_mm)
    return tuple(zip(tolerances_mm, shares, strict=True))


def paper_score(prediction: Volume, truth: Volume, label: int = 1) -> PaperScore:
    """Return the four numbers that papers on this benchmark report, with their treatment of a miss.

    Parameters
    ----------
    prediction, truth, label
        Same as in `score`.

    Returns
    -------
    PaperScore
        Distances in voxels. An empty prediction scores (0, 0, 0, 0), whatever the truth is, and is
        `optimistic` if the truth is not empty.
        An empty truth with a non-empty prediction, on which the published scripts stop, scores 0 with
        distances inf.

    Raises
    ------
    GeometryError, InputError
        As in `score`, for masks and label.
    """
    return paper_scores(prediction, truth, (label,))[label]


def paper_scores(prediction: Volume, truth: Volume, labels: Iterable[int]) -> dict[int, PaperScore]:
    """Return the scores of several labels, each as from `paper_score`, in one pass over the masks."""
    labels = _check_arguments(prediction, truth, labels)
    pairs = _pairs(prediction, truth, labels, np.ones(3))
    return {label: _paper_score(pair) for label, pair in pairs.items()}


def _paper_score(pair: LabelPair) -> PaperScore:
    if not pair.first:
        return PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=bool(pair.second))
    return PaperScore(*_overlap(pair), pair.surfaces.hd95(), pair.surfaces.asd(), optimistic=False)


def labels_in(mask: Volume) -> tuple[int, ...]:
    """Return the labels of a mask in rising order, without the background 0; () for an empty mask.

    Raises
    ------
    InputError
        If the mask holds nan, infinity or fractions.
    """
    _check_integral(mask)
    if mask.array.dtype.kind in "bu" and mask.array.dtype.itemsize <= 2:
        there = np.zeros(1 << 8 * mask.array.dtype.itemsize, dtype=np.bool_)
        for plane in mask.array.T:  # arrays read from files are (z, y, x) in memory
            there[plane.view(np.uint8) if plane.dtype == np.bool_ else plane] = True
        return tuple(int(value) for value in np.flatnonzero(there) if value)
    # Every label has a surface: only surface voxels are searched, which are a hundredth of the volume.
    return tuple(int(value) for value in np.unique(surface_voxels(mask.array)[1]))


def diagonal_mm(geometry: Geometry) -> float:
    """Return the longest body diagonal in mm, between voxel centres: the largest distance in the image.

    The four diagonals differ on a sheared grid (gantry tilt).
    """
    edges = geometry.affine[:3, :3] * (np.array(geometry.shape) - 1)
    signs = np.array([(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)])
    return float(np.linalg.norm(edges @ signs.T, axis=0).max())


def diagonal_vox(geometry: Geometry) -> float:
    """Return the body diagonal in voxels regardless of the spacing, for the protocol `paper`."""
    return float(np.linalg.norm(np.array(geometry.shape) - 1))


def _check_arguments(prediction: object, truth: object, labels: Iterable[int]) -> tuple[int, ...]:
    """Return the labels; raise if a mask is no volume or a label no integer from 1 on.

    No voxel would have another label, so that its Dice would be 1.
    """
    for mask in (prediction, truth):
        require_volume(mask)
    if not isinstance(labels, Iterable) or isinstance(labels, str | bytes):
        raise InputError(f"found labels {labels!r}; wanted several label values, such as [1]")
    given = tuple(labels)
    for label in given:
        if isinstance(label, int | np.integer) and not isinstance(label, bool) and label >= 1:
            continue
        found = "label 0, which is the background" if label == 0 else f"the label {label!r}"
        raise InputError(f"found {found}; wanted a label value such as 1")
    return given


def _pairs(prediction: Volume, truth: Volume, labels: Sequence[int], step: Floats) -> dict[int, LabelPair]:
    """Check the grids and the masks, then measure every label in both masks."""
    if not prediction.geometry.matches(truth.geometry):
        raise GeometryError(
            f"the prediction's grid is {prediction.geometry}, the truth's is {truth.geometry}"
            + prediction.geometry.distance_note(truth.geometry),
            where=prediction.source.path,
            todo="Resample one of them onto the other's grid first; `evaluate --resample` does",
        )
    for mask in (prediction, truth):
        _check_integral(mask)
    pairs = label_pairs(prediction.array, truth.array, labels, step)
    # Checked only after measuring: finding all labels costs more than measuring one.
    if 255 not in labels and not all(pair.first and pair.second for pair in pairs.values()):
        _refuse_0_and_255(prediction, truth, labels)
    return pairs


def _check_integral(mask: Volume) -> None:
    array, where = mask.array, mask.source.path
    if array.dtype.kind in "bui":
        return
    if array.dtype.kind != "f":
        raise InputError(f"found a mask of {array.dtype}, wanted labels as whole numbers", where=where)
    # Plane by plane: a large mask must not need a second float array of its size.
    for plane in array:
        if not np.isfinite(plane).all():
            raise InputError("the mask holds nan or infinity, wanted whole numbers", where=where)
        if not np.array_equal(plane, np.rint(plane)):
            found = float(plane[plane != np.rint(plane)][0])
            raise InputError(
                f"the mask holds fractions such as {found:.4g}, wanted whole numbers",
                where=where,
                todo="Threshold a probability map before it is measured",
            )


def _refuse_0_and_255(prediction: Volume, truth: Volume, labels: Sequence[int]) -> None:
    """Raise if 255 is the only label of a mask and is not requested: a 0/1 mask that was scaled."""
    found_p, found_t = labels_in(prediction), labels_in(truth)
    if (255,) in (found_p, found_t):
        asked = ", ".join(str(label) for label in labels)
        raise InputError(
            f"asked for label {asked}, found the labels {list(found_p)} in the prediction"
            f" and {list(found_t)} in the truth",
            where=prediction.source.path if found_p == (255,) else truth.source.path,
            todo="Give both masks the same labels (a 0/255 mask is not a 0/1 mask), or name the label",
        )


def _overlap(pair: LabelPair) -> tuple[float, float]:
    """Return Dice and Jaccard; (1, 1) if both masks are empty."""
    both, total = pair.both, pair.first + pair.second
    return (2 * both / total, both / (total - both)) if total else (1.0, 1.0)
