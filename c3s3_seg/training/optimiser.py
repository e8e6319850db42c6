"""The optimisers of a run, and the schedule of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from c3s3_seg.training.methods import Adam
from c3s3_seg.training.settings import OptimiserConfig


def schedule(config: OptimiserConfig, progress: float) -> float:
    """Return the learning rate as a share of the first one: from 1 at progress 0 to 0 at 1, or always 1."""
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return float((1 - progress) ** 0.9)


def sgd(parameters: list[nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    """Return the SGD optimiser of the trained networks."""
    return torch.optim.SGD(
        parameters,
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )


def adam(parameters: list[nn.Parameter], config: Adam) -> torch.optim.Optimizer:
    """Return the Adam optimiser of parameters beside the networks for which a method requests Adam."""
    return torch.optim.Adam(parameters, config.lr, config.betas)
