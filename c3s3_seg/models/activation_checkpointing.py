"""Activation checkpointing: large maps are computed again in the backward pass, to save memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn


class Checkpointed(nn.Module):
    """A module that calls its costly parts through `part`.

    Attributes
    ----------
    activation_checkpointing
        Whether to keep only inputs and output of each part in training, and compute the rest again.
    """

    activation_checkpointing = False

    def part(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return `function(*inputs)`; the function is a part of this module.

        Value, gradients and the running statistics of batch norms are the same with and without
        `activation_checkpointing`.
        """
        if not (self.activation_checkpointing and self.training and torch.is_grad_enabled()):
            return function(*inputs)
        from torch.utils.checkpoint import checkpoint

        return checkpoint(  # type: ignore[no-any-return]
            function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), settled(self))
        )


def set_activation_checkpointing(module: nn.Module, wanted: bool) -> None:
    """Set `activation_checkpointing` on all `Checkpointed` modules in a module."""
    for child in module.modules():
        if isinstance(child, Checkpointed):
            child.activation_checkpointing = wanted


@contextmanager
def settled(module: nn.Module) -> Iterator[None]:
    """Freeze the statistics of batch norms, which have counted the same input already."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm3d | nn.SyncBatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, kept, strict=True):
        # A copy of the counter counts instead: SyncBatchNorm refuses to train without a counter.
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
