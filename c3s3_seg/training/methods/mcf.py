"""MCF (Wang et al., CVPR 2023): two nets are corrected where they differ, and the better one teaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import masked_mean
from c3s3_seg.training.methods.base import logged
from c3s3_seg.training.methods.c3s3 import C3S3
from c3s3_seg.training.step import Outputs, Terms


class MutualCorrection(C3S3):
    """MCF: L_seg, the review of labelled voxels where the nets differ, and L_cp, in one view of each crop.

    C3S3 extends MCF. What both have, such as the sharpening and the weight of L_cp, is in the section `c3s3`.
    """

    def __init__(self, config: TrainConfig) -> None:
        own = replace(
            config.c3s3,
            alpha=config.mcf.alpha,
            cosine_weight=0.0,
            contrast_weight=0.0,
            views="independent",
        )
        super().__init__(replace(config, c3s3=own))

    def views(self, iteration: int) -> Views:
        """Request labelled crops in the warm-up, then both kinds; always in one view."""
        return replace(super().views(iteration), count=1)

    def _additions(
        self, a: Outputs, b: Outputs, batch: Batch, terms: Terms
    ) -> Iterator[tuple[Tensor, Terms]]:
        """Yield the review, which learns from labels and so is in the warm-up too, and configured terms."""
        p_a, p_b = (net.probability[0][: batch.labelled] for net in (a, b))
        reviewed = review(p_a, p_b, batch.target)
        yield self.config.mcf.review_weight * reviewed, logged(review=reviewed)
        yield from super()._additions(a, b, batch, terms)


def review(p_a: Tensor, p_b: Tensor, target: Tensor) -> Tensor:
    """Return the sum of both nets' squared errors, each the mean over the voxels where the nets differ.

    The nets differ where their likeliest classes do; the term is 0 if they agree everywhere.

    Parameters
    ----------
    p_a, p_b
        Probabilities of labelled crops (L, C, X, Y, Z).
    target
        Their labels (L, C, X, Y, Z).
    """
    differ = (p_a.argmax(dim=1) != p_b.argmax(dim=1)).float()
    errors = [masked_mean((p - target).square().mean(dim=1), differ) for p in (p_a, p_b)]
    return torch.stack(errors).sum()
