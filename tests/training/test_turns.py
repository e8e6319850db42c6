"""Flips, right-angle rotations and larger crops in training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import Generator, Tensor

from c3s3_seg.errors import ConfigError
from c3s3_seg.training.augment import draw_geometry
from c3s3_seg.training.cases import TrainingCase
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Sampler, Views
from c3s3_seg.training.settings import AugmentConfig, DataConfig

STILL = {"rotation_rad": 0.0, "scale": (1.0, 1.0)}
CUBE = (4, 4, 4)


def offsets(seed: int, **changes: object) -> Tensor:
    """Return the positions from which a crop of 4 x 4 x 4 voxels of 1 mm is read."""
    config = AugmentConfig(**STILL, **changes)  # type: ignore[arg-type]
    return draw_geometry(CUBE, torch.ones(3), config, Generator().manual_seed(seed))[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_is_exact_and_about_its_axis(axis: int) -> None:
    plain = offsets(0)
    others = [n for n in range(3) if n != axis]
    turns = [torch.rot90(plain, k, dims=others) for k in range(4)]  # the same points, in another order
    seen = set()
    for seed in range(40):
        found = offsets(seed, quarter_turns=(axis,))
        assert torch.equal(found[..., axis], plain[..., axis])
        (number,) = [k for k in range(4) if torch.equal(found, turns[k])]
        seen.add(number)
    assert seen == {0, 1, 2, 3}


def test_quarter_turns_and_flips_of_all_axes_reach_all_48_orientations() -> None:
    corners = [offsets(seed, quarter_turns=(0, 1, 2), flip_axes=(0, 1, 2)) for seed in range(1500)]
    seen = {tuple(c[1, 0, 0].tolist() + c[0, 1, 0].tolist() + c[0, 0, 1].tolist()) for c in corners}
    assert len(seen) == 48


def test_without_turns_nothing_is_drawn_for_them() -> None:
    """Later augmentations draw the same random numbers as before the option existed."""
    before, after = Generator().manual_seed(1), Generator().manual_seed(1)
    draw_geometry(CUBE, torch.ones(3), AugmentConfig(), before)
    draw_geometry(CUBE, torch.ones(3), AugmentConfig(quarter_turns=()), after)
    assert torch.equal(before.get_state(), after.get_state())
    draw_geometry(CUBE, torch.ones(3), AugmentConfig(quarter_turns=(0,)), after)
    draw_geometry(CUBE, torch.ones(3), AugmentConfig(), before)
    assert not torch.equal(before.get_state(), after.get_state())


@pytest.mark.parametrize(("axes", "spacing"), [((0, 1, 2), (1.0, 1.0, 1.0)), ((2,), (1.0, 1.25, 3.0))])
def test_a_turned_crop_stays_inside_its_scan(axes: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    """The scan is larger than the crop in any orientation, so no voxel outside (value 0) is read."""
    case = TrainingCase(torch.ones(1, 40, 44, 36), torch.zeros(0, 3), torch.tensor(spacing))
    task = replace(load_config(Path("left-atrium")).task, patch=(32, 16, 16))
    augment = AugmentConfig(**STILL, quarter_turns=axes)  # type: ignore[arg-type]
    draw = Sampler([case], [], task=task, data=DataConfig(""), augment=augment, seed=0)
    turned = 0
    for seed in range(40):
        crop = draw._crop(case, Views(1), Generator().manual_seed(seed))
        torch.testing.assert_close(crop, torch.ones(1, 32, 16, 16))
        _, sides = draw_geometry((32, 16, 16), case.spacing_mm, augment, Generator().manual_seed(seed))
        turned += sides.tolist() != [32, 16, 16]
    assert 0 < turned < 40


def test_targets_turn_with_their_image(small_crops: Path) -> None:
    """Balls are bright and off the middle of their scan."""
    draw = sampler(small_crops, quarter_turns=(0, 1, 2))
    batch = draw.batch(1, Views(4))
    inside = batch.target[:, 1] > 0.99
    assert inside.any()
    assert batch.views[0][:, 0][inside].mean() > batch.views[0][:, 0][~inside].mean() + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["augment.quarter_turns=[0, 0]"], r"quarter_turns = \[0, 0\]: wanted each axis once"),
        (["augment.flip_axes=[1, 1]"], r"flip_axes = \[1, 1\]: wanted each axis once"),
        (["augment.quarter_turns=[3]"], r"augment\.quarter_turns\.0 = 3"),
        (
            ["augment.slice_axis=2", "augment.quarter_turns=[0]"],
            r"turn slices out of their plane, wanted augment.slice_axis = 2 only",
        ),
    ],
)
def test_wrong_axes_are_named(small_crops: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(small_crops, changes)
    assert load_config(small_crops, ["augment.slice_axis=2", "augment.quarter_turns=[2]"])


def test_larger_crops_can_be_set(small_crops: Path) -> None:
    """A crop may even be larger than the scan, whose surroundings count as background."""
    larger = load_config(small_crops, ["task.patch=[64, 32, 32]"])
    draw = sampler(small_crops)
    draw.task = larger.task
    batch = draw.batch(0, Views(1, 1))
    assert batch.views[0].shape == (2, 1, 64, 32, 32)
    torch.testing.assert_close(batch.target.sum(1), torch.ones(1, 64, 32, 32))
    assert bool((batch.target[0, 0, 0] == 1).all())
