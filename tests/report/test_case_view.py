"""The view of a case: one colour scale for all cases, values at the right vertices."""

import math
from dataclasses import replace

import numpy as np
import pytest

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.metrics.results import CaseScore, PaperScore
from c3s3_seg.report.case_view import _view, at_vertices, error_scale
from c3s3_seg.report.mesh import Mesh
from c3s3_seg.report.outlines import outlines
from c3s3_seg.report.overlay import planes_webp
from c3s3_seg.report.page import SIGNED, Scale
from c3s3_seg.report.viewer import Contents, pack


def rows(*hd95: float) -> list[CaseScore]:
    return [
        CaseScore(str(n), "x", PaperScore(0.9, 0.8, value, 1.0, optimistic=False), 10.0, diagonal_vox=10.0)
        for n, value in enumerate(hd95)
    ]


@pytest.mark.parametrize(
    ("hd95", "limit"),
    [((3.0, 4.0, 5.0), 6), ((0.1,), 1), ((math.inf, math.nan, 2.0), 3), ((math.inf,), 5), ((500.0,), 100)],
)
def test_the_scale_is_round_symmetric_and_reaches_beyond_a_usual_95hd(
    hd95: tuple[float, ...], limit: float
) -> None:
    scale = error_scale(rows(*hd95))
    assert (scale.low, scale.high) == (-limit, limit)


def test_the_scale_of_voxels_is_in_mm() -> None:
    """Drawn distances are in mm, here of 4 voxels of half a mm; an empty prediction has no distances."""
    row = replace(rows(4.0)[0], diagonal_mm=20.0, diagonal_vox=40.0)
    empty = replace(row, score=PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=True))
    assert error_scale([row, empty, empty]).high == 3
    assert error_scale([replace(row, diagonal_vox=None)]).high == 5
    both_empty = replace(row, score=PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=False))
    assert error_scale([row, both_empty, both_empty]).high == 3


def test_a_vertex_has_the_value_of_the_nearest_point() -> None:
    mesh = Mesh(np.array([[0.0, 0, 0], [9, 0, 0], [4.9, 0, 0]]), np.array([[0, 1, 2]]))
    found = at_vertices(mesh, np.array([[1.0, 0, 0], [9, 1, 0]]), np.array([-2.0, 5.0]))
    assert found.tolist() == [-2, 5, -2]


def test_no_ring_where_a_mask_is_empty_and_nothing_is_measured() -> None:
    grid = Geometry.build((12, 12, 12))
    array = np.zeros(grid.shape, np.uint8)
    array[3:6, 3:6, 3:6] = 1
    there, empty = grid.volume(array), grid.volume(array * 0)
    for mask, ring in ((empty, False), (grid.volume(np.roll(array, 1, 0)), True)):
        shown = Contents(there, mask, {"x": 1}, there)
        view = _view(rows(1.0)[0], shown, "", Scale(-1, 1, SIGNED, "", ""), pack(shown, "v"))
        drawn = outlines(mask, {"x": 1}, there)
        assert view.planes == planes_webp(there, drawn, view.at, ring=ring)
        assert view.planes != planes_webp(there, drawn, view.at, ring=not ring)
        assert ("in the ring" in view.planes_words) == ring
