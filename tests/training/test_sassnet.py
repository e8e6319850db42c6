"""SASSNet: the networks that learn in each phase, and the signals they learn from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import Tensor

from c3s3_seg.errors import ConfigError
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Batch
from c3s3_seg.training.distributed import ProcessGroup
from c3s3_seg.training.methods import build_method
from c3s3_seg.training.methods.sassnet import Discriminator, ShapeAware
from c3s3_seg.training.run import Run

SMALL = ["method=sassnet", "sassnet.discriminator_filters=4", "networks.dropout=0.0"]


def built(config_path: Path, *changes: str) -> tuple[ShapeAware, Batch]:
    method = build_method(load_config(config_path, [*SMALL, *changes]))
    assert isinstance(method, ShapeAware)
    return method, sampler(config_path).batch(4, method.views(4))


def test_the_loader_gives_distance_maps_with_zeros_on_the_boundary(toy_config: Path) -> None:
    _, batch = built(toy_config)
    inside = batch.target[:, 1] > 0.5
    assert batch.distances.shape == (2, 1, 32, 32, 32)
    assert bool((batch.distances[:, 0][inside] <= 0).all())
    assert bool((batch.distances[:, 0][~inside] > 0).all())
    assert bool((batch.distances[:, 0][inside] == 0).any())


@pytest.mark.slow
def test_the_loss_is_the_sum_of_its_terms(toy_config: Path) -> None:
    method, batch = built(toy_config, "sassnet.weight=0.5")
    torch.manual_seed(0)
    phase, judged = method.step(batch, 8)  # at the end, where the ramp is 1
    terms = phase.terms
    expected = terms["dice"] + 0.3 * terms["distance"] + 0.5 * terms["deceived"]
    assert float(phase.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert (phase.optimisers, judged.optimisers) == (("main",), ("discriminator",))


@pytest.mark.slow
def test_unlabelled_crops_teach_through_the_discriminator_alone(toy_config: Path) -> None:
    """Unlabelled crops reach the network only this way: with weight 0 the distance head has no gradient."""
    found = {}
    for weight in (0.0, 1.0):
        method, batch = built(toy_config, f"sassnet.weight={weight}", "sassnet.distance_weight=0.0")
        torch.manual_seed(0)
        phase = next(iter(method.step(batch, 8)))
        phase.loss.backward()
        assert all(p.grad is None for p in method.discriminator.parameters())
        gradient = method.distance.weight.grad
        assert gradient is not None
        found[weight] = float(gradient.abs().sum())
    assert found[0.0] == 0 < found[1.0]


@pytest.mark.slow
def test_the_discriminator_learns_and_the_network_stays(toy_config: Path) -> None:
    torch.manual_seed(0)
    method, batch = built(toy_config)
    images = batch.views[0].clone()
    images[: batch.labelled] += 3  # planted: labelled crops are brighter
    batch = replace(batch, views=(images,))
    before = {name: value.clone() for name, value in method.net.state_dict().items()}
    optimiser = torch.optim.Adam(method.discriminator.parameters(), 1e-3)
    losses = []
    for _ in range(25):
        phase = method._judge(batch)
        optimiser.zero_grad()
        phase.loss.backward()
        optimiser.step()
        losses.append(float(phase.loss.detach()))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert all(torch.equal(value, before[name]) for name, value in method.net.state_dict().items())
    assert all(p.grad is None for p in method.net.parameters())


def test_the_discriminator_takes_any_patch_from_16(toy_config: Path) -> None:
    judge = Discriminator(2, 1, 4)
    assert judge(torch.zeros(3, 2, 16, 32, 48), torch.zeros(3, 1, 16, 32, 48)).shape == (3, 2)
    flat = ["task.patch=[32, 32, 8]", "task.strides=[[2,2,2],[2,2,2],[2,2,2],[2,2,1]]"]
    with pytest.raises(ConfigError, match=r"side of 8: the discriminator .* wanted 16 at least"):
        load_config(toy_config, [*SMALL, *flat])


def test_several_processes_are_refused(toy_config: Path, tmp_path: Path) -> None:
    config = load_config(toy_config, SMALL)
    with pytest.raises(ConfigError, match="'sassnet' trains in one process only: network and discriminator"):
        Run(config, tmp_path, ProcessGroup(0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_discriminator_sees_what_the_network_says_after_its_step(
    toy_config: Path, tmp_path: Path, precision: str
) -> None:
    """This also holds in half precision, where autocast caches the weights that it has cast."""
    run = Run(load_config(toy_config, [*SMALL, f"run.precision={precision}", "optimiser.lr=0.1"]), tmp_path)
    method, batch = run.method, sampler(toy_config).batch(4, run.method.views(4))
    assert isinstance(method, ShapeAware)
    said: list[Tensor] = []
    method.distance.register_forward_hook(lambda _, __, answer: said.append(answer.detach().float()))
    run.step(batch)
    assert len(said) == 2  # in the network's phase, and in the discriminator's
    images = batch.views[0].contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        method.net.eval()
        method.distance(method.net.features(images))
    assert torch.equal(said[1], said[2])


def test_its_adam_keeps_its_learning_rate(toy_config: Path, tmp_path: Path) -> None:
    run = Run(load_config(toy_config, [*SMALL, "optimiser.lr=0.02"]), tmp_path)
    run.iteration = 4
    terms = run.step(sampler(toy_config).batch(4, run.method.views(4)))
    assert [group["lr"] for group in run.optimisers["discriminator"].param_groups] == [1e-4]
    assert [group["lr"] for group in run.optimisers["main"].param_groups] == [terms["lr"]]
    assert terms["loss"] == pytest.approx(
        terms["dice"] + 0.3 * terms["distance"] + 0.01 * 0.2865 * terms["deceived"], rel=1e-4
    )
