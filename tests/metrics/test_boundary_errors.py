"""Tests of the worst place and the side of an error, on masks for which both are known."""

import numpy as np
import pytest
from helpers.masks import blobs

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.metrics.boundary_errors import boundary_error
from c3s3_seg.metrics.scoring import score

GRID = Geometry.build((30, 30, 30), (1, 1, 2))


def box(*ends: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[tuple(slice(*end) for end in ends)] = True
    return mask


def test_too_large_is_positive_and_too_small_negative() -> None:
    truth, empty = box((10, 20), (10, 20), (10, 20)), GRID.volume(np.zeros(GRID.shape))
    large = boundary_error(box((8, 22), (8, 22), (9, 21)), truth, empty)
    small = boundary_error(box((12, 18), (12, 18), (11, 19)), truth, empty)
    assert large is not None
    assert small is not None
    assert large.signed_mm.min() > 0
    assert small.signed_mm.max() < 0


def test_the_worst_place_is_the_spike() -> None:
    truth = box((10, 20), (10, 20), (10, 20))
    spike = truth.copy()
    spike[20:27, 15, 15] = True
    for prediction, wanted in ((spike, truth), (truth, spike)):
        found = boundary_error(prediction, wanted, GRID.volume(truth))
        assert found is not None
        assert found.worst == (26, 15, 15)
        assert found.worst_mm == 7


def test_agrees_with_the_score() -> None:
    p, t = blobs(2)
    grid = Geometry.build(p.shape, (0.7, 1.1, 2.5))
    found, wanted = boundary_error(p, t, grid.volume(p)), score(grid.volume(p), grid.volume(t))
    assert found is not None
    assert found.worst_mm == pytest.approx(wanted.hd_mm)
    assert np.abs(found.signed_mm).mean() == pytest.approx(wanted.asd_mm)


def test_nothing_to_measure_to() -> None:
    truth = box((1, 2), (1, 2), (1, 2))
    assert boundary_error(truth, ~(truth | True), GRID.volume(truth)) is None
    assert boundary_error(~(truth | True), truth, GRID.volume(truth)) is None
