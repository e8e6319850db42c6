"""Crops centred by label, and labels that are not learnt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import save
from c3s3_seg.training.cases import TrainingCase, read_case
from c3s3_seg.training.checks import check_cases
from c3s3_seg.training.config import TrainConfig, build_config
from c3s3_seg.training.data import FOCUS, Sampler
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.history import LAG, UNLEARNT, History, scored
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.run import Run
from c3s3_seg.training.settings import AugmentConfig, DataConfig
from c3s3_seg.training.train import train
from c3s3_seg.training.validation import Validation

LABELS = ({"name": "core", "value": 1}, {"name": "middle", "value": 2}, {"name": "shell", "value": 5})


def config(folder: Path, **run: object) -> TrainConfig:
    task = {"name": "layers", "modality": "CT", "patch": [32, 32, 32], "labels": list(LABELS)}
    task["recipe"] = {
        "spacing_mm": [1.5, 1.5, 1.5],
        "intensity": {"rule": "window", "low": -100, "high": 300},
    }
    networks = {"a": {"filters": 2}, "b": {"filters": 2}, "dropout": 0.0}
    data = {"folder": str(folder), "foreground_by": "label"}
    rest = {"run": {"iterations": 2, "labelled_batch": 1, "precision": "float32", **run}}
    return build_config(
        {"task": task, "method": "supervised", "data": data, "networks": networks, **rest}, [], ""
    )


def test_a_case_knows_the_voxels_of_each_label(layers_data: Path) -> None:
    found = config(layers_data)
    data, _ = read_splits(found.data)
    case = read_case(data, "layers-0", found.task, labelled=True)
    assert list(case.by_label) == ["core", "middle", "shell"]
    assert sum(map(len, case.by_label.values())) == len(case.foreground)
    for number, voxels in enumerate(case.by_label.values(), start=2):
        x, y, z = voxels.T
        assert (case.stack[2:, x, y, z].argmax(dim=0) == number - 2).all()


def test_a_label_thinner_than_half_a_voxel_is_drawn_too(tmp_path: Path) -> None:
    """A vessel of 1 x 1 x 16 mm fills a quarter of each voxel of 2 mm that it runs through."""
    grid = Geometry.build((16, 16, 16))
    truth = np.zeros(grid.shape, np.uint8)
    truth[:6] = 1
    truth[10, 12] = 2
    for folder, array in (
        ("imagesTr", np.random.default_rng(0).normal(size=grid.shape)),
        ("labelsTr", truth),
    ):
        (tmp_path / folder).mkdir()
        save(grid.volume(array), tmp_path / folder / "one.mha")
    data = DataSet(tmp_path, "vessels", "MR", {"organ": 1, "vessel": 2}, Splits(("one",)))
    labels = (Label("organ", 1), Label("vessel", 2), Label("absent", 3))
    found = config(tmp_path)
    found = replace(found, task=Task("vessels", "MR", labels, Recipe((2.0, 2.0, 2.0)), (8, 8, 8)))
    case = read_case(data, "one", found.task, labelled=True)
    assert list(case.by_label) == ["organ", "vessel"]
    assert case.by_label["vessel"].tolist() == [[5, 6, z] for z in range(8)]
    assert len(case.foreground) == sum(map(len, case.by_label.values())) == 3 * 64 + 8
    (warning,) = [text for text in check_cases(found, data, [case], []) if "half" in text]
    assert warning.startswith("no voxel of the model's grid is more than half vessel (2)")
    finer = replace(found.task, recipe=Recipe((1.0, 1.0, 1.0)))
    case = read_case(data, "one", finer, labelled=True)
    assert not [text for text in check_cases(found, data, [case], []) if "half" in text]


def shares(focus: tuple[str, ...], by: str) -> list[float]:
    """Return the shares of crops centred on each of two labels, of which the first has 1 % of the voxels."""
    small, large = torch.tensor([[5, 5, 5]]), torch.tensor([[20, 20, 20]]).expand(99, 3)
    case = TrainingCase(
        torch.zeros(1, 32, 32, 32),
        torch.cat([small, large]),
        torch.ones(3),
        by_label={"small": small, "large": large},
    )
    task = replace(config(Path()).task, patch=(2, 2, 2))
    data = DataConfig("", foreground_crops=1.0, foreground_by=by)  # type: ignore[arg-type]
    draw = Sampler([case], [], task=task, data=data, augment=AugmentConfig(), seed=0)
    random = torch.Generator().manual_seed(0)
    size = torch.tensor([32, 32, 32])
    sides = torch.tensor(task.patch)
    drawn = torch.stack([draw._centre(case, size, sides, focus, random) for _ in range(800)])
    return [float((drawn[:, 0] < 10).float().mean()), float((drawn[:, 0] > 10).float().mean())]


@pytest.mark.parametrize(
    ("focus", "by", "expected"),
    [
        ((), "voxel", 0.01),
        ((), "label", 0.5),
        (("small",), "label", FOCUS / (FOCUS + 1)),
        (("small",), "voxel", 0.01),
    ],
)
def test_how_often_a_small_label_is_shown(focus: tuple[str, ...], by: str, expected: float) -> None:
    """The tolerance is four standard deviations of a binomial share of 800 draws."""
    small, large = shares(focus, by)
    assert small + large == pytest.approx(1)
    assert small == pytest.approx(expected, abs=4 * (0.25 / 800) ** 0.5)


def validation(candidate: str, **dice: float) -> Validation:
    per_case = {"case": {name: {"dice": value, "hd95_vox": 1.0} for name, value in dice.items()}}
    return Validation(candidate, 0.5, 0.4, 1.0, 1.0, per_case)


def test_unlearnt_is_what_no_network_finds_at_the_last_validation() -> None:
    records = [
        scored(validation("vnet", core=UNLEARNT - 0.01, shell=0.9), 10),
        scored(validation("resvnet", core=0.1, shell=0.1), 10),
        scored(validation("vnet", core=UNLEARNT, shell=0.9), 20),
        scored(validation("resvnet", core=0.1, shell=0.9), 20),
    ]
    history = History(records)
    assert [history.unlearnt(n) for n in (9, 10, 19, 20)] == [(), ("core",), ("core",), ()]


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warned(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.slow
def test_what_is_not_learnt_is_named_and_shown_more_often(layers_data: Path, tmp_path: Path) -> None:
    """Two iterations teach nothing; a resumed run draws crops by the validations of the run it resumes."""
    told = Told()
    settings = config(layers_data, iterations=2, validate_every=1, checkpoint_every=1)
    bundle = train(settings, tmp_path / "run", told)
    early = [line for line in told.lines if "crops show it 3 times as often" in line]
    assert any(line.startswith("core is not learnt yet") for line in early)
    assert any(line.startswith("core is not learnt: ") or "has not learnt" in line for line in told.lines)
    assert not any("yet" in text for text in bundle.manifest.training["warnings"])
    run = Run(settings, tmp_path / "run")
    run.restore()
    assert run.focus(1 + LAG)
    assert run.focus(LAG) == ()
