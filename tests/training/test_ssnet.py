"""SS-Net: the adversarial step, the memory, and the losses worked out by hand."""

import math
from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import Tensor

from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Batch
from c3s3_seg.training.methods import build_method
from c3s3_seg.training.methods.rows import draw
from c3s3_seg.training.methods.ssnet import (
    SmoothSeparable,
    plain_dice,
    pooled_dice,
    selected,
    unit,
    weighted_distance,
)


def built(toy_config: Path, *changes: str) -> tuple[SmoothSeparable, Batch]:
    torch.manual_seed(0)
    method = build_method(load_config(toy_config, ["method=ssnet", "networks.dropout=0.0", *changes]))
    assert isinstance(method, SmoothSeparable)
    return method, sampler(toy_config).batch(8, method.views(8))


def test_the_dice_by_hand() -> None:
    p = torch.tensor([0.8, 0.4]).reshape(1, 1, 2, 1, 1)
    y = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
    assert plain_dice(p, y).item() == pytest.approx(1 - 1.6 / 2.2)
    assert plain_dice(y, y).item() == pytest.approx(0)


def test_the_pooled_dice_by_hand() -> None:
    p = torch.tensor([[0.2, 0.6], [0.8, 0.4]]).reshape(1, 2, 2, 1, 1)
    y = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 2, 1, 1)
    assert pooled_dice(p, y).item() == pytest.approx(1 - 2 * (0.8 + 0.6) / (2 + 2))
    # The mean of the classes differs: 1.2 / 1.8 of the background, 1.6 / 2.2 of the foreground.
    assert plain_dice(p, y).item() == pytest.approx(1 - (1.2 / 1.8 + 1.6 / 2.2) / 2)
    assert pooled_dice(p, p).item() == pytest.approx(1 - 2 * (0.04 + 0.36 + 0.64 + 0.16) / 4)


def test_a_step_is_of_length_1_for_each_sample() -> None:
    x = torch.randn(3, 1, 4, 4, 4)
    torch.testing.assert_close(unit(x).flatten(1).norm(dim=1), torch.ones(3))
    assert not unit(torch.zeros(1, 1, 2, 2, 2)).any()


def test_the_weighted_distance_by_hand() -> None:
    rows, memory = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    even = weighted_distance(rows, memory, torch.ones(2), torch.ones(1))
    assert even.item() == pytest.approx((0 + 1) / 2)
    uneven = weighted_distance(rows, memory, torch.tensor([1.5, 0.5]), torch.ones(1))
    assert uneven.item() == pytest.approx(0.5 / 2)


def test_weights_have_mean_1() -> None:
    weights = selected(torch.tensor([[0.0], [2.0]]), torch.nn.Identity())
    high = torch.tensor(2.0).sigmoid().item()
    assert weights.tolist() == pytest.approx([0.5 / (0.25 + high / 2), high / (0.25 + high / 2)])


def test_the_ramp_ends_at_its_share_of_the_run(toy_config: Path) -> None:
    # Published: exp(-5 (1 - t / 40)^2) with t = iteration // 150, of 15,000 iterations.
    for iteration, share in ((3, math.exp(-5 * (1 - 0.3 / 0.4) ** 2)), (4, 1.0), (9, 1.0)):
        method, batch = built(toy_config, "run.iterations=10")
        (phase,) = method.step(batch, iteration)
        terms = phase.terms
        unsupervised = terms["smoothness"] + 0.1 * terms["separation"]
        assert phase.loss.item() == pytest.approx(terms["dice"] + share * unsupervised, rel=1e-5), iteration


def test_a_drawing_has_no_voxel_twice() -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1] = True
    assert draw(mask, 9).tolist() == [5, 6, 7, 8, 9]
    some = draw(mask, 3).tolist()
    assert len(set(some)) == 3
    assert set(some) <= {5, 6, 7, 8, 9}


SHARE = 32**3 / (112 * 112 * 80)  # voxels of a crop here, as a share of those of the published crop


