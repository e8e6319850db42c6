"""Tests of cubes, turns and moves against known results."""

import numpy as np
import pytest

from c3s3_seg.dataset.check.correlation import TURNS, Cube, correlation, cube, mean_of_others, moved, turned


def noise(*shape: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 1).astype(np.float32)


def test_all_turns_are_different_and_the_first_is_none() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    assert len({turned(array, turn).tobytes() + bytes(turned(array, turn).shape) for turn in TURNS}) == 48
    assert (turned(array, TURNS[0]) == array).all()


def test_a_cube_knows_what_lies_outside() -> None:
    array = noise(10, 10, 10)
    same = cube(array, (2.0, 2.0, 2.0), (4.5, 4.5, 4.5), 2.0, 10)
    assert np.allclose(same.values, array, atol=1e-6)
    assert same.inside.all()
    wider = cube(array, (2.0, 2.0, 2.0), (4.5, 4.5, 4.5), 2.0, 14)
    assert wider.inside.sum() == 1000
    assert np.allclose(wider.values[2:-2, 2:-2, 2:-2], array, atol=1e-6)


def test_correlation() -> None:
    a = noise(6, 6, 6)
    assert correlation(a, 3 * a + 7) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert correlation(a, np.ones_like(a)) == 0
    assert correlation(a, a, np.zeros(a.shape, bool)) == 0


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -1, 3), (-1, -3, 1)])
def test_a_move_is_found_whatever_is_outside(shift: tuple[int, int, int]) -> None:
    world = noise(30, 30, 30)
    here = Cube(world[8:22, 8:22, 8:22].copy(), np.ones((14,) * 3, bool))
    i, j, k = (8 - s for s in shift)
    there = Cube(world[i : i + 14, j : j + 14, k : k + 14].copy(), np.ones((14,) * 3, bool))
    there.inside[:2] = False
    there.values[:2] = 1e3  # marked as unknown, so not compared
    move, best, now = moved(here, there, 3)
    assert tuple(move) == shift
    assert best == pytest.approx(1, abs=1e-3)
    assert now == pytest.approx(1, abs=1e-3) if shift == (0, 0, 0) else now < 0.9


def test_the_mean_of_the_others() -> None:
    cubes = [Cube(np.full((2, 2, 2), n, np.float32), np.ones((2, 2, 2), bool)) for n in (1.0, 2.0, 6.0)]
    cubes[2].inside[0] = False
    means = mean_of_others(cubes)
    assert means[0].values[1, 0, 0] == 4
    assert means[0].values[0, 0, 0] == 2
    assert means[2].values[0, 0, 0] == 1.5
    assert all(mean.inside.all() for mean in means)
