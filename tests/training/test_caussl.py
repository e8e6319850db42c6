"""CauSSL: the dependence of two networks' weights, worked out by hand."""

from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import nn

from c3s3_seg.training.config import load_config
from c3s3_seg.training.methods import build_method
from c3s3_seg.training.methods.caussl import (
    WeightIndependence,
    dependence,
    kernels,
    pseudo_supervision,
)
from c3s3_seg.training.run import Run

CAUSSL = ["method=caussl", "networks.dropout=0.0"]


def test_the_dependence_by_hand() -> None:
    ours = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    theirs = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    # P = 1: cosines of (1, 1) with (1, 0) and of (0, 1) with (0, 2)
    assert dependence([ours], [theirs], [torch.eye(2)]).item() == pytest.approx((0.5 + 1) / 2)
    best = ours @ theirs.inverse()
    assert dependence([ours], [theirs], [best]).item() == pytest.approx(1)
    both = dependence([ours, ours], [theirs, theirs], [torch.eye(2), best]).item()
    assert both == pytest.approx((0.75 + 1) / 2)


def test_gradients_go_to_one_side_only() -> None:
    ours, theirs, mixing = (torch.randn(3, 3, requires_grad=True) for _ in range(3))
    dependence([ours], [theirs], [mixing]).backward()
    assert ours.grad is not None
    assert theirs.grad is None
    assert mixing.grad is None
    ours.grad = None
    dependence([ours.detach()], [theirs.detach()], [mixing]).backward()
    assert mixing.grad is not None
    assert ours.grad is None


def test_rows_are_channels_out() -> None:
    net = nn.Sequential(nn.Conv3d(2, 5, 3), nn.BatchNorm3d(5), nn.ConvTranspose3d(5, 4, 2))
    assert [tuple(kernel.shape) for kernel in kernels(net)] == [(5, 54), (4, 40)]


def test_pseudo_supervision_by_hand() -> None:
    logits = torch.tensor([0.25, 0.75]).log().reshape(1, 2, 1, 1, 1)
    other = torch.tensor([0.0, 5.0]).reshape(1, 2, 1, 1, 1)
    assert pseudo_supervision(logits, other).item() == pytest.approx(-torch.tensor(0.75).log().item())


def test_rounds_of_updates_are_shares_of_the_run(toy_config: Path) -> None:
    method = build_method(load_config(toy_config, [*CAUSSL, "run.iterations=5000"]))
    assert isinstance(method, WeightIndependence)
    updates = [method.updates(iteration) for iteration in range(5000)]
    assert [n for n, count in enumerate(updates) if count][:3] == [540, 600, 660]  # from 500 on, every 60
    assert set(updates) == {0, 60}
    begun = [iteration for iteration in range(5000) if method.independent(iteration)]
    assert begun == list(range(540, 5000))  # all from the first round on


@pytest.mark.slow
def test_random_coefficients_do_not_teach(toy_config: Path, tmp_path: Path) -> None:
    """Until the first round of updates the loss is without the dependence; a resumed run keeps its place."""
    changes = ["caussl.coefficient_start=0.5", "caussl.every=0.25", "caussl.pseudo_start=1.0"]
    config = load_config(toy_config, [*CAUSSL, *changes])  # of 8 iterations: rounds in 4 and 6
    draw, run, terms = sampler(toy_config), Run(config, tmp_path), []
    for iteration in range(6):
        if iteration == 5:
            run.save()
            run = Run(config, tmp_path)
            run.restore()
        terms.append(run.step(draw.batch(iteration, run.method.views(iteration))))
        seg = terms[-1]["seg_a"] + terms[-1]["seg_b"]
        dependence = 3 * terms[-1].get("dependence", 0)
        assert terms[-1]["loss"] == pytest.approx(seg + dependence, rel=1e-4)
    assert ["dependence" in found for found in terms] == 4 * [False] + 2 * [True]


@pytest.mark.slow
def test_coefficients_find_the_dependence_and_networks_leave_it(toy_config: Path) -> None:
    """Planted dependence: the kernels of network B are those of A with the output channels reversed."""
    changes = ["caussl.coefficient_start=0", "caussl.every=1.0", "caussl.updates=4", "caussl.weight=0"]
    method = build_method(load_config(toy_config, [*CAUSSL, *changes]))
    assert isinstance(method, WeightIndependence)
    with torch.no_grad():
        for a, b in zip(method.a.modules(), method.b.modules(), strict=True):
            if isinstance(a, nn.Conv3d):
                b.weight.copy_(a.weight.flip(0))  # type: ignore[operator,union-attr]
    batch = sampler(toy_config).batch(0, method.views(0))
    optimiser = torch.optim.Adam(method.optimised()["coefficients"], 2e-2)
    found, phases = [], method.step(batch, 0)
    for phase in phases:
        if phase.optimisers == ("main",):
            break
        optimiser.zero_grad()
        phase.loss.backward()
        optimiser.step()
        found.append(-float(phase.loss.detach()) / 2)
    assert len(found) == 32
    assert found[-1] > found[0] + 0.3
    assert phase.terms["dependence"] / 2 > found[0] + 0.3
    # The networks' loss contains the weighted dependence, and a step along its gradient lowers it.
    seg = phase.terms["seg_a"] + phase.terms["seg_b"]
    assert float(phase.loss.detach()) == pytest.approx(seg + 3 * phase.terms["dependence"], rel=1e-4)
    phase.loss.backward()
    weight = next(m.weight for m in method.a.modules() if isinstance(m, nn.Conv3d))
    assert weight.grad is not None
    assert bool(weight.grad.any())
