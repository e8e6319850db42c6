"""SDCL (Song and Wang, MICCAI 2024): BCP with two networks, which are corrected where they differ."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.config import TrainConfig, warm_up
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.ema import Ema
from c3s3_seg.training.losses import masked_mean
from c3s3_seg.training.method_settings import SDCLConfig
from c3s3_seg.training.methods.base import Method, Phase, fresh, logged
from c3s3_seg.training.methods.bcp import (
    Mixed,
    copy_paste_loss,
    follow,
    mixing_views,
    paste_both_ways,
    pretraining_loss,
    pseudo_labels,
)


class DiscrepancyCorrection(Method):
    """SDCL: backbones A and B on the same mixed crops; only A has a teacher, whose pseudo-labels serve both.

    With several classes two networks differ where their likeliest classes do.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        (self.a, self.info_a), (self.b, self.info_b) = fresh(config)
        self._average = Ema(self.a, config.sdcl.teacher_decay)
        self.teacher = self._average.net  # a sub-module, so that the checkpoint holds it

    def views(self, iteration: int) -> Views:
        """Request labelled crops in the pre-training, then both kinds, and a box."""
        return mixing_views(self.config, self.config.sdcl.box, iteration)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase: the sum of both networks' losses."""
        config = self.config.sdcl
        if iteration < warm_up(self.config):
            loss_a, loss_b = (pretraining_loss(net, batch) for net in (self.a, self.b))
            yield Phase(loss_a + loss_b, ("main",), logged(pretraining_a=loss_a, pretraining_b=loss_b))
            return
        unlabelled = batch.views[0][batch.labelled :]
        mixed = paste_both_ways(batch, pseudo_labels(self.teacher, unlabelled, config.largest_component))
        logits_a, logits_b = self.a(mixed.images).float(), self.b(mixed.images).float()
        mix_a, mix_b = (
            2 * copy_paste_loss(x, mixed, config.pseudo_weight).mean()  # the sum of both directions
            for x in (logits_a, logits_b)
        )
        corrected = both_ways(logits_a.softmax(dim=1), logits_b.softmax(dim=1), mixed, config)
        terms = logged(mix_a=mix_a, mix_b=mix_b, corrected=corrected)
        yield Phase(mix_a + mix_b + corrected, ("main",), terms)

    def after_start(self) -> None:
        """Copy A to the teacher."""
        self._average.copy(self.a)

    def after_step(self, iteration: int) -> None:
        """Update the teacher from A; in the pre-training, copy A."""
        follow(self._average, self.a, iteration, warm_up(self.config))

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return both networks' parameters."""
        return {"main": [*self.a.parameters(), *self.b.parameters()]}

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return both networks."""
        return {
            self.info_a.candidate: (self.a, self.info_a),
            self.info_b.candidate: (self.b, self.info_b),
        }


def both_ways(p_a: Tensor, p_b: Tensor, mixed: Mixed, config: SDCLConfig | C3S3Config) -> Tensor:
    """Return the sum of the corrections of both directions of pasting."""
    halves = [(p_a.chunk(2)[n], p_b.chunk(2)[n], mixed.half(n)) for n in (0, 1)]
    return torch.stack([correction(a, b, half, config) for a, b, half in halves]).sum()


def correction(p_a: Tensor, p_b: Tensor, mixed: Mixed, config: SDCLConfig | C3S3Config) -> Tensor:
    """Return, where A and B differ, the squared error of both, and their certainty where they are wrong.

    A voxel has weight 1 in the labelled region, and `pseudo_weight` outside it. Each term is the sum over its
    voxels of both regions, divided by the number of these voxels; it is 0 if the networks agree everywhere.

    Parameters
    ----------
    p_a, p_b
        Probabilities (N, C, X, Y, Z).
    """
    differ = (p_a.argmax(dim=1) != p_b.argmax(dim=1)).float()
    labelled, wanted = mixed.labelled[:, 0], mixed.target.argmax(dim=1)
    weight = labelled + config.pseudo_weight * (1 - labelled)
    terms = []
    for p in (p_a, p_b):
        wrong = differ * (p.argmax(dim=1) != wanted)
        squared = (p - mixed.target).square().mean(dim=1)
        uniform = -p.clamp_min(1e-8).log().mean(dim=1)  # cross entropy of the uniform distribution
        terms.append(config.correction_weight * masked_mean(squared * weight, differ))
        terms.append(config.entropy_weight * masked_mean(uniform * weight, wrong))
    return torch.stack(terms).sum()
