"""Every shipped model gives the same labels whether the steps around the network run in numpy or in torch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.both_ways import BOUND, assert_same_labels, both_ways
from helpers.command import run

from c3s3_seg import ModelBundle, Predictor, Volume, load, load_mask, save
from c3s3_seg.bundle.preprocessing import Intensity
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference import Settings
from c3s3_seg.phantom import Simulator, simulate

ANY: dict[str, Any] = {"allow_out_of_domain": True}
SMALL = Simulator(shape=(60, 56, 34), spacing_mm=(1.2, 1.0, 1.3))  # each model finds something in it


@pytest.fixture(scope="module")
def scan() -> Volume:
    return simulate(20_261, SMALL).scan


@pytest.fixture(scope="module")
def phantom() -> ModelBundle:
    return ModelBundle.find("phantom")


@pytest.mark.parametrize("name", ["phantom", pytest.param("left-atrium", marks=pytest.mark.slow),
                                  pytest.param("hippocampus", marks=pytest.mark.slow)])  # fmt: skip
def test_simulated_scans(name: str, scan: Volume) -> None:
    assert_same_labels(ModelBundle.find(name), scan)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("name", "folder"), [("left-atrium", "la"), ("hippocampus", "hippocampus")])
def test_real_scans(name: str, folder: str, shared_data: Path) -> None:
    """The phantom's model is tested below, on a real atrium, for which it was not trained."""
    path = sorted((shared_data / folder / "imagesTr").glob("*.nii.gz"))[0]
    assert_same_labels(ModelBundle.find(name), load(path))


@pytest.mark.slow
@pytest.mark.data
def test_a_real_scan_in_the_model_of_the_phantom(shared_data: Path) -> None:
    path = sorted((shared_data / "la" / "imagesTr").glob("*.nii.gz"))[1]
    assert_same_labels(ModelBundle.find("phantom"), load(path))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(overlap=0.25, weighting="gaussian"),
        Settings(overlap=0.0, mirroring=(1,)),
        Settings(memory_bytes=700_000_000),
    ],
    ids=["gaussian", "mirrored", "the largest tiles that fit"],
)
def test_tiles(settings: Settings, phantom: ModelBundle, scan: Volume) -> None:
    assert_same_labels(phantom, scan, settings)


def test_other_axes_other_numbers(phantom: ModelBundle, scan: Volume) -> None:
    """Reordered and reversed axes, big-endian read-only arrays and an offset do not change the labels."""
    affine = scan.geometry.affine @ np.array(
        [[0, 0, -1, scan.geometry.shape[0] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]
    )
    turned = np.flip(scan.array, 0).transpose(1, 2, 0)
    grid = Geometry((turned.shape[0], turned.shape[1], turned.shape[2]), affine)
    plain = assert_same_labels(phantom, grid.volume(turned)).mask.array
    swapped = np.round(turned).astype(">i2")
    swapped.flags.writeable = False
    assert (assert_same_labels(phantom, grid.volume(swapped)).mask.array == plain).mean() > 0.99
    moved = assert_same_labels(phantom, grid.volume(turned.astype(np.float64) + 1e8)).mask.array
    assert (moved == plain).mean() > 0.999


def test_what_comes_back_beside_the_mask(phantom: ModelBundle, scan: Volume) -> None:
    """Probabilities, the map of the networks' differences and the numbers derived from it agree."""
    settings = Settings(probabilities=True, uncertainty=True, fill_holes=True)
    host, device = (predictor(scan, **ANY) for predictor in both_ways(phantom, settings))
    for name, volume in host.probabilities.items():
        np.testing.assert_allclose(device.probabilities[name].array, volume.array, rtol=0, atol=BOUND)
    assert host.uncertainty is not None
    assert device.uncertainty is not None
    np.testing.assert_allclose(device.uncertainty.map.array, host.uncertainty.map.array, rtol=0, atol=BOUND)
    assert device.uncertainty.hd95_mm == pytest.approx(host.uncertainty.hd95_mm, abs=0.05)
    assert device.volume_ml == pytest.approx(host.volume_ml, rel=1e-4)


def test_networks_are_averaged(phantom: ModelBundle, scan: Volume) -> None:
    host, device = (one(scan, **ANY).mask.array for one in both_ways(phantom, ensemble=True))
    assert host.any()
    assert (host != device).mean() < 1e-4


def test_onnx_runtime_reads_and_writes_the_memory_of_torch(phantom: ModelBundle, scan: Volume) -> None:
    host, device = both_ways(phantom, Settings(overlap=0.25), "onnx")
    assert device.record()["on_device"] is True
    masks = [predictor(scan, **ANY).mask.array for predictor in (host, device)]
    assert masks[0].any()
    assert (masks[0] != masks[1]).mean() < 1e-5


def test_what_the_host_refuses_the_device_refuses(phantom: ModelBundle, scan: Volume) -> None:
    """All intensities lie below the window, so that the network would see a flat volume."""
    recipe = replace(phantom.task.recipe, intensity=Intensity("window", 1e6, 2e6))
    task, told = replace(phantom.task, recipe=recipe, domain=None), []
    for predictor in both_ways(phantom):
        changed = Predictor(task, predictor.backends, predictor.settings)
        with pytest.raises(InputError, match="no spread left") as caught:
            changed(scan)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_tiles_are_the_same_on_both(phantom: ModelBundle, scan: Volume) -> None:
    settings = Settings(memory_bytes=700_000_000)
    host, device = (
        one.network(one.prepare(one.check(scan, **ANY))).tiling for one in both_ways(phantom, settings)
    )
    assert host == device


@pytest.mark.slow
def test_a_batch_says_which_way_the_mask_was_made(scan: Volume, tmp_path: Path) -> None:
    """Three cases let reading, network and writing of neighbouring cases overlap."""
    (tmp_path / "scans").mkdir()
    for number in range(3):
        save(scan, tmp_path / "scans" / f"{number}.nii.gz")
    masks = {}
    for word in ("true", "false"):
        out = tmp_path / word
        words = ["--model", "phantom", "--backend", "torch", "--device", "cpu", "--allow-out-of-domain"]
        found = run("predict", tmp_path / "scans", "-o", out, *words, "--set", f"network.on_device={word}")
        assert found.returncode == 0, found.stderr
        facts = json.loads((out / "1.json").read_text())
        assert facts["made_with"]["on_device"] is (word == "true")
        masks[word] = [load_mask(out / f"{number}.nii.gz").array for number in range(3)]
    for a, b in zip(*masks.values(), strict=True):
        assert a.any()
        assert (a != b).mean() < 1e-5
