"""Each equation checked against values worked out by hand."""

import math

import pytest
import torch
from torch import Generator, nn

from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.losses import (
    Rows,
    Seen,
    SegTerms,
    contrast,
    cosine_distance,
    cross_entropy,
    cross_pseudo,
    dice_loss,
    intersection_union,
    ramp,
    sharpen,
)


def voxels(*values: float) -> torch.Tensor:
    """Return class probabilities: foreground values along x -> (1, 2, n, 1, 1)."""
    p = torch.tensor(values).reshape(1, 1, -1, 1, 1)
    return torch.cat([1 - p, p], dim=1)


def random() -> Generator:
    return Generator().manual_seed(0)


def test_cross_entropy_eq2() -> None:
    logits = voxels(0.75, 0.5).log()
    expected = -(math.log(0.75) + math.log(0.5)) / 2
    assert cross_entropy(logits, voxels(1.0, 0.0)).item() == pytest.approx(expected)
    soft = -(0.5 * math.log(0.75) + 0.5 * math.log(0.25))
    assert cross_entropy(voxels(0.75).log(), voxels(0.5)).item() == pytest.approx(soft)


def test_dice_eq2() -> None:
    # 2 * 0.8 / (0.8^2 + 0.4^2 + 1)
    assert dice_loss(voxels(0.8, 0.4), voxels(1.0, 0.0)).item() == pytest.approx(1 - 1.6 / 1.8, abs=1e-5)
    assert dice_loss(voxels(1.0, 0.0), voxels(1.0, 0.0)).item() == pytest.approx(0, abs=1e-5)
    assert dice_loss(voxels(0.0, 0.0), voxels(0.0, 0.0)).item() == pytest.approx(0, abs=1e-5)


def test_dice_is_the_mean_over_foreground_classes() -> None:
    target = torch.eye(3).reshape(1, 3, 3, 1, 1)  # one voxel of each class
    wrong = target[:, [0, 1, 1]] * torch.tensor([1, 1, 0]).reshape(1, 3, 1, 1, 1)
    assert dice_loss(wrong, target).item() == pytest.approx(0.5, abs=1e-4)


def test_competition_eq4() -> None:
    terms = SegTerms(torch.tensor(0.5), torch.tensor(0.25))
    assert float(terms.weighted(0.8)) == pytest.approx(0.8 * 0.5 + 0.2 * 0.25)
    assert terms.loss.item() == 0.75


def test_sharpening_eq5() -> None:
    p = voxels(0.6)
    expected = 0.6**10 / (0.6**10 + 0.4**10)
    assert sharpen(p, 0.1)[0, 1].item() == pytest.approx(expected, rel=1e-5)
    extreme = sharpen(voxels(0.0, 1.0), 0.1)
    assert torch.isfinite(extreme).all()
    torch.testing.assert_close(extreme, voxels(0.0, 1.0))


def test_cross_pseudo_eq5_teaches_the_loser_only() -> None:
    loser, winner = voxels(0.5).requires_grad_(), voxels(1.0).requires_grad_()
    loss = cross_pseudo([loser, loser], [winner, winner], 0.1)
    assert loss.item() == pytest.approx(2 * 0.25)
    loss.backward()
    assert winner.grad is None
    assert loser.grad is not None
    assert loser.grad.abs().sum() > 0


def test_cosine_eq6() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert cosine_distance(a, a).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(a, b).item() == pytest.approx(1 - 1 / math.sqrt(2))


def test_ramp() -> None:
    assert ramp(0) == pytest.approx(math.exp(-5))
    assert ramp(0.5) == pytest.approx(math.exp(-1.25))
    assert ramp(1) == 1 == ramp(2)


def rows(*vectors: tuple[float, float]) -> Rows:
    """Return features of voxels along x; the projector is the identity."""
    return Rows(torch.tensor(vectors).T.reshape(1, 2, -1, 1, 1), nn.Identity())


