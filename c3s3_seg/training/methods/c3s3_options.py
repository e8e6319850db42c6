"""Terms that the paper lacks: copy-paste mixing (BCP), correction where the nets differ (SDCL).

Both learn from pseudo-labels that the moving average of the step's winner gives. Neither is on by default;
benchmarks/training-log.md states which of the terms help.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.data import Batch
from c3s3_seg.training.methods.base import logged
from c3s3_seg.training.methods.bcp import Mixed, copy_paste_loss, paste_both_ways, pseudo_labels
from c3s3_seg.training.methods.rows import evaluating
from c3s3_seg.training.methods.sdcl import both_ways, correction
from c3s3_seg.training.step import Outputs, Terms

Nets = tuple[nn.Module, nn.Module]


def pseudo_label_loss(
    nets: Nets, outputs: tuple[Outputs, Outputs], teacher: nn.Module, batch: Batch, config: C3S3Config
) -> tuple[Tensor, Terms]:
    """Return the weighted sum of the optional terms; there is no ramp, as published for both.

    Parameters
    ----------
    nets, outputs
        A and B, and their outputs for the batch.
    teacher
        Moving average of the winner, run as it would ship, in evaluation mode.
    batch
        Batch, with a box if crops are mixed.
    """
    with evaluating(teacher):
        pseudo = pseudo_labels(teacher, batch.views[0][batch.labelled :], config.largest_component)
    found, corrects = (
        logged(pseudo=pseudo[:, 1:].mean()),
        config.correction_weight + config.entropy_weight > 0,
    )
    if not config.mix_weight:
        a, b = (net.probability[0] for net in outputs)
        corrected = correction(a, b, unmixed(batch, pseudo), config)
        return corrected, found | logged(corrected=corrected)
    mixed = paste_both_ways(batch, pseudo)
    logits_a, logits_b = (net(mixed.images).float() for net in nets)
    mix_a, mix_b = (
        2 * copy_paste_loss(x, mixed, config.pseudo_weight).mean()  # the sum of both directions
        for x in (logits_a, logits_b)
    )
    loss, found = config.mix_weight * (mix_a + mix_b), found | logged(mix_a=mix_a, mix_b=mix_b)
    if not corrects:
        return loss, found
    corrected = both_ways(logits_a.softmax(dim=1), logits_b.softmax(dim=1), mixed, config)
    return loss + corrected, found | logged(corrected=corrected)


def unmixed(batch: Batch, pseudo: Tensor) -> Mixed:
    """Return the crops of the first view unchanged, unlabelled ones with pseudo-labels (U, C, X, Y, Z)."""
    images = batch.views[0]
    labelled = torch.zeros_like(images)
    labelled[: batch.labelled] = 1
    return Mixed(images, torch.cat([batch.target, pseudo]), labelled)
