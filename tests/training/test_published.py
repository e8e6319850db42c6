"""The forms of the published code, checked against plain transcriptions and values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from c3s3_seg.training.losses import Rows, Seen
from c3s3_seg.training.methods.c3s3 import projector
from c3s3_seg.training.published import (
    dense_cosine,
    depth_cosine,
    masked_contrast,
    masked_intersection_union,
)


def test_depth_cosine_by_hand() -> None:
    first = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 1, 2)
    second = torch.tensor([4.0, 3.0]).reshape(1, 1, 1, 1, 2)
    assert depth_cosine(first, second).item() == pytest.approx(1 - 24 / 25)
    assert depth_cosine(first, 7 * first).item() == pytest.approx(0, abs=1e-6)


def plain(cosine: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the loss computed literally, with its exponentials, in double precision."""
    t, m = cosine.double() / temperature, mask.double()
    positive, negative = (t * m).exp(), (t * (1 - m)).exp()
    return -(positive / (positive + negative.sum())).log().mean()


def test_log_sum_exp_form_has_the_published_values() -> None:
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(500, generator=generator) * 2 - 1
    for share in (0.0, 0.3, 1.0):
        mask = torch.rand(500, generator=generator) < share
        ours = masked_contrast(cosine, mask, 0.1)
        assert ours.item() == pytest.approx(plain(cosine, mask, 0.1).item(), rel=1e-6)


def test_it_does_not_overflow() -> None:
    cosine = torch.tensor([1.0, -1.0], requires_grad=True)
    loss = masked_contrast(cosine, torch.tensor([True, False]), 0.001)  # e^1000 is inf
    loss.backward()
    assert torch.isfinite(loss)
    assert cosine.grad is not None
    assert torch.isfinite(cosine.grad).all()


def test_one_voxel_by_hand() -> None:
    # in the mask: log(e^t + e^0) - t; outside: log(e^0 + e^t) - 0
    t = 0.5 / 0.1
    inside, outside = (masked_contrast(torch.tensor([0.5]), torch.tensor([m]), 0.1) for m in (True, False))
    assert inside.item() == pytest.approx(math.log(math.exp(t) + 1) - t, rel=1e-4)
    assert outside.item() == pytest.approx(math.log(1 + math.exp(t)))
    assert masked_contrast(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 0.1).item() == 0


def test_its_optimum_is_orthogonal_where_the_nets_agree() -> None:
    """This is why the published form is not the default (difference table, row 1)."""
    inside = torch.zeros(400, dtype=torch.bool)
    inside[:60] = True
    disputed = torch.zeros(400, dtype=torch.bool)
    disputed[60:80] = True
    raw = nn.Parameter(torch.full((400,), 0.5))
    optimiser = torch.optim.Adam([raw], 0.05)
    for _ in range(800):
        optimiser.zero_grad()
        cosine = raw.tanh()
        loss = masked_contrast(cosine, inside, 0.1) + masked_contrast(cosine, ~(inside | disputed), 0.1)
        loss.backward()
        optimiser.step()
    found = raw.tanh().detach()
    assert found[inside].abs().mean() < 0.05
    assert found[~(inside | disputed)].abs().mean() < 0.05
    assert found[disputed].mean() < -0.5


def test_dense_cosine_equals_maps_of_64_channels() -> None:
    torch.manual_seed(0)
    heads = [projector(5) for _ in range(2)]
    a, b = (Rows(torch.randn(1, 5, 4, 3, 2), head) for head in heads)
    everything = torch.arange(24)
    expected = (a.at(everything) * b.at(everything)).sum(dim=1)
    torch.testing.assert_close(dense_cosine(a, b), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("foreground", [[], [0], [0, 1, 2, 3]])
def test_empty_full_and_one_voxel_masks_are_finite(foreground: list[int]) -> None:
    torch.manual_seed(0)
    predicted = torch.zeros(1, 4, 1, 1, dtype=torch.long)
    predicted[0, foreground] = 1
    features = torch.randn(1, 3, 4, 1, 1, requires_grad=True)
    seen = Seen(Rows(features, projector(3)), predicted, 2)
    loss = masked_intersection_union(seen, seen, 0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
