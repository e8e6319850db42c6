"""One step of C3S3: the paper on one screen.

supervised    both nets learn from the labels (eq. 2)
who wins      the net that fits the labels better in this step (eq. 4)
who learns    the other one, from the winner's sharpened output on unlabelled scans (eq. 5)
agreement     cross network, cross augmentation cosine (eq. 6)
contrast      trusted foreground and background against the disputed boundary (eq. 7-10)
total         one sum, one backward (eq. 3)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.competition import Competition
from c3s3_seg.training.data import Batch
from c3s3_seg.training.losses import (
    Rows,
    Seen,
    cosine_distance,
    cross_pseudo,
    intersection_union,
    ramp,
    seg_terms,
)
from c3s3_seg.training.published import depth_cosine, masked_intersection_union

Terms = dict[str, float]


@dataclass(frozen=True)
class Outputs:
    """The outputs of one backbone for each view of a batch (labelled crops first).

    Parameters
    ----------
    features
        Features of all views, one after the other: (V * (L + U), F, X, Y, Z).
    logits, probability
        One (L + U, C, X, Y, Z) float32 per view.
    projector
        Projection head of the backbone.
    """

    features: Tensor
    logits: tuple[Tensor, ...]
    probability: tuple[Tensor, ...]
    projector: nn.Module

    @classmethod
    def of(cls, net: Backbone, projector: nn.Module, batch: Batch, passes: int = 1) -> Outputs:
        """Run all views in one forward; with 2 passes, one view is decoded twice."""
        features = net.features(torch.cat(batch.views), passes)
        logits = net.output(features).float()
        views = len(batch.views) * passes
        return cls(features, logits.chunk(views), logits.softmax(dim=1).chunk(views), projector)

    def seen(self) -> Seen:
        """Return all crops of all views, for the contrast."""
        predicted = torch.cat([x.detach().argmax(dim=1) for x in self.logits])
        return Seen(Rows(self.features, self.projector), predicted, self.logits[0].shape[1], len(self.logits))

    def crop(self, view: int, number: int) -> Seen:
        """Return one crop of one view, for the published contrast."""
        logits = self.logits[view][number : number + 1]
        rows = Rows(self.features.chunk(len(self.logits))[view][number : number + 1], self.projector)
        return Seen(rows, logits.detach().argmax(dim=1), logits.shape[1])


def warm_loss(a: Outputs, b: Outputs, batch: Batch) -> tuple[Tensor, Terms]:
    """Return the loss of the warm-up: L_seg of both nets."""
    n = batch.labelled
    seg_a, seg_b = (seg_terms([x[:n] for x in net.logits], batch.target) for net in (a, b))
    return seg_a.loss + seg_b.loss, {"seg_a": float(seg_a.loss.detach()), "seg_b": float(seg_b.loss.detach())}


def c3s3_loss(
    a: Outputs, b: Outputs, batch: Batch, competition: Competition, config: C3S3Config, progress: float
) -> tuple[Tensor, Terms]:
    """Return the loss of eq. 2-10, in their order; `progress` (0 to 1) drives the ramps."""
    n, zero = batch.labelled, batch.target.new_zeros(())

    # supervised
    seg_a, seg_b = (seg_terms([x[:n] for x in net.logits], batch.target) for net in (a, b))

    # who wins
    a_wins = competition.a_wins(seg_a, seg_b)

    # who learns
    winner, loser = (a, b) if a_wins else (b, a)
    taught, teaching = ([p[n:] for p in net.probability] for net in (loser, winner))
    l_cp = cross_pseudo(taught, teaching, config.sharpening, config.confidence)

    # agreement; this and the contrast are costly, so they are left out if their weight is 0
    l_cos = _agreement(a, b, config) if config.cosine_weight else zero

    # contrast
    first = 0 if config.contrast_crops == "all" else n
    l_iuc = _contrast(a, b, first, config) if config.contrast_weight else zero

    # total
    cp_weight = config.cp_weight * (ramp(progress) if config.cp_schedule == "ramp" else 1)
    iuc_weight = config.contrast_weight * (ramp(progress) if config.contrast_schedule == "ramp" else 1)
    l_unsup = cp_weight * l_cp + config.contrast_backwards * iuc_weight * l_iuc
    total = seg_a.loss + seg_b.loss + config.cosine_weight * l_cos + l_unsup
    terms = {"seg_a": seg_a.loss, "seg_b": seg_b.loss, "cp": l_cp, "cos": l_cos, "iuc": l_iuc}
    return total, {
        **dict(zip(terms, torch.stack([v.detach() for v in terms.values()]).tolist(), strict=True)),
        "a_wins": float(a_wins),
        "cp_weight": cp_weight,
        "iuc_weight": iuc_weight,
    }


def _agreement(a: Outputs, b: Outputs, config: C3S3Config) -> Tensor:
    """Return L_cos, eq. 6 (row 4 if `published`)."""
    if config.cosine == "published":
        (a1, a2), (b1, b2) = a.logits, b.logits
        return depth_cosine(a1, a2) + depth_cosine(b1, b2)
    (a1, a2), (b1, b2) = a.probability, b.probability
    return cosine_distance(a1, b2) + cosine_distance(b1, a2)


def _contrast(a: Outputs, b: Outputs, first: int, config: C3S3Config) -> Tensor:
    """Return eq. 10: the mean over the four pairs of views and the crops from `first` on."""
    random = Generator().manual_seed(int(torch.randint(2**31, ())))
    if config.contrast == "intersection-union":
        return intersection_union(a.seen(), b.seen(), config, random, first)
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    crops = range(first, len(a.logits[0]))
    terms = [
        masked_intersection_union(a.crop(i, n), b.crop(j, n), config.temperature)
        for n in crops
        for i, j in pairs
    ]
    return torch.stack(terms).mean()
