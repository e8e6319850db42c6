"""The contrast of all pairs at once: the same values as pair by pair, in as many operations as one pair."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.losses import (
    Rows,
    Seen,
    contrast,
    cross_entropy,
    dice_loss,
    intersection_union,
    seg_terms,
)
from c3s3_seg.training.methods.c3s3 import projector

VIEWS, CROPS, CLASSES, SIDES = 2, 3, 3, (6, 5, 4)
FEW = C3S3Config(anchors=20, negatives=8)


def random(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def seen(seed: int, views: int = VIEWS, crops: int = CROPS) -> Seen:
    """Return random features and predictions; one crop is all background, another all of one class."""
    torch.manual_seed(seed)
    features = torch.randn(views * crops, 4, *SIDES).to(memory_format=torch.channels_last_3d)
    predicted = torch.randint(CLASSES, (views * crops, *SIDES), generator=random(seed))
    predicted[:1], predicted[1:2] = 0, 1
    return Seen(Rows(features.requires_grad_(), projector(4)), predicted, CLASSES, views)


def one_by_one(a: Seen, b: Seen, first: int, draws: Generator) -> Tensor:
    """Return eq. 10 computed literally: crop by crop, pair by pair, class by class."""
    terms = []
    for crop in range(first, CROPS):
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            here, there = i * CROPS + crop, j * CROPS + crop
            rows = (
                Rows(a.rows.features[here : here + 1], a.rows.projector),
                Rows(b.rows.features[there : there + 1], b.rows.projector),
            )
            for label in range(1, CLASSES):
                in_a, in_b = (a.predicted[here] == label).flatten(), (b.predicted[there] == label).flatten()
                both, either = in_a & in_b, in_a | in_b
                terms.append(contrast(*rows, (both, ~both), FEW, draws))
                terms.append(contrast(*rows, (~either, either), FEW, draws))
    pairs = len(terms) / (2 * (CLASSES - 1))
    return torch.stack(terms).sum() / (CLASSES - 1) / pairs


@pytest.mark.parametrize("first", [0, 2])
def test_all_pairs_at_once_are_the_pairs_one_by_one(first: int) -> None:
    a, b = seen(1), seen(2)
    together = intersection_union(a, b, FEW, random(3), first)
    inputs = [a.rows.features, b.rows.features, *a.rows.projector.parameters()]
    found = torch.autograd.grad(together, inputs)
    apart = one_by_one(a, b, first, random(3))  # the same draws in the same order
    # The same sums of some hundred numbers in another order: float32 rounds each to 6e-8.
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    for one, other in zip(found, torch.autograd.grad(apart, inputs), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_a_crop_where_nothing_is_found_gives_no_term_and_finite_gradients() -> None:
    a, b = (seen(n, 1, 1) for n in (1, 2))
    for crop in (a, b):
        crop.predicted[:] = 0
    loss = intersection_union(a, b, FEW, random(3))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss + 0 * a.rows.features.sum(), [a.rows.features])
    assert torch.isfinite(gradient).all()


class Counting(TorchDispatchMode):
    """A mode that counts the operations that reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_more_pairs_and_crops_are_no_more_operations() -> None:
    counts = []
    for views, crops in ((1, 2), (2, 4)):
        a, b = seen(1, views, crops), seen(2, views, crops)
        with Counting() as mode:
            intersection_union(a, b, FEW, random(3), 1)
        drawing = ("rand", "empty", "detach")  # on the CPU, one per mask
        counts.append({k: n for k, n in mode.found.items() if not any(word in k for word in drawing)})
    assert counts[0] == counts[1]


def test_views_at_once_are_the_mean_over_views() -> None:
    torch.manual_seed(0)
    logits = [torch.randn(2, 3, *SIDES) for _ in range(2)]
    target = torch.randn(2, 3, *SIDES).softmax(dim=1)
    terms = seg_terms(logits, target)
    ce = torch.stack([cross_entropy(x, target) for x in logits]).mean()
    dice = torch.stack([dice_loss(x.softmax(dim=1), target) for x in logits]).mean()
    assert terms.ce.item() == pytest.approx(ce.item(), rel=1e-6)
    assert terms.dice.item() == pytest.approx(dice.item(), rel=1e-6)
    assert seg_terms(logits[:1], target).ce.item() == cross_entropy(logits[0], target).item()


def test_rows_of_several_terms_are_those_of_each() -> None:
    rows = Rows(torch.arange(24.0).reshape(2, 3, 4, 1, 1), nn.Identity())
    index = torch.tensor([[0, 7], [3, 4]])
    assert torch.equal(rows.at(index), torch.stack([rows.at(line) for line in index]))
