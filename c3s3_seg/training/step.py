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

from c3s3_seg.models import Backbone
from c3s3_seg.training.config import C3S3Config
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

Terms = dict[str, float]


@dataclass(frozen=True)
class Outputs:
    """What one backbone says about each view of a batch (labelled crops first).

    Parameters
    ----------
    features
        Per view (L + U, F, X, Y, Z).
    logits, probability
        Per view (L + U, C, X, Y, Z), float32.
    projector
        The backbone's projection head.
    """

    features: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    probability: tuple[Tensor, ...]
    projector: nn.Module

    @classmethod
    def of(cls, net: Backbone, projector: nn.Module, batch: Batch) -> Outputs:
        """All views in one pass."""
        features = net.features(torch.cat(batch.views))
        logits = net.output(features).float()
        views = len(batch.views)
        return cls(features.chunk(views), logits.chunk(views), logits.softmax(dim=1).chunk(views), projector)

    def seen(self, view: int, labelled: int) -> Seen:
        """The unlabelled part of one view, for the contrast."""
        rows = Rows(self.features[view][labelled:], self.projector)
        return Seen(rows, self.logits[view][labelled:].detach().argmax(dim=1), self.logits[view].shape[1])


def warm_loss(a: Outputs, b: Outputs, batch: Batch) -> tuple[Tensor, Terms]:
    """The warm start: L_seg of both nets."""
    seg_a, seg_b = (seg_terms(list(net.logits), batch.target) for net in (a, b))
    return seg_a.loss + seg_b.loss, {"seg_a": float(seg_a.loss.detach()), "seg_b": float(seg_b.loss.detach())}


def c3s3_loss(
    a: Outputs, b: Outputs, batch: Batch, config: C3S3Config, progress: float
) -> tuple[Tensor, Terms]:
    """Eq. 2-10 in their order; `progress` (0 to 1) drives the ramps."""
    n, zero = batch.labelled, batch.target.new_zeros(())  # a term whose weight is 0 is not computed

    # supervised
    seg_a, seg_b = (seg_terms([x[:n] for x in net.logits], batch.target) for net in (a, b))

    # who wins; a tie goes to A
    a_wins = seg_a.competition(config.alpha) <= seg_b.competition(config.alpha)

    # who learns
    winner, loser = (a, b) if a_wins else (b, a)
    l_cp = cross_pseudo(
        [p[n:] for p in loser.probability], [p[n:] for p in winner.probability], config.sharpening
    )

    # agreement
    (a1, a2), (b1, b2) = a.probability, b.probability
    l_cos = cosine_distance(a1, b2) + cosine_distance(b1, a2) if config.cosine_weight else zero

    # contrast
    l_iuc = _contrast(a, b, n, config) if config.contrast_weight else zero

    # total
    weight = ramp(progress)
    l_unsup = config.cp_weight * weight * l_cp + config.contrast_weight * weight * l_iuc
    total = seg_a.loss + seg_b.loss + config.cosine_weight * l_cos + l_unsup
    terms = {"seg_a": seg_a.loss, "seg_b": seg_b.loss, "cp": l_cp, "cos": l_cos, "iuc": l_iuc}
    return total, {
        **{k: float(v.detach()) for k, v in terms.items()},
        "a_wins": float(a_wins),
        "ramp": weight,
    }


def _contrast(a: Outputs, b: Outputs, labelled: int, config: C3S3Config) -> Tensor:
    """Eq. 10: the mean over the four pairs of views, on the unlabelled crops."""
    random = Generator().manual_seed(int(torch.randint(2**31, ())))
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    terms = [intersection_union(a.seen(i, labelled), b.seen(j, labelled), config, random) for i, j in pairs]
    return torch.stack(terms).mean()
