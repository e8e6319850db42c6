"""Tests of nearest voxels against a comparison of every pair, on grids of every kind."""

import math

import numpy as np
import pytest

from c3s3_seg.metrics.nearest import REACH, Neighbours, nearest

SHEARED = np.array([[0.8, 0.0, 0.0], [0.0, 1.1, 0.9], [0.0, 0.0, 2.5]])
STEPS = [(1, 1, 1), (0.625, 0.625, 2.5), (0.3, 1.7, 0.9), (0.5, 0.5, 10), SHEARED]


def brute(start: np.ndarray, goal: np.ndarray, step: np.ndarray) -> np.ndarray:
    axes = np.diag(step) if step.ndim == 1 else step
    apart = start[:, :, None] - goal[:, None, :]
    return np.asarray(np.linalg.norm(np.einsum("ab,bnm->anm", axes, apart), axis=0).min(axis=1))


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("shift", [0, 4, 60])
def test_equals_every_pair_compared(step: object, shift: int) -> None:
    rng = np.random.default_rng(shift)
    grid = np.asarray(step, dtype=np.float64)
    start, goal = (rng.integers(0, 30, (3, n)) for n in (300, 40))
    goal = goal + np.array([[shift], [0], [-shift]])
    found = nearest(start, goal, Neighbours.of(grid))
    assert found == pytest.approx(brute(start, goal, grid), abs=1e-12)


def test_the_comparison_can_say_no() -> None:
    rng = np.random.default_rng(0)
    start, goal = rng.integers(0, 30, (3, 50)), rng.integers(0, 30, (3, 50))
    found = nearest(start, goal, Neighbours.of(np.array((1.0, 1.0, 1.2))))
    assert found != pytest.approx(brute(start, goal, np.ones(3)), abs=1e-12)


def test_nothing_to_start_from_and_nowhere_to_go() -> None:
    near, none, one = Neighbours.of(np.ones(3)), np.empty((3, 0), dtype=np.intp), np.zeros((3, 1), np.intp)
    assert nearest(none, one, near).size == 0
    assert nearest(one, none, near).tolist() == [math.inf]
    assert nearest(one, one, near).tolist() == [0]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_neighbours_are_whole_balls_in_rising_order(step: object) -> None:
    grid = np.asarray(step, dtype=np.float64)
    near = Neighbours.of(grid)
    axes = np.diag(grid) if grid.ndim == 1 else grid
    assert (np.diff(near.distances) >= 0).all()
    assert near.offsets[:, 0].tolist() == [0, 0, 0]
    span = 2 * REACH
    every = np.stack(np.meshgrid(*[np.arange(-span, span + 1)] * 3, indexing="ij")).reshape(3, -1)
    inside = np.linalg.norm(axes @ every, axis=0) < near.distances[-1] - 1e-9
    assert np.count_nonzero(near.distances < near.distances[-1] - 1e-9) == np.count_nonzero(inside)


def test_needles_need_no_endless_margin() -> None:
    assert np.abs(Neighbours.of(np.array((0.001, 1.0, 1000.0))).offsets).max() <= REACH
