"""Draw one label of a case for a page: planes through the worst error, and the coloured surface."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import C3S3Error
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.metrics.boundary_errors import BoundaryError, boundary_error
from c3s3_seg.metrics.results import CaseScore, Score
from c3s3_seg.report.mesh import Floats, Mesh, surface_mesh
from c3s3_seg.report.numbers import in_page
from c3s3_seg.report.outlines import outlines
from c3s3_seg.report.overlay import planes_webp
from c3s3_seg.report.page import SIGNED, Scale, Solid
from c3s3_seg.report.rows import CaseFiles
from c3s3_seg.report.viewer import VOXELS, Contents, Packed, Spot, pack

Mask = NDArray[np.bool_]
PLAIN = Scale(-1, 1, ((200, 180, 150), (200, 180, 150)), "", "")


@dataclass(frozen=True, eq=False)
class CaseView:
    """One label of one case, drawn.

    Parameters
    ----------
    row
        Score of the label.
    planes, planes_words
        WebP of the planes, and a sentence on it.
    solid
        Surface; None if both masks are empty.
    volume
        Volume that the viewer scrolls through; the views of one case share it.
    spots
        Voxels that the viewer's buttons lead to.
    at
        Voxel in which the planes meet; None: where the labels have their largest areas.
    """

    row: CaseScore
    planes: bytes
    planes_words: str
    solid: Solid | None
    volume: Packed
    spots: tuple[Spot, ...] = ()
    at: tuple[int, int, int] | None = None


def views(
    rows: Sequence[CaseScore], files: Mapping[str, CaseFiles], labels: Mapping[str, int], *, resample: bool
) -> Iterator[CaseView]:
    """Draw cases one after another, so that only one is in memory.

    Parameters
    ----------
    rows
        Scores to draw, in this order.
    files
        Case -> its files.
    labels
        Name -> value.
    resample
        Whether predictions on another grid are resampled to the truth's.
    """
    scale, packed = error_scale(rows), dict[str, Packed]()
    share = VOXELS // max(1, len({row.case for row in rows}))
    for row in rows:
        contents, words = _contents(files[row.case], labels, resample)
        if row.case not in packed:
            packed[row.case] = pack(contents, f"volume-{len(packed) + 1}", share)
        yield _view(row, contents, words, scale, packed[row.case])


def error_scale(rows: Sequence[CaseScore]) -> Scale:
    """Return one scale in mm for all cases, so that colours compare: at least 1.5 times the median 95HD.

    Its limit is the next round number, 100 mm at most; 5 mm if no 95HD is finite.
    """
    usual = [mm for mm in map(_hd95_mm, rows) if math.isfinite(mm)]
    reach = 1.5 * float(np.median(usual)) if usual else 5.0
    limit = next(n for n in (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, math.inf) if n >= reach)
    limit = min(limit, 100.0)
    return Scale(-limit, limit, SIGNED, "too small", "too large")


def _hd95_mm(row: CaseScore) -> float:
    """Return the 95HD in mm, from voxels by their mean size on the diagonal; nan if empty or unknown."""
    score = row.score
    if isinstance(score, Score):
        return score.hd95_mm
    if score.optimistic or score.nothing or not row.diagonal_mm or not row.diagonal_vox:
        return math.nan
    return score.hd95_vox * row.diagonal_mm / row.diagonal_vox


def _contents(files: CaseFiles, labels: Mapping[str, int], resample: bool) -> tuple[Contents, str]:
    """Return the contents of a case's view, and the reason if it has no scan, else ""."""
    from c3s3_seg.geometry.resample import resample_mask
    from c3s3_seg.io.mask_pair import load_pair

    prediction, truth = load_pair(files.prediction, files.truth, dict(files.names), files.scan)
    if resample:
        prediction = resample_mask(prediction, truth.geometry)
    scan, words = _scan(files.scan, truth.geometry)
    return Contents(scan, prediction, labels, truth), words


def _view(row: CaseScore, shown: Contents, words: str, scale: Scale, packed: Packed) -> CaseView:
    value = shown.labels[row.label]
    truth = shown.truth or shown.mask
    p, t = shown.mask.array == value, truth.array == value
    error = boundary_error(p, t, shown.mask)
    spots: tuple[Spot, ...] = ()
    if error:
        spots = (worst_spot(error),)
        words = (
            f"Planes through the largest error, {in_page(error.worst_mm, 'hd_mm')} mm, in the ring. {words}"
        )
    drawn = outlines(shown.mask, shown.labels, shown.truth)
    at = error.worst if error else _middle(p if p.any() or not t.any() else t)
    planes = planes_webp(shown.scan, drawn, at, ring=error is not None)
    solid = error_solid(p, t, shown.mask.geometry, error, scale)
    return CaseView(row, planes, words, solid, packed, spots, at)


def worst_spot(error: BoundaryError, label: str = "") -> Spot:
    """Return a button to the largest boundary error of a label."""
    of = f" of {label}" if label else ""
    return Spot(f"Largest error{of}, {in_page(error.worst_mm, 'hd_mm')} mm", error.worst)


def _scan(path: Path | None, grid: Geometry) -> tuple[Volume, str]:
    """Return the scan, or an empty one with the reason."""
    from c3s3_seg.io import load

    empty = grid.volume(np.zeros(grid.shape, dtype=np.uint8))
    if path is None:
        return empty, "There is no scan of this case: the masks alone."
    try:
        scan = load(path)
    except C3S3Error as error:
        return empty, f"The scan could not be read ({error.what})."
    if not scan.geometry.matches(grid):
        return empty, "The scan is on another grid than the truth: the masks alone."
    return scan, ""


def _middle(mask: Mask) -> tuple[int, int, int] | None:
    """Return the voxel where the largest planes of a mask meet; None if it is empty."""
    if not mask.any():
        return None
    areas = [np.count_nonzero(mask, axis=tuple(n for n in range(3) if n != axis)) for axis in range(3)]
    i, j, k = (int(area.argmax()) for area in areas)
    return i, j, k


def error_solid(p: Mask, t: Mask, grid: Geometry, error: BoundaryError | None, scale: Scale) -> Solid | None:
    """Return the surface of a label, coloured by its distance to the truth.

    Parameters
    ----------
    p, t
        (i, j, k) bool: prediction and truth.
    grid
        Grid of both masks.
    error
        Error of their boundaries; None if one mask is empty: then the surface of the other one is plain.
    scale
        Distance in mm -> colour.

    Returns
    -------
    Solid
        None if both masks are empty.
    """
    if error is None:
        if not (p.any() or t.any()):
            return None
        mesh = surface_mesh(p if p.any() else t, grid)
        words = "The truth is empty: the surface is the prediction's."
        if t.any():
            words = "The prediction is empty: the surface is the truth's."
        return Solid(mesh, np.zeros(len(mesh.vertices_mm)), PLAIN, words)
    mesh = surface_mesh(p, grid)
    values = at_vertices(mesh, grid.to_mm(error.voxels.T), error.signed_mm)
    return Solid(
        mesh, values, scale, "The prediction's surface by its distance to the truth's, smoothed to look at."
    )


def at_vertices(mesh: Mesh, points_mm: Floats, values: Floats) -> Floats:
    """Return (n,) values: for each vertex that of the nearest of the points."""
    from scipy.spatial import cKDTree

    return np.asarray(values[cKDTree(points_mm).query(mesh.vertices_mm)[1]], dtype=np.float64)
