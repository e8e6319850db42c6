"""Eq. 4: the competition, which decides the backbone that teaches in a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from c3s3_seg.training import distributed as group
from c3s3_seg.training.losses import SegTerms


class Competition(nn.Module):
    """The comparison of alpha CE + (1 - alpha) Dice on labelled crops: the lower value wins, a tie goes to A.

    Several processes compare the mean of their values.

    Parameters
    ----------
    alpha
        Weight of the cross entropy.
    decay
        Share of the past in an average over steps that is compared in place of this step's values, as a
        single labelled crop gives noisy values; 0: the paper's form.
    """

    values: Tensor

    def __init__(self, alpha: float, decay: float = 0.0) -> None:
        super().__init__()
        self.alpha, self.decay = alpha, decay
        self.register_buffer("values", torch.zeros(2, dtype=torch.float64))

    @torch.no_grad()
    def a_wins(self, a: SegTerms, b: SegTerms) -> bool:
        """Update the averages, and return whether A wins."""
        values = torch.stack([terms.weighted(self.alpha) for terms in (a, b)])
        now = group.mean(values.tolist())
        # Both averages begin at 0, so at first both are too low by the same factor.
        self.values.lerp_(torch.tensor(now, dtype=torch.float64, device=self.values.device), 1 - self.decay)
        return bool(self.values[0] <= self.values[1])
