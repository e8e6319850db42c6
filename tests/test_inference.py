import subprocess
import sys

import numpy as np
import pytest

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.inference import Settings, choice, open_predictor
from c3s3_seg.phantom import simulate
from c3s3_seg.volume import Geometry


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
    monkeypatch.setattr(choice, "PACKAGES", {**choice.PACKAGES, "onnx": ("no_such_package", "pip install x")})
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