def test_contrast_eq7() -> None:
    a, b = rows((1, 0), (0, 1)), rows((1, 0), (0, 1))
    masks = (torch.tensor([True, False]), torch.tensor([False, True]))
    tau = 0.1
    # positive: cosine 1; one negative: cosine 0
    expected = math.log(math.exp(1 / tau) + math.exp(0)) - 1 / tau
    assert contrast(a, b, masks, C3S3Config(), random()).item() == pytest.approx(expected, abs=1e-6)
    swapped = rows((0, 1), (1, 0))  # positive: cosine 0; negative: cosine 1
    expected = math.log(1 + math.exp(1 / tau))
    assert contrast(a, swapped, masks, C3S3Config(), random()).item() == pytest.approx(expected, rel=1e-6)


def test_contrast_is_smallest_where_the_nets_agree() -> None:
    """The published form has its optimum at orthogonal features; the form used here at equal features."""
    torch.manual_seed(0)
    config = C3S3Config()
    masks = (torch.arange(8) < 4, torch.arange(8) >= 4)
    features = nn.Parameter(torch.randn(2, 1, 4, 8, 1, 1))
    optimiser = torch.optim.Adam([features], 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        a, b = (Rows(features[n], nn.Identity()) for n in (0, 1))
        contrast(a, b, masks, config, random()).backward()
        optimiser.step()
    agreement = torch.cosine_similarity(features[0, :, :, :4], features[1, :, :, :4], dim=1)
    assert agreement.mean() > 0.7


@pytest.mark.parametrize("foreground", [[], [0], [0, 1, 2, 3]])
def test_empty_full_and_one_voxel_masks_are_finite(foreground: list[int]) -> None:
    predicted = torch.zeros(1, 4, 1, 1, dtype=torch.long)
    predicted[0, foreground] = 1
    features = torch.randn(1, 2, 4, 1, 1, generator=random(), requires_grad=True)
    seen = Seen(Rows(features, nn.Identity()), predicted, 2)
    loss = intersection_union(seen, seen, C3S3Config(), random())
    assert torch.isfinite(loss)
    (loss + 0 * features.sum()).backward()
    assert torch.isfinite(features.grad).all()
    if len(foreground) in (0, 4):
        assert loss.item() == 0


def test_zero_features_have_finite_gradients() -> None:
    features = torch.zeros(1, 2, 4, 1, 1, requires_grad=True)
    rows_of = Rows(features, nn.Identity())
    masks = (torch.tensor([True, True, False, False]), torch.tensor([False, False, True, True]))
    contrast(rows_of, rows_of, masks, C3S3Config(), random()).backward()
    assert torch.isfinite(features.grad).all()


def test_disagreement_is_a_negative_for_both() -> None:
    """Voxels in the union but not the intersection are negatives for the intersection and the background."""
    features = torch.randn(1, 3, 6, 1, 1, generator=random())
    a = Seen(Rows(features, nn.Identity()), torch.tensor([1, 1, 1, 0, 0, 0]).reshape(1, 6, 1, 1), 2)
    b = Seen(Rows(features, nn.Identity()), torch.tensor([1, 1, 0, 1, 0, 0]).reshape(1, 6, 1, 1), 2)
    config = C3S3Config()
    both = torch.tensor([True, True, False, False, False, False])
    either = torch.tensor([True, True, True, True, False, False])
    expected = contrast(a.rows, b.rows, (both, ~both), config, random()) + contrast(
        a.rows, b.rows, (~either, either), config, random()
    )
    torch.testing.assert_close(intersection_union(a, b, config, random()), expected)


def test_several_classes_stand_against_the_rest() -> None:
    features = torch.randn(1, 3, 6, 1, 1, generator=random())
    classes = torch.tensor([0, 1, 2, 0, 1, 2]).reshape(1, 6, 1, 1)
    three = Seen(Rows(features, nn.Identity()), classes, 3)
    single = [Seen(Rows(features, nn.Identity()), (classes == c).long(), 2) for c in (1, 2)]
    config = C3S3Config()
    expected = sum(intersection_union(s, s, config, random()) for s in single) / 2
    torch.testing.assert_close(intersection_union(three, three, config, random()), expected)
