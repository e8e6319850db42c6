"""Exponential moving average of weights: what is validated and exported."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A slow copy of a network.

    Parameters
    ----------
    net
        The network that learns.
    decay
        Share of the old average that is kept in a step; smaller in the first steps, where the
        average would otherwise remember the random start.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, net: nn.Module, iteration: int) -> None:
        """Move towards `net`, its batch norm statistics included."""
        share = 1 - min(self.decay, (1 + iteration) / (10 + iteration))
        for slow, fast in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, share)
            else:
                slow.copy_(fast)
