"""Features of single voxels as rows: the functions that CAML and SS-Net share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def perceptron(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return linear, batch norm, ReLU, linear, for rows; only the input has `channels_in` channels."""
    return nn.Sequential(
        nn.Linear(channels_in, channels_out),
        nn.BatchNorm1d(channels_out),
        nn.ReLU(),
        nn.Linear(channels_out, channels_out),
    )


def rows_at(features: Tensor, index: Tensor) -> Tensor:
    """Return voxels of a map (N, F, X, Y, Z), by index in (N, X, Y, Z) order: (n,) -> (n, F) float32."""
    return features.movedim(1, -1).flatten(0, 3)[index].float()


def draw(mask: Tensor, count: int) -> Tensor:
    """Draw at most `count` different indices of voxels where a mask is true, at random."""
    places = mask.flatten().nonzero()[:, 0]
    if len(places) <= count:
        return places
    return places[torch.randperm(len(places))[:count].to(places.device)]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Set modules to evaluation mode, as for writing a memory, and restore their modes afterwards."""
    before = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)


def pass_rows(rows: Tensor, heads: Sequence[nn.Module]) -> Tensor:
    """Pass rows through one head after the other, in single precision."""
    with torch.autocast(rows.device.type, enabled=False):
        for head in heads:
            rows = head(rows)
    return rows
