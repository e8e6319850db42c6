"""Shared fixtures: small volumes with known content, and the real scans if they are available."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.bundle import Label, ModelBundle, Network, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.geometry.volume import Geometry, Volume

pytest_plugins = ["helpers.dicom_seg", "helpers.reports"]  # fixtures of several files
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """Exclude the half a million objects of libraries and tests, which stay, from garbage collection."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason=f"the real scans are not at {SHARED_DATA}")
    for item in items:
        if item.get_closest_marker("data"):  # not `keywords`: a clone's folder may be named `data`
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return SHARED_DATA


def rotation(degrees_x: float, degrees_y: float, degrees_z: float) -> np.ndarray:
    """Return the matrix (3, 3) of a rotation about x, then y, then z."""
    ax, ay, az = np.radians([degrees_x, degrees_y, degrees_z])
    cx, cy, cz, sx, sy, sz = np.cos(ax), np.cos(ay), np.cos(az), np.sin(ax), np.sin(ay), np.sin(az)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)


@pytest.fixture
def oblique() -> Volume:
    """Return an asymmetric int16 ramp with a bright corner block, on an oblique grid of three spacings."""
    geometry = Geometry.build((20, 16, 12), (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), rotation(12, -20, 30))
    i, j, k = np.indices(geometry.shape)
    array = (i + 20 * j + 320 * k).astype(np.int16)
    array[2:6, 3:9, 1:4] = 9000
    return geometry.volume(array)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data set of balls in noise: 2 labelled, 2 unlabelled, 1 validation case; 40 x 36 x 34."""
    from c3s3_seg.io import save

    folder = tmp_path_factory.mktemp("toy")
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    names = [f"ball-{n}" for n in range(5)]
    random = np.random.default_rng(7)
    for name in names:
        geometry = Geometry.build((40, 36, 34), (1.0, 1.1, 1.2), (5.0, -20.0, 30.0))
        centre = np.array(geometry.shape) / 2 + random.uniform(-4, 4, 3)
        distance = np.linalg.norm(np.moveaxis(np.indices(geometry.shape), 0, -1) - centre, axis=-1)
        mask = (distance < random.uniform(7, 11)).astype(np.uint8)
        image = (100 * mask + random.normal(100, 15, geometry.shape)).astype(np.float32)
        save(geometry.volume(image), folder / "imagesTr" / f"{name}.nii.gz")
        save(geometry.volume(mask), folder / "labelsTr" / f"{name}.nii.gz")
    splits = {"labelled": names[:2], "unlabelled": names[2:4], "validation": names[4:]}
    (folder / "dataset.json").write_text(json.dumps(splits))
    return folder


@pytest.fixture
def small_scans(tmp_path: Path) -> Path:
    """Write five scans of 24 x 20 x 16 voxels with a blob each, which the phantom bundle segments quickly."""
    from c3s3_seg.io import save

    folder = tmp_path / "scans"
    folder.mkdir()
    for n in range(5):
        save(small_scan(n), folder / f"case-{n}.nii.gz")
    return folder


def small_scan(seed: int) -> Volume:
    random = np.random.default_rng(seed)
    geometry = Geometry.build((24, 20, 16), (2.0, 2.0, 2.0), (10.0 * seed, 0.0, 0.0))
    distance = np.linalg.norm(np.moveaxis(np.indices(geometry.shape), 0, -1) - (12, 10, 8), axis=-1)
    return geometry.volume((random.normal(100, 10, geometry.shape) + 200 * (distance < 5)).astype(np.float32))


@pytest.fixture(scope="session")
def toy_config(toy_data: Path) -> Path:
    """Return a configuration that trains two tiny networks on the toy data: 8 iterations, in seconds."""
    return _toy(toy_data, "toy.toml", [32, 32, 32])


@pytest.fixture(scope="session")
def small_crops(toy_data: Path) -> Path:
    """Return the same with crops of a quarter of the size, for tests whose values do not depend on it."""
    return _toy(toy_data, "small-crops.toml", [32, 16, 16])


def _toy(data: Path, name: str, patch: list[int]) -> Path:
    path = data / name
    path.write_text(
        f"""
        method = "c3s3"
        [task]
        name = "toy"
        modality = "MR"
        patch = {patch}
        labels = [{{ name = "ball", value = 1 }}]
        recipe = {{ spacing_mm = [1.5, 1.5, 1.5] }}
        [data]
        folder = "{data}"
        [networks]
        a.filters = 2
        b.filters = 2
        [c3s3]
        warm_up = 3
        [augment]
        elastic_mm = 1.0
        bias = 0.1
        [run]
        iterations = 8
        validate_every = 4
        checkpoint_every = 2
        """
    )
    return path


@pytest.fixture(scope="session")
def layers_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a CT-like data set of balls in three layers, labels 1, 2, 5: 4 labelled cases, 1 for validation.

    Soft tissue has 40, the layers have 60, 120 and 180 Hounsfield units, in air; 40 x 36 x 34 voxels.
    """
    from c3s3_seg.dataset import DataSet, Splits
    from c3s3_seg.io import save

    folder = tmp_path_factory.mktemp("layers")
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    names = tuple(f"layers-{n}" for n in range(5))
    random = np.random.default_rng(3)
    for name in names:
        geometry = Geometry.build((40, 36, 34), (1.0, 1.1, 1.2), (5.0, -20.0, 30.0))
        centre = np.array(geometry.shape) / 2 + random.uniform(-2, 2, 3)
        distance = np.linalg.norm(np.moveaxis(np.indices(geometry.shape), 0, -1) - centre, axis=-1)
        mask = np.select([distance < 5, distance < 8, distance < 11], [1, 2, 5], 0).astype(np.uint8)
        levels = np.select([mask == 1, mask == 2, mask == 5, distance < 16], [180, 120, 60, 40], -1000)
        image = (levels + random.normal(0, 10, geometry.shape)).round().astype(np.int16)
        save(geometry.volume(image), folder / "imagesTr" / f"{name}.nii.gz")
        save(geometry.volume(mask), folder / "labelsTr" / f"{name}.nii.gz")
    labels = {"core": 1, "middle": 2, "shell": 5}
    DataSet(folder, "Three Layers", "CT", labels, Splits(names[:4], (), names[4:])).save()
    return folder


