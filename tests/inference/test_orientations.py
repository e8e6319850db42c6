"""One scan stored in all 48 orders and directions of its axes: `predict` gives the same mask in mm."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from helpers.command import run

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load_mask, save
from c3s3_seg.phantom import Simulator, simulate


def turned(scan: Volume, order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """Return the same voxels at the same physical positions, with other axes."""
    array = scan.array.transpose(order)
    affine = scan.geometry.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    for axis, sign in enumerate(signs):
        if sign < 0:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Geometry(array.shape, affine).volume(np.ascontiguousarray(array))


@pytest.mark.slow
def test_all_48_orientations_give_the_same_mask_in_mm(tmp_path: Path) -> None:
    scan = simulate(31_048, Simulator(shape=(48, 45, 24), spacing_mm=(1.9, 1.9, 2.7))).scan
    (tmp_path / "scans").mkdir()
    cases = {}
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            name = "".join("xyz"[axis] + "-+"[sign > 0] for axis, sign in zip(order, signs, strict=True))
            cases[name] = (order, signs)
            save(turned(scan, order, signs), tmp_path / "scans" / f"{name}.nii.gz")
    assert len(cases) == 48
    # The scan is smaller than in training along all axes and would be refused without this option.
    words = ("--model", "phantom", "--allow-out-of-domain")
    answer = run("predict", tmp_path / "scans", "-o", tmp_path / "out", *words)
    assert answer.returncode == 0, answer.stderr
    first = load_mask(tmp_path / "out" / "x+y+z+.nii.gz")
    assert first.array.any()
    for name, (order, signs) in cases.items():
        mask = load_mask(tmp_path / "out" / f"{name}.nii.gz")
        wanted = turned(first, order, signs)
        assert mask.geometry.matches(wanted.geometry, 1e-2), name
        assert np.array_equal(mask.array, wanted.array), name
    # The comparison would notice a flip.
    assert not np.array_equal(first.array, first.array[::-1])
