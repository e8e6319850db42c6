"""The loss terms of C3S3 (He et al., ICME 2025), one function per equation.

Probabilities are softmax outputs (N, C, X, Y, Z), class 0 is background. Every term is computed in
single precision and is 0, with finite gradients, where its masks are empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.distributed import total


@dataclass(frozen=True)
class SegTerms:
    """Eq. 2: the two supervised terms of one backbone, averaged over its views."""

    ce: Tensor
    dice: Tensor

    @property
    def loss(self) -> Tensor:
        """L_seg = CE + Dice."""
        return self.ce + self.dice

    def weighted(self, alpha: float) -> Tensor:
        """Return eq. 4: alpha CE + (1 - alpha) Dice, detached; the backbone with the lower value wins."""
        return alpha * self.ce.detach() + (1 - alpha) * self.dice.detach()


def cross_entropy(logits: Tensor, target: Tensor, axis: int = 1) -> Tensor:
    """Return the mean over voxels of -sum_c y log p, with soft targets (N, C, X, Y, Z).

    Logits may have an axis of views before N; `axis` is their class axis.
    """
    return -(target * F.log_softmax(logits.float(), dim=axis)).sum(dim=axis).mean()


def dice_loss(probability: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """Return 1 - Dice with squared denominators, averaged over the foreground classes.

    The sums are pooled over the batch, and over all processes if several train as one. Several views
    (V, N, C, X, Y, Z) are pooled separately and averaged.
    """
    p, y = probability[..., 1:, :, :, :].float(), target[:, 1:]
    sums = [x.sum((-5, -3, -2, -1)) for x in (p * y, p.square(), y.square())]
    overlap, predicted, wanted = total(torch.stack([x.expand_as(sums[0]) for x in sums]))
    loss: Tensor = (1 - (2 * overlap + smooth) / (predicted + wanted + smooth)).mean()
    return loss


def seg_terms(logits: list[Tensor], target: Tensor) -> SegTerms:
    """Return the terms of eq. 2 over the views of one backbone; `logits` of the labelled part only."""
    views = logits[0][None] if len(logits) == 1 else torch.stack(logits)  # all at once: fewer kernels
    return SegTerms(cross_entropy(views, target, 2), dice_loss(views.float().softmax(dim=2), target))


def taught_loss(logits: list[Tensor], target: Tensor, temperature: float) -> Tensor:
    """Return CE + Dice against a teacher's targets, as for labels, averaged over the views.

    With a temperature T the cross entropy is that of p^(1/T) on both sides, times T^2, which keeps the size
    of its gradient (Hinton et al., 2015, section 2). Both terms are smallest where the network's output
    equals the teacher's.

    Parameters
    ----------
    logits
        One (N, C, X, Y, Z) per view.
    target
        (N, C, X, Y, Z): probabilities, or a mask's shares of each class.
    """
    if temperature == 1:
        return seg_terms(logits, target).loss
    views = torch.stack(logits).float()
    soft = (target.clamp_min(1e-6).log() / temperature).softmax(dim=1)
    ce = temperature**2 * cross_entropy(views / temperature, soft, 2)
    return ce + dice_loss(views.softmax(dim=2), target)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Encode class numbers as one-hot: (N, ...) -> (N, classes, ...) float32."""
    # Used because the cross entropy of class numbers has no deterministic form on a GPU.
    return torch.stack([label == value for value in range(classes)], dim=1).float()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` is 1, pooled over all processes; 0 for an empty mask."""
    pooled = total(torch.stack([(values * mask).sum(), mask.sum()]))
    return pooled[0] / pooled[1].clamp_min(1)


def sharpen(probability: Tensor, temperature: float) -> Tensor:
    """Return p^(1/T) / sum_c p^(1/T), detached: the winner's pseudo-label."""
    # Computed in logarithms: 0.1^10 would underflow in half precision, and a zero would divide by zero.
    return (probability.detach().clamp_min(1e-12).log() / temperature).softmax(dim=1)


def cross_pseudo(
    loser: list[Tensor], winner: list[Tensor], temperature: float, confidence: float = 0.0
) -> Tensor:
    """Return eq. 5: sum over the views of the MSE between the loser's output and the winner's sharpened one.

    With a confidence, only voxels where the winner's likeliest class has at least this probability count; 0
    if there are none.
    """
    pairs = list(zip(loser, winner, strict=True))
    if not confidence:
        return torch.stack([F.mse_loss(a, sharpen(b, temperature)) for a, b in pairs]).sum()
    terms = []
    for a, b in pairs:
        certain = (b.detach().amax(dim=1) >= confidence).float()
        terms.append(masked_mean((a - sharpen(b, temperature)).square().mean(dim=1), certain))
    return torch.stack(terms).sum()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return eq. 6: 1 - cosine of two outputs, flattened per sample; mean over the batch."""
    return 1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-6).mean()


def ramp(progress: float) -> float:
    """Return exp(-5 (1 - progress)^2): 0.007 at the beginning, 1 at the end (Laine and Aila, 2017)."""
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
        """Return unit vectors z = L2norm(projector(h)) by (N, X, Y, Z) index: (..., n) -> (..., n, 64)."""
        rows = self.features.movedim(1, -1).flatten(0, 3)[index].float()
        with torch.autocast(rows.device.type, enabled=False):
            return F.normalize(self.projector(rows), dim=-1, eps=1e-6)


@dataclass(frozen=True)
class Seen:
    """The features and predictions of one net for some crops, in one view or several.

    Parameters
    ----------
    rows
        Rows of N crops, or of V * N: all crops of the first view, then all of the second.
    predicted
        Class of each voxel, (V * N, X, Y, Z).
    classes
        Number of classes, background included.
    views
        Number of views, V.
    """

    rows: Rows
    predicted: Tensor
    classes: int
    views: int = 1


def contrast(a: Rows, b: Rows, masks: tuple[Tensor, Tensor], config: C3S3Config, random: Generator) -> Tensor:
    """Return eq. 7-9 for one pair of outputs and one class, with masks (anchors, negatives) as (n,) bool.

    The positive of an anchor of net A is the same position in net B; the negatives are shared.
    """
    nothing = np.zeros((2, 1), np.int64)
    return _contrasts(a, b, torch.stack(masks)[None], nothing, config, random)[0]


def intersection_union(a: Seen, b: Seen, config: C3S3Config, random: Generator, first: int = 0) -> Tensor:
    """Return eq. 7-10: trusted foreground against the rest, trusted background against the union.

    The mean is over all pairs of a view of A and one of B, and over the crops from number `first` on.
    Negatives come from the anchor's own crop, so it does not matter whether crops share a process. With more
    than one foreground class, each is contrasted with the rest and the mean is taken.
    """
    both, either = _agreed(a, b, first)
    masks = torch.stack([both, ~both, ~either, either], dim=-2)
    crops, views_a, views_b, classes, _, voxels = masks.shape
    crop, i, j = np.indices((crops, views_a, views_b)).reshape(3, -1)
    each = len(a.predicted) // a.views
    begins = np.stack([view * each + first + crop for view in (i, j)]) * voxels
    masks = masks.reshape(-1, 2, voxels)
    terms = _contrasts(a.rows, b.rows, masks, begins.repeat(2 * classes, axis=1), config, random)
    return terms.sum() / (classes * len(crop))


def _agreed(a: Seen, b: Seen, first: int) -> tuple[Tensor, Tensor]:
    """Return where both nets, and where either, find a class: (crops, views A, views B, classes, voxels)."""
    label = torch.arange(1, a.classes, device=a.predicted.device)[:, None]
    of_a, of_b = (
        x.predicted.reshape(x.views, len(x.predicted) // x.views, -1)[:, first:].movedim(0, 1) for x in (a, b)
    )
    in_a, in_b = of_a[:, :, None, None] == label, of_b[:, None, :, None] == label
    return in_a & in_b, in_a | in_b


def _contrasts(
    a: Rows, b: Rows, masks: Tensor, begins: NDArray[np.int64], config: C3S3Config, random: Generator
) -> Tensor:
    """Return eq. 7-9 for many terms at once (T,), because a few large kernels keep a GPU busy.

    Parameters
    ----------
    masks
        (T, 2, n) bool: the anchors and the negatives of each term.
    begins
        (2, T): the index of the voxel of `a`, and of `b`, at which a term's masks begin.
    """
    voxel, drawn, split = _draw(masks, (config.anchors, config.negatives), random)
    in_a, in_b = (voxel + torch.from_numpy(begin[:, None]).to(voxel.device) for begin in begins)
    query, others = a.at(in_a[:, :split]), b.at(in_b)
    same, negatives = torch.split(others, [split, len(voxel[0]) - split], dim=1)
    positive = (query * same).sum(dim=2, keepdim=True)
    absent = ~drawn[:, None, split:]
    with torch.autocast(query.device.type, enabled=False):
        unlike = query @ negatives.mT
    similarity = torch.cat([positive, unlike.masked_fill(absent, -torch.inf)], dim=2)
    similarity = similarity / config.temperature
    weight = (drawn[:, :split] & drawn[:, split:].any(dim=1, keepdim=True)).float()
    losses = similarity.logsumexp(dim=2) - similarity[:, :, 0]
    return (losses * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)


def _draw(masks: Tensor, most: tuple[int, int], random: Generator) -> tuple[Tensor, Tensor, int]:
    """Draw at most `most` voxels where each mask is true, with replacement if there are more.

    Returns
    -------
    Indices of voxels (T, A + N) int64: those of the first masks, then those of the second ones; whether each
    was drawn (True), or pads a row with fewer voxels (False); and A.
    """
    counts = masks.sum(dim=2).tolist()
    places = masks.flatten().nonzero()[:, 0]
    split, length = (max(min(pair[n], most[n]) for pair in counts) for n in (0, 1))
    picked = np.zeros((len(counts), split + length), np.int64)
    drawn = np.zeros(picked.shape, np.bool_)
    begin = 0  # first of a mask's `places`
    for row, pair in enumerate(counts):
        for column, count, limit in zip((0, split), pair, most, strict=True):
            here = np.arange(count)
            if count > limit:
                here = torch.randint(count, (limit,), generator=random).numpy()
            picked[row, column : column + len(here)] = begin + here
            drawn[row, column : column + len(here)] = True
            begin += count
    moved = [torch.from_numpy(array).to(masks.device) for array in (picked, drawn)]
    return places[moved[0]] % masks.shape[2] if begin else moved[0], moved[1], split
