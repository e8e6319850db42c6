import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from c3s3_seg.inference.streaming import Network, Slab, stream
from c3s3_seg.inference.tiling import Tiling
from c3s3_seg.system.choices import Weighting

Shape = tuple[int, int, int]


def copy(patches: np.ndarray) -> np.ndarray:
    """Return two channels, the input and its negative, as a network would."""
    return np.concatenate([patches, -patches], axis=1)


def stitch(volume: np.ndarray, tiling: Tiling, network: Network, **settings: Any) -> np.ndarray:
    """Return the slabs of `stream` joined in one array (K, X, Y, Z)."""
    slabs = [replace(s, values=s.values.copy()) for s in stream(volume, tiling, network, **settings)]
    return np.concatenate([slab.values for slab in slabs], axis=1 + slabs[0].axis)


def noise(shape: Shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(50, 33, 20), (16, 16, 16), (1, 1, 1), (5, 100, 17)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stitching_gives_back_every_voxel(shape: Shape, overlap: float, axis: int) -> None:
    volume = noise(shape)
    answer = stitch(volume, Tiling.overlapping(shape, (16, 16, 16), overlap), copy, axis=axis)
    np.testing.assert_allclose(answer, [volume, -volume], atol=2e-4)  # sums of up to 700 tiles


def test_the_whole_volume_goes_through_untouched() -> None:
    volume = noise((50, 33, 16))
    np.testing.assert_array_equal(stitch(volume, Tiling.whole(volume.shape, (16, 16, 16)), copy)[0], volume)


def test_slabs_follow_each_other_and_hold_only_finished_planes() -> None:
    volume = noise((70, 20, 18))
    tiling = Tiling.overlapping((70, 20, 18), (16, 16, 16), 0.5)
    seen = 0
    for slab in stream(volume, tiling, copy, axis=0):
        assert slab.start == seen
        np.testing.assert_allclose(slab.values[0], volume[slab.start : slab.stop], atol=1e-6)
        seen = slab.stop
    assert seen == 70
    assert Slab(1, 4, np.zeros((2, 5, 3, 6), np.float32)).stop == 7


def test_progress_counts_tiles() -> None:
    told: list[tuple[int, int]] = []
    tiling = Tiling.overlapping((40, 16, 16), (16, 16, 16), 0.5)
    stitch(noise((40, 16, 16)), tiling, copy, progress=lambda _, n=0, total=0: told.append((n, total)))
    assert told == [(n, 4) for n in (1, 2, 3, 4)]


def test_memory_does_not_depend_on_the_length_of_the_streamed_axis() -> None:
    def peak(length: int) -> int:
        volume = np.zeros((length, 40, 40), np.float32)
        tracemalloc.start()
        for _ in stream(volume, Tiling.overlapping((length, 40, 40), (16, 16, 16), 0.5), copy):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(640) <= 1.05 * peak(64)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(50, 33, 20), (7, 40, 70), (16, 16, 24)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("weighting", ["constant", "gaussian"])
def test_labels_are_those_of_monai(shape: Shape, overlap: float, weighting: Weighting) -> None:
    """The network is a real convolution across tile borders with five classes; the input is noise."""
    pytest.importorskip("monai")
    import torch
    from monai.inferers.utils import sliding_window_inference

    kernel = torch.from_numpy(noise((5, 27, 1)).reshape(5, 1, 3, 3, 3))

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.nn.functional.conv3d(x, kernel, padding=1), 1)

    volume, tile = noise(shape, 1), (16, 16, 24)
    theirs = sliding_window_inference(
        torch.from_numpy(volume)[None, None], tile, 1, network, overlap=overlap, mode=weighting
    )[0].numpy()
    tiling = Tiling.overlapping(shape, tile, overlap)
    for axis in range(3):
        ours = stitch(
            volume,
            tiling,
            lambda patches: network(torch.from_numpy(patches)).numpy(),
            weighting=weighting,
            axis=axis,
        )
        np.testing.assert_array_equal(ours.argmax(0), theirs.argmax(0))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        if axis == 0 and weighting == "constant":
            np.testing.assert_array_equal(ours, theirs)
