"""Eq. 4: which backbone teaches in this step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from c3s3_seg.training import distributed as group
from c3s3_seg.training.losses import SegTerms


class Competition(nn.Module):
    """alpha CE + (1 - alpha) Dice on the labelled crops; the lower value wins, a tie goes to A.

    Several processes judge together, by the mean of their values.

    Parameters
    ----------
    alpha
        Weight of the cross entropy.
    decay
        Share of the past in an average over steps that is compared in place of this step's values; 0 is
        the paper's form. One labelled crop is a noisy judge.
    """

    values: Tensor

    def __init__(self, alpha: float, decay: float = 0.0) -> None:
        super().__init__()
        self.alpha, self.decay = alpha, decay
        self.register_buffer("values", torch.zeros(2, dtype=torch.float64))

    @torch.no_grad()
    def a_wins(self, a: SegTerms, b: SegTerms) -> bool:
        """Judge, and remember."""
        values = torch.stack([terms.weighted(self.alpha) for terms in (a, b)])
        now = group.mean(values.tolist())
        # Both averages begin at 0, so what they lack at first they lack alike.
        self.values.lerp_(torch.tensor(now, dtype=torch.float64, device=self.values.device), 1 - self.decay)
        return bool(self.values[0] <= self.values[1])
