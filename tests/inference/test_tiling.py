import numpy as np
import pytest
from helpers.threshold import Threshold

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.inference import Settings
from c3s3_seg.inference.memory import Costs
from c3s3_seg.inference.tiled_network import TiledNetwork
from c3s3_seg.inference.tiling import LEAST_WEIGHT, Tiling, importance, softmax


def test_the_whole_volume_is_one_tile() -> None:
    tiling = Tiling.whole((50, 33, 16), (16, 16, 16))
    assert tiling.shape == tiling.tile == (64, 48, 16)
    assert len(tiling) == 1


def test_tiles_overlap_at_least_as_asked() -> None:
    tiling = Tiling.overlapping((100, 64, 48), (64, 64, 48), 0.5)
    assert tiling.starts == ((0, 32, 36), (0,), (0,))


def test_tiles_overlap_by_half_unless_told_otherwise() -> None:
    """The network takes no more than one tile of the training size at once."""
    task = Task("x", "MR", (Label("a", 1),), Recipe((1.0, 1.0, 1.0)), (16, 16, 16))
    backend = Threshold(0.5)
    backend.largest_tile = (16, 16, 16)  # type: ignore[attr-defined]
    for settings, starts in ((Settings(), (0, 8, 16, 24)), (Settings(overlap=0.25), (0, 12, 24))):
        tiled = TiledNetwork(task, (backend,), settings, Costs(0, 0.0))
        assert tiled(np.zeros((40, 16, 16), np.float32), 1).tiling.starts[0] == starts


def test_a_stride_in_voxels() -> None:
    tiling = Tiling.stepping((96, 71, 44), (64, 64, 48), (18, 18, 4))
    assert tiling.starts == ((0, 18, 32), (0, 7), (0,))
    assert tiling.shape == (96, 71, 48)


def test_the_stream_runs_along_the_first_axis_unless_another_halves_the_memory() -> None:
    assert Tiling.overlapping((512, 512, 300), (112, 112, 80), 0.5).axis == 0
    long = Tiling.overlapping((100, 100, 1000), (64, 64, 48), 0.5)
    assert long.axis == 2
    assert long.buffered == 100 * 100 * 48


def test_layers_are_the_tiles_in_their_order() -> None:
    tiling = Tiling.overlapping((40, 30, 20), (16, 16, 16), 0.5)
    layers = [tile for start in tiling.starts[0] for tile in tiling.layer(start, 0)]
    assert layers == list(tiling.slices())
    assert len(layers) == len(tiling)


@pytest.mark.slow
@pytest.mark.parametrize("tile", [(16, 16, 16), (64, 64, 48), (1, 5, 2)])
def test_gaussian_weights_are_those_of_monai(tile: tuple[int, int, int]) -> None:
    pytest.importorskip("monai")
    from monai.data.utils import compute_importance_map

    ours = importance(tile, "gaussian")
    assert ours is not None
    np.testing.assert_allclose(ours, compute_importance_map(tile, "gaussian").numpy(), rtol=1e-5)
    assert ours.min() >= LEAST_WEIGHT
    assert importance(tile, "constant") is None


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 0.0]], np.float32)), [[1, 0]])


def test_softmax_leaves_what_may_not_be_written() -> None:
    logits = np.array([[1.0, 0.0]], np.float32)
    logits.setflags(write=False)
    np.testing.assert_allclose(softmax(logits).sum(), 1)
    np.testing.assert_array_equal(logits, [[1, 0]])
