"""Ten slices of 10 mm, as in short-axis cine: an axis is not halved until the others are as coarse."""

from pathlib import Path

import numpy as np
import pytest
import torch

from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.errors import ConfigError
from c3s3_seg.export.export import export_in_bundle
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference import Settings, open_predictor
from c3s3_seg.io import load, save
from c3s3_seg.models import BACKBONES, build
from c3s3_seg.models.strides import EVEN, kernels_of, strides_of
from c3s3_seg.training.cases import TrainingCase
from c3s3_seg.training.config import TrainConfig, build_config
from c3s3_seg.training.data import Sampler, Views
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.planning.builder import ConfigBuilder
from c3s3_seg.training.planning.plan import from_data
from c3s3_seg.training.planning.statistics import measure
from c3s3_seg.training.settings import AugmentConfig, DataConfig
from c3s3_seg.training.train import train

SPACING = (1.5, 1.5, 10.0)
STRIDES = [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 2 labelled, 1 unlabelled and 1 validation case: a bright ball of 25 mm, 40 x 40 x 10 voxels."""
    folder = tmp_path_factory.mktemp("cine")
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    names = tuple(f"heart-{n}" for n in range(4))
    random = np.random.default_rng(5)
    geometry = Geometry.build((40, 40, 10), SPACING)
    for name in names:
        offsets = (np.moveaxis(np.indices(geometry.shape), 0, -1) - (19.5, 19.5, 4.5)) * SPACING
        mask = (np.linalg.norm(offsets, axis=-1) < random.uniform(20, 30)).astype(np.uint8)
        image = (100 * mask + random.normal(100, 15, geometry.shape)).astype(np.float32)
        save(geometry.volume(image), folder / "imagesTr" / f"{name}.nii.gz")
        save(geometry.volume(mask), folder / "labelsTr" / f"{name}.nii.gz")
    splits = Splits(names[:2], names[2:3], names[3:])
    DataSet(folder, "Cine", "MR", {"heart": 1}, splits).save()
    return folder


def config(folder: Path, *overrides: str) -> TrainConfig:
    task = {
        "name": "cine",
        "modality": "MR",
        "patch": [32, 32, 8],
        "labels": [{"name": "heart", "value": 1}],
        "recipe": {"spacing_mm": list(SPACING)},
        "strides": STRIDES,
    }
    networks = {"a": {"filters": 2}, "b": {"filters": 2}, "dropout": 0.0}
    data = {"task": task, "method": "c3s3", "data": {"folder": str(folder)}, "networks": networks}
    data |= {"run": {"iterations": 8}, "c3s3": {"warm_up": 4}, "augment": {"elastic_mm": 2.0}}
    return build_config(data, overrides, "cine.toml")


@pytest.mark.slow
def test_ten_slices_stay_ten(cine: Path, tmp_path: Path) -> None:
    """In training, export and prediction the network sees 12 slices in one tile, not 32."""
    bundle = train(config(cine, "method=supervised"), tmp_path / "run", Silent())
    scan = load(cine / "imagesTr" / "heart-3.nii.gz")
    exported, proofs = export_in_bundle(bundle, [scan])
    assert len(proofs) == 1
    settings = Settings(probabilities=True)
    first, second = (
        open_predictor(exported, backend=name, settings=settings)(scan) for name in ("torch", "onnx")
    )
    assert first.tile == second.tile == (48, 48, 12)
    assert first.mask.geometry.matches(scan.geometry)
    ours, theirs = (answer.probabilities["heart"].array for answer in (first, second))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.patch=[32, 32, 10]", r"task\.patch = \[32, 32, 10\]: wanted multiples of \(16, 16, 4\)"),
        ("task.strides=[[2, 2, 1], [2, 2, 1]]", r"task\.strides"),
        ("task.strides=[[2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1]]", "halve one axis at least"),
        ("task.strides=[[2, 2, 3], [2, 2, 2], [2, 2, 2], [2, 2, 2]]", r"strides\.0\.2 = 3: wanted 1 or 2"),
    ],
)
def test_what_does_not_fit_is_refused(cine: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(cine, override)


def test_strides_follow_the_spacing() -> None:
    assert [list(level) for level in strides_of(SPACING)] == STRIDES
    assert set(strides_of((1.0, 1.2, 1.9))) == {(2, 2, 2)}
    assert strides_of((0.7, 0.7, 10.0))[:3] == ((2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert strides_of((5.0, 1.0, 1.0))[0] == (1, 2, 2)
    # An axis of six slices, or one, is never halved, and does not keep the other axes from being halved.
    assert set(strides_of((1.0, 1.0, 1.0), (200, 200, 6))) == {(2, 2, 1)}
    assert set(strides_of((1.0, 1.1, 1.2), (1, 200, 200))) == {(1, 2, 2)}


def test_an_axis_keeps_four_voxels_and_kernels_follow() -> None:
    """nnU-Net 2 plans for ten slices of 10 mm: strides 1, 1, 2, 1 and kernels 1, 1, 3, 3, 3 across slices."""
    strides = strides_of(SPACING, (150, 140, 10))
    assert [stride[2] for stride in strides] == [1, 1, 2, 1]
    assert [kernel[2] for kernel in kernels_of(strides)] == [1, 1, 3, 3, 3]
    assert strides_of(SPACING, (40, 40, 4))[3] == (2, 2, 2)  # each level halves an axis
    assert set(kernels_of(EVEN)) == {(3, 3, 3)}


@pytest.mark.parametrize("architecture", sorted(BACKBONES))
def test_finest_maps_do_not_look_across_thick_slices(architecture: str) -> None:
    """In the first convolutions, before maps are halved, a slice does not change its neighbours."""
    strides = strides_of(SPACING, (150, 140, 10))
    torch.manual_seed(0)
    net = build(architecture, channels=1, classes=2, filters=8, strides=strides).eval()
    x = torch.zeros(1, 1, 32, 32, 10)
    y = x.clone()
    y[..., 4] = 1.0
    with torch.no_grad():
        changed = (net.encode(x)[0] != net.encode(y)[0]).any(dim=1)[0].any(dim=(0, 1))
    assert changed.nonzero().flatten().tolist() == [4]


def thick(case: TrainingCase, patch: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Return a crop of the case with strong geometric augmentation within slices."""
    augment = AugmentConfig(rotation_rad=1.0, scale=(0.8, 1.3), elastic_mm=4.0, slice_axis=2)
    task = config(Path(), f"task.patch={list(patch)}").task
    draw = Sampler([case], [], task=task, data=DataConfig("", foreground_crops=0.0), augment=augment, seed=0)
    return draw._crop(case, Views(1), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("slices", "patch"), [(10, 12), (10, 8), (9, 8), (9, 12)])
def test_augmentation_within_slices_never_mixes_two(slices: int, patch: int) -> None:
    numbers = torch.arange(1.0, slices + 1).expand(1, 128, 128, slices)
    case = TrainingCase(numbers, torch.zeros(0, 3), torch.tensor(SPACING))
    for seed in range(5):
        crop = thick(case, (32, 32, patch), seed)[0]
        inner = crop[12:20, 12:20].flatten(0, 1)
        values = inner.amax(dim=0)
        torch.testing.assert_close(inner, values.expand_as(inner))
        torch.testing.assert_close(values, values.round())
        there = values[values > 0]
        torch.testing.assert_close(there.diff(), torch.ones(len(there) - 1))
        assert len(there) == min(slices, patch)


def test_pairs_of_crops_begin_at_whole_slices() -> None:
    """This holds for any distance of the crops, including odd numbers of slices."""
    numbers = torch.arange(1.0, 21).expand(1, 64, 64, 20)
    case = TrainingCase(numbers, torch.zeros(0, 3), torch.tensor(SPACING))
    still = {"gain": 0.0, "offset": 0.0, "noise": 0.0, "gamma": (1.0, 1.0)}
    augment = AugmentConfig(rotation_rad=1.0, scale=(0.9, 1.1), slice_axis=2, **still)  # type: ignore[arg-type]
    task = config(Path()).task
    draw = Sampler([case], [case], task=task, data=DataConfig(""), augment=augment, seed=0)
    odd = 0
    for iteration in range(12):
        batch = draw.batch(iteration, Views(1, 1, shift=0.4))
        odd += batch.offsets[0][2] % 2
        for view in batch.views:
            values = view[0, 0, 16, 16]
            torch.testing.assert_close(values, values.round())
            torch.testing.assert_close(values.diff(), torch.ones(7))
    assert odd


def planned(folder: Path, *overrides: str) -> ConfigBuilder:
    draft, data = ConfigBuilder(overrides), DataSet.load(folder)
    from_data(draft, data, data.splits, measure(data, data.splits, lambda *_: None, 60.0))
    return draft


def test_a_plan_proposes_them_and_a_crop_that_fits(cine: Path, toy_data: Path) -> None:
    draft = planned(cine)
    assert draft["task.strides"] == STRIDES
    assert all(side % n == 0 for side, n in zip(draft["task.patch"], (16, 16, 4), strict=True))
    assert draft["task.patch"][2] <= 12
    assert draft["augment.slice_axis"] == 2
    assert "augment.slice_axis" not in planned(toy_data)
    assert "task.strides" not in planned(toy_data)
    by_hand = planned(cine, f"task.strides={[[2, 2, 2]] * 4}")
    assert by_hand["task.patch"][2] % 16 == 0