@pytest.fixture(scope="session")
def two_nets(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle of a VNet and a ResVNet, random weights, 3 classes, 2 filters, 1 mm, patches of 32."""
    import torch

    from c3s3_seg.models import build
    from c3s3_seg.models.weights_format import to_bytes

    networks = (Network("model", "vnet", 2), Network("secondary", "resvnet", 2))
    task = Task("toy", "MR", (Label("a", 1), Label("b", 2)), Recipe((1.0, 1.0, 1.0)), (32, 32, 32))
    torch.manual_seed(0)
    files = {"README.md": b"# toy\n"}
    for n in networks:
        net = build(n.architecture, channels=1, classes=3, filters=n.filters)
        net(torch.randn(2, 1, 32, 32, 32))  # gives batch norms statistics of their own
        files[n.weights] = to_bytes(net)
    return ModelBundle.create(tmp_path_factory.mktemp("toy-bundle") / "b", task, files, networks, {})


@pytest.fixture(scope="session")
def companions(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle of one VNet with random weights that names another such bundle as its linked bundle."""
    import torch

    from c3s3_seg.models import build
    from c3s3_seg.models.weights_format import to_bytes

    folder = tmp_path_factory.mktemp("companions")
    network = Network("model", "vnet", 2)
    task = Task("first", "MR", (Label("a", 1),), Recipe((1.0, 1.0, 1.0)), (32, 32, 32))
    torch.manual_seed(1)
    for name in ("second", "first"):
        net = build("vnet", channels=1, classes=2, filters=2)
        net(torch.randn(2, 1, 32, 32, 32))
        made = ModelBundle.create(
            folder / name, replace(task, name=name), {network.weights: to_bytes(net)}, (network,), {}
        )
    return ModelBundle(made.folder, replace(made.manifest, linked_bundle="second")).add({})


@pytest.fixture(scope="session")
def noise() -> Volume:
    """Return a scan of 40 x 36 x 34 voxels of 1 mm with normal noise."""
    array = np.random.default_rng(0).normal(size=(40, 36, 34)).astype(np.float32)
    return Geometry.build(array.shape).volume(array)
