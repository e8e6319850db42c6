import subprocess
import sys

import numpy as np
import pytest

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.inference import Settings, backends, open_predictor
from c3s3_seg.inference.predictor import _keep_largest
from c3s3_seg.inference.window import Tiling, softmax, stitch
from c3s3_seg.phantom import simulate
from c3s3_seg.volume import Geometry


def copy(patches: np.ndarray) -> np.ndarray:
    """A network that says what it sees: two channels, the input and its negative."""
    return np.concatenate([patches, -patches], axis=1)


@pytest.mark.parametrize("shape", [(50, 33, 20), (16, 16, 16), (1, 1, 1), (5, 100, 17)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_stitching_gives_back_every_voxel(shape: tuple[int, int, int], overlap: float) -> None:
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    answer = stitch(volume, Tiling.overlapping(shape, (16, 16, 16), overlap), copy)
    np.testing.assert_allclose(answer, [volume, -volume], atol=2e-4)  # sums of up to 700 tiles


def test_the_whole_volume_is_one_tile() -> None:
    tiling = Tiling.whole((50, 33, 16), 16)
    assert tiling.shape == (64, 48, 16)
    assert len(tiling) == 1
    volume = np.ones((50, 33, 16), np.float32)
    np.testing.assert_array_equal(stitch(volume, tiling, copy)[0], volume)


def test_tiles_overlap_at_least_as_asked() -> None:
    tiling = Tiling.overlapping((100, 64, 48), (64, 64, 48), 0.5)
    assert tiling.starts == ((0, 32, 36), (0,), (0,))


def test_progress_counts_tiles() -> None:
    told: list[tuple[int, int]] = []
    tiling = Tiling.overlapping((40, 16, 16), (16, 16, 16), 0.5)
    stitch(np.zeros((40, 16, 16), np.float32), tiling, copy, lambda n, total: told.append((n, total)))
    assert told == [(n, 4) for n in (1, 2, 3, 4)]


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 0.0]], np.float32)), [[1, 0]])


def test_the_largest_component_stays() -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[1:4, 1:4, 1:4] = 2
    mask[4, 4, 4] = 2  # touches at a corner only: another component
    mask[6:8, 6:8, 6:8] = 1
    _keep_largest(mask, 2)
    assert (mask == 2).sum() == 27
    assert (mask == 1).sum() == 8
    _keep_largest(mask, 5)  # absent: nothing happens
    assert (mask == 2).sum() == 27


@pytest.fixture(scope="module")
def phantom():
    return simulate(20_261)


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.find("phantom")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_an_unseen_phantom_is_segmented_in_its_own_geometry(bundle, phantom) -> None:
    prediction = open_predictor(bundle, backend="openvino")(phantom.scan)
    assert prediction.mask.geometry is phantom.scan.geometry
    assert dice(prediction.mask.array > 0, phantom.truth.array > 0) >= 0.95
    count = int((prediction.mask.array == 1).sum())
    assert prediction.volume_ml["left_atrium"] == pytest.approx(count * phantom.scan.geometry.voxel_ml)


def test_every_runtime_gives_the_same_mask(bundle, phantom) -> None:
    masks = {
        name: open_predictor(bundle, backend=name)(phantom.scan).mask.array
        for name in ("openvino", "onnx", "torch")
    }
    for name in ("onnx", "torch"):
        assert (masks[name] != masks["openvino"]).sum() <= 2, name


def test_tiles_ensemble_and_probabilities(bundle, phantom) -> None:
    settings = Settings(overlap=0.5, probabilities=True)
    prediction = open_predictor(bundle, settings=settings, ensemble=True)(phantom.scan)
    assert prediction.tiles > 1
    probability = prediction.probabilities["left_atrium"].array
    assert probability.shape == phantom.scan.array.shape
    assert 0 <= probability.min() <= probability.max() <= 1.0001
    inside = prediction.mask.array > 0
    assert (probability[inside] > 0.5).all()
    assert dice(inside, phantom.truth.array > 0) >= 0.93


@pytest.mark.parametrize("shape", [(1, 1, 1), (200, 180, 1), (3, 40, 40)])
def test_odd_shapes_work(bundle, shape: tuple[int, int, int]) -> None:
    scan = Geometry.build(shape, (1.5, 1.5, 1.5)).volume(np.random.default_rng(0).normal(size=shape))
    assert open_predictor(bundle)(scan).mask.array.shape == shape


def test_a_flat_scan_works(bundle) -> None:
    scan = Geometry.build((40, 40, 40), (1.5, 1.5, 1.5)).volume(np.zeros((40, 40, 40), np.int16))
    assert open_predictor(bundle)(scan).mask.array.dtype == np.uint8


def test_turning_the_voxels_does_not_move_the_mask(bundle, phantom) -> None:
    """The same scan stored with other axes: the same mask in mm."""
    geometry = phantom.scan.geometry
    affine = geometry.affine @ np.array(
        [[0, 0, -1, geometry.shape[0] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]
    )
    turned = np.flip(phantom.scan.array, 0).transpose(1, 2, 0)
    scan = Geometry(turned.shape, affine).volume(turned)
    predictor = open_predictor(bundle)
    here, there = predictor(phantom.scan).mask.array, predictor(scan).mask.array
    assert (np.flip(here, 0).transpose(1, 2, 0) != there).sum() <= 2


def test_what_cannot_be_had_is_an_error(bundle, monkeypatch) -> None:
    monkeypatch.setattr(
        backends, "PACKAGES", {**backends.PACKAGES, "onnx": ("no_such_package", "pip install x")}
    )
    with pytest.raises(
        MissingError, match=r"backend 'onnx' needs no_such_package, which is not installed\. pip install x"
    ):
        open_predictor(bundle, backend="onnx")


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="holds one network"):
        open_predictor(single(ModelBundle.find("phantom")), ensemble=True)


def single(bundle: ModelBundle) -> ModelBundle:
    from dataclasses import replace

    return replace(bundle, manifest=replace(bundle.manifest, networks=bundle.networks[:1]))


def test_prediction_through_openvino_never_imports_torch() -> None:
    code = """
import sys
import numpy as np
from c3s3_seg import Geometry, ModelBundle, open_predictor
scan = Geometry.build((48, 48, 48), (2, 2, 2)).volume(np.zeros((48, 48, 48)))
open_predictor(ModelBundle.find("phantom"), backend="openvino")(scan)
unwanted = ("torch", "onnx", "onnxruntime", "pydicom", "SimpleITK")
print([name for name in unwanted if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