@pytest.mark.slow
def test_the_steps_change_a_voxel_as_much_as_in_the_published_crop(toy_config: Path) -> None:
    method, batch = built(toy_config, "ssnet.probe=5")
    images = batch.views[0]
    seen: list[Tensor] = []
    method.net.register_forward_pre_hook(lambda _, given: seen.append((given[0] - images).detach()))
    method._smoothness(images, method.net(images).softmax(dim=1).detach())
    lengths = [float(step.flatten(1).norm(dim=1)[0]) for step in seen]
    assert lengths == pytest.approx([0, 5 * math.sqrt(SHARE), 10 * math.sqrt(SHARE)], rel=1e-3)


@pytest.mark.slow
def test_the_distance_of_the_smoothness_is_chosen(toy_config: Path) -> None:
    for option, distance in (("pooled", pooled_dice), ("classes", plain_dice)):
        method, batch = built(toy_config, f"ssnet.distance={option}")
        images, said = batch.views[0], []
        answer = method.net(images).softmax(dim=1).detach()
        method.net.register_forward_hook(lambda _, __, logits, said=said: said.append(logits.detach()))
        found = method._smoothness(images, answer).item()
        assert found == pytest.approx(distance(said[-1].softmax(dim=1), answer).item()), option


@pytest.mark.slow
def test_the_adversarial_step_changes_more_than_a_random_one(toy_config: Path) -> None:
    """This tests the smoothness term, which must leave the running statistics of batch norm unchanged."""
    method, batch = built(
        toy_config, *(f"ssnet.{key}={10 / math.sqrt(SHARE)}" for key in ("probe", "radius"))
    )
    images = batch.views[0]
    answer = method.net(images).softmax(dim=1).detach()
    before = {name: value.clone() for name, value in method.net.named_buffers()}
    adversarial = float(method._smoothness(images, answer).detach())
    assert all(torch.equal(value, before[name]) for name, value in method.net.named_buffers())
    assert all(p.grad is None for p in method.net.parameters())
    with torch.no_grad():
        moved = images + 10 * unit(torch.randn_like(images))
        at_random = float(pooled_dice(method.net(moved).softmax(dim=1), answer))
        still = float(pooled_dice(method.net(images).softmax(dim=1), answer))
    assert adversarial - still > 2 * (at_random - still)


def remembered(toy_config: Path, *changes: str) -> SmoothSeparable:
    """Return a method that was shown 40 correctly predicted voxels of each class."""
    method, _ = built(toy_config, *changes)
    features = torch.randn(1, 2, 8, 10, 1)
    right = torch.full((1, 8, 10, 1), -1)
    right[:, :4], right[:, 4:] = 0, 1
    method._remember(features, right)
    return method


def scores(method: SmoothSeparable, label: int) -> Tensor:
    selector = method.select_features[label].eval()
    return selector(method.memory[label])[:, 0].detach()


def test_the_memory_holds_the_voxels_that_the_selector_ranks_highest(toy_config: Path) -> None:
    """The published form keeps the 32 lowest of the same 40 voxels, and none of the background."""
    paper, published = (remembered(toy_config, f"ssnet.memory={form}") for form in ("paper", "published"))
    assert paper.filled.tolist() == [32, 32]
    assert published.filled.tolist() == [0, 32]
    assert scores(paper, 1).max() > scores(published, 1).max()
    assert scores(paper, 1).min() > scores(published, 1).min()
    assert not published.memory[0].any()
    assert paper.project.training


@pytest.mark.slow
def test_each_mechanism_is_in_the_loss(toy_config: Path) -> None:
    method, batch = built(toy_config)
    (phase,) = method.step(batch, 8)
    terms = phase.terms
    assert min(terms["smoothness"], terms["separation"]) > 0
    expected = terms["dice"] + terms["smoothness"] + 0.1 * terms["separation"]
    assert float(phase.loss.detach()) == pytest.approx(expected, rel=1e-5)
    phase.loss.backward()
    assert all(p.grad is not None for p in method.predict.parameters())
    # With an empty memory the separation is 0.
    method.filled.zero_()
    assert method._separation(torch.randn(1, 2, 4, 4, 4), torch.ones(1, 4, 4, 4)).item() == 0
