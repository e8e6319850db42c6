"""The loss terms of C3S3 (He et al., ICME 2025), one function per equation.

Probabilities are softmax outputs (N, C, X, Y, Z), class 0 is background. Every term is computed in
single precision and is 0, with finite gradients, where its masks are empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from c3s3_seg.training.distributed import total
from c3s3_seg.training.method_settings import C3S3Config


@dataclass(frozen=True)
class SegTerms:
    """Eq. 2: the two supervised terms of one backbone, averaged over its views."""

    ce: Tensor
    dice: Tensor

    @property
    def loss(self) -> Tensor:
        """L_seg = CE + Dice."""
        return self.ce + self.dice

    def competition(self, alpha: float) -> float:
        """Eq. 4: alpha CE + (1 - alpha) Dice; the backbone with the lower value wins."""
        return float(alpha * self.ce.detach() + (1 - alpha) * self.dice.detach())


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over voxels of -sum_c y log p, with soft targets (N, C, X, Y, Z)."""
    return -(target * F.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()


def dice_loss(probability: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - Dice with squared denominators, mean over the foreground classes.

    Pooled over the batch, over all processes if several train as one.
    """
    p, y = probability[:, 1:].float(), target[:, 1:]
    sums = [x.sum((0, 2, 3, 4)) for x in (p * y, p.square(), y.square())]
    overlap, predicted, wanted = total(torch.stack(sums))
    loss: Tensor = (1 - (2 * overlap + smooth) / (predicted + wanted + smooth)).mean()
    return loss


def seg_terms(logits: list[Tensor], target: Tensor) -> SegTerms:
    """Eq. 2 over the views of one backbone; logits of the labelled part only."""
    ce = torch.stack([cross_entropy(x, target) for x in logits]).mean()
    dice = torch.stack([dice_loss(x.float().softmax(dim=1), target) for x in logits]).mean()
    return SegTerms(ce, dice)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(N, ...) -> (N, classes, ...) float32."""
    # Not the cross entropy of class numbers, which has no deterministic form on a GPU.
    return torch.stack([label == value for value in range(classes)], dim=1).float()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is 1; 0 for an empty mask. Pooled over all processes."""
    pooled = total(torch.stack([(values * mask).sum(), mask.sum()]))
    return pooled[0] / pooled[1].clamp_min(1)


def sharpen(probability: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / sum_c p^(1/T), detached: the winner's pseudo-label."""
    # In logarithms: 0.1^10 would underflow in half precision, and a zero would divide by zero.
    return (probability.detach().clamp_min(1e-12).log() / temperature).softmax(dim=1)


def cross_pseudo(loser: list[Tensor], winner: list[Tensor], temperature: float) -> Tensor:
    """Eq. 5: sum over the views of the MSE between the loser and the winner's sharpened output."""
    pairs = zip(loser, winner, strict=True)
    return torch.stack([F.mse_loss(a, sharpen(b, temperature)) for a, b in pairs]).sum()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Eq. 6: 1 - cosine of two outputs, flattened per sample; mean over the batch."""
    return 1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-6).mean()


def ramp(progress: float) -> float:
    """exp(-5 (1 - progress)^2): 0.007 at the beginning, 1 at the end (Laine and Aila, 2017)."""
    return float(torch.exp(torch.tensor(-5.0 * (1 - min(max(progress, 0.0), 1.0)) ** 2)))


@dataclass(frozen=True)
class Rows:
    """Voxels of a feature map as rows, and the head that projects the few that are needed.

    The projector's two 1x1x1 convolutions act on each voxel alone, so only sampled voxels pass it.

    Parameters
    ----------
    features
        (N, F, X, Y, Z): the decoder's last features.
    projector
        (n, F) -> (n, 64).
    """

    features: Tensor
    projector: torch.nn.Module

    def at(self, index: Tensor) -> Tensor:
        """Unit vectors z = L2norm(projector(h)) of voxels in (N, X, Y, Z) order: (n,) -> (n, 64)."""
        rows = self.features.movedim(1, -1).flatten(0, 3)[index].float()
        with torch.autocast(rows.device.type, enabled=False):
            return F.normalize(self.projector(rows), dim=1, eps=1e-6)


@dataclass(frozen=True)
class Seen:
    """One net's view of some crops: rows, predicted class per voxel (N, X, Y, Z), number of classes."""

    rows: Rows
    predicted: Tensor
    classes: int


def contrast(a: Rows, b: Rows, masks: tuple[Tensor, Tensor], config: C3S3Config, random: Generator) -> Tensor:
    """Eq. 7-9 for one pair of outputs and one class, with masks (anchors, negatives) as (n,) bool.

    The positive of an anchor of net A is the same position in net B; the negatives are shared.
    """
    anchors = _draw(masks[0], config.anchors, random)
    negatives = _draw(masks[1], config.negatives, random)
    if len(anchors) == 0 or len(negatives) == 0:
        return a.features.new_zeros((), dtype=torch.float32)
    query = a.at(anchors)
    positive = (query * b.at(anchors)).sum(dim=1, keepdim=True)
    similarity = torch.cat([positive, query @ b.at(negatives).T], dim=1) / config.temperature
    return (similarity.logsumexp(dim=1) - similarity[:, 0]).mean()


def intersection_union(a: Seen, b: Seen, config: C3S3Config, random: Generator) -> Tensor:
    """Eq. 7-9, L_iuc of one pair: trusted foreground against the rest, trusted background against the union.

    Parameters
    ----------
    a, b
        What the two nets saw in the same crops. With more than one foreground class, each stands
        against the rest and the mean is taken.
    """
    terms = []
    for label in range(1, a.classes):
        in_a, in_b = (a.predicted == label).flatten(), (b.predicted == label).flatten()
        both, either = in_a & in_b, in_a | in_b
        terms.append(contrast(a.rows, b.rows, (both, ~both), config, random))
        terms.append(contrast(a.rows, b.rows, (~either, either), config, random))
    return torch.stack(terms).sum() / (a.classes - 1)


def _draw(mask: Tensor, count: int, random: Generator) -> Tensor:
    """At most `count` indices where a flat mask is true, with replacement where there are more."""
    places = mask.nonzero()[:, 0]
    if len(places) <= count:
        return places
    return places[torch.randint(len(places), (count,), generator=random).to(places.device)]
