"""BCP (Bai et al., CVPR 2023): labelled and unlabelled crops are pasted into each other, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig, warm_up
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.ema import Ema
from c3s3_seg.training.losses import one_hot
from c3s3_seg.training.methods.base import Method, Phase, fresh, logged

SMOOTH = 1e-5


@dataclass(frozen=True)
class Mixed:
    """Crops that were pasted together.

    Parameters
    ----------
    images
        (N, 1, X, Y, Z).
    target
        (N, C, X, Y, Z): labels, and pseudo-labels where there are no labels.
    labelled
        (N, 1, X, Y, Z) float32: 1 where `target` is a label.
    """

    images: Tensor
    target: Tensor
    labelled: Tensor

    def half(self, number: int) -> Mixed:
        """Return half 0, unlabelled boxes in labelled crops, or 1, labelled boxes in unlabelled crops."""
        parts = (x.chunk(2)[number] for x in (self.images, self.target, self.labelled))
        return Mixed(*parts)


class BidirectionalCopyPaste(Method):
    """BCP with backbone A, whose moving average, with batch statistics and dropout, gives the pseudo-labels.

    Pre-training pastes labelled crops into each other. All classes, background included, have a Dice term; a
    pseudo-label is the likeliest class, with only the largest component of each foreground class.
    The published code runs a forward for each direction; here one forward takes both.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)
        self._average = Ema(self.net, config.bcp.teacher_decay)
        self.teacher = self._average.net  # a sub-module, so that the checkpoint holds it

    def views(self, iteration: int) -> Views:
        """Request labelled crops in the pre-training, then both kinds, and a box."""
        return mixing_views(self.config, self.config.bcp.box, iteration)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase: the loss on mixed crops of both directions, or on labelled crops at first."""
        if iteration < warm_up(self.config):
            loss = pretraining_loss(self.net, batch)
            yield Phase(loss, ("main",), logged(pretraining=loss))
            return
        mixed = paste_both_ways(batch, self._pseudo_labels(batch))
        losses = copy_paste_loss(self.net(mixed.images), mixed, self.config.bcp.pseudo_weight)
        inward, outward = (half.mean() for half in losses.chunk(2))
        terms = {"inward": inward, "outward": outward, "pseudo": mixed.target[:, 1:].mean()}
        yield Phase(inward + outward, ("main",), logged(**terms))

    def _pseudo_labels(self, batch: Batch) -> Tensor:
        unlabelled = batch.views[0][batch.labelled :]
        return pseudo_labels(self.teacher, unlabelled, self.config.bcp.largest_component)

    def after_start(self) -> None:
        """Copy the student to the teacher."""
        self._average.copy(self.net)

    def after_step(self, iteration: int) -> None:
        """Update the teacher; in the pre-training, copy the student."""
        follow(self._average, self.net, iteration, warm_up(self.config))

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return the student's parameters only."""
        return {"main": list(self.net.parameters())}

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return the student."""
        return {self.info.candidate: (self.net, self.info)}


def mixing_views(config: TrainConfig, box: float, iteration: int) -> Views:
    """Return the views of a method that pastes crops: labelled ones in the pre-training, then both kinds."""
    run = config.run
    if iteration < warm_up(config):
        return Views(run.warm_batch, box=box)
    return Views(run.labelled_batch, run.unlabelled_batch, box=box)


def follow(average: Ema, student: nn.Module, iteration: int, pretraining: int) -> None:
    """Move a teacher towards its student; in the pre-training, copy the student."""
    if iteration < pretraining:
        average.copy(student)
    else:
        average.update(student, iteration)


@torch.no_grad()
def pseudo_labels(teacher: nn.Module, images: Tensor, largest: bool) -> Tensor:
    """Return the teacher's likeliest class, one-hot (N, C, X, Y, Z); if `largest`, its largest component."""
    logits = teacher(images)
    label = logits.argmax(dim=1)
    if largest:
        label = largest_components(label)
    return one_hot(label, logits.shape[1])


def largest_components(label: Tensor) -> Tensor:
    """Set all but each foreground class's largest component to background: (N, X, Y, Z) -> the same shape.

    Voxels that share a corner are connected; of components of one size the first in memory order stays.
    """
    from scipy.ndimage import label as components

    found = label.cpu().numpy().copy()
    for crop in found:
        for value in np.unique(crop[crop > 0]):
            numbered, count = components(crop == value, structure=np.ones((3, 3, 3)))
            if count > 1:
                sizes = np.bincount(numbered.ravel())
                crop[(numbered > 0) & (numbered != 1 + sizes[1:].argmax())] = 0
    return torch.from_numpy(found).to(label.device)


def halves(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Return even and odd crops: pairs are neighbours, kept in one process; an odd last crop is in both."""
    second = crops[1::2] if len(crops) % 2 == 0 else torch.cat([crops[1::2], crops[-1:]])
    return crops[0::2], second


def paste_labelled(batch: Batch) -> Mixed:
    """Paste boxes of one half of the labelled crops into the other half, for the pre-training."""
    (a, b), (y_a, y_b), mask = halves(batch.views[0]), halves(batch.target), batch.box
    images, target = a * mask + b * (1 - mask), y_a * mask + y_b * (1 - mask)
    return Mixed(images, target, torch.ones_like(images))


def paste_both_ways(batch: Batch, pseudo: Tensor) -> Mixed:
    """Paste unlabelled boxes into labelled crops, then labelled boxes into unlabelled ones (self-training).

    Parameters
    ----------
    pseudo
        Pseudo-labels (U, C, X, Y, Z), one-hot.
    """
    n, mask = batch.labelled, batch.box
    (l_a, l_b), (u_a, u_b) = halves(batch.views[0][:n]), halves(batch.views[0][n:])
    (y_a, y_b), (p_a, p_b) = halves(batch.target), halves(pseudo)
    images = torch.cat([l_a * mask + u_a * (1 - mask), u_b * mask + l_b * (1 - mask)])
    target = torch.cat([y_a * mask + p_a * (1 - mask), p_b * mask + y_b * (1 - mask)])
    inward, outward = mask.expand_as(l_a), (1 - mask).expand_as(l_b)
    return Mixed(images, target, torch.cat([inward, outward]))


def pretraining_loss(net: nn.Module, batch: Batch) -> Tensor:
    """Return (CE + Dice) / 2 of labelled crops pasted into labelled crops."""
    mixed = paste_labelled(batch)
    return region_loss(net(mixed.images), mixed.target, mixed.labelled).mean()


def copy_paste_loss(logits: Tensor, mixed: Mixed, pseudo_weight: float) -> Tensor:
    """Return the loss (N,) of the labelled region, plus `pseudo_weight` times that of the other region."""
    labelled = region_loss(logits, mixed.target, mixed.labelled)
    return labelled + pseudo_weight * region_loss(logits, mixed.target, 1 - mixed.labelled)


def region_loss(logits: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Return (CE + Dice) / 2 of each crop (N,) within a region (N, 1, X, Y, Z); 0 for an empty region.

    The Dice has sums without squares and is the mean over all classes.
    """
    log_p, axes = F.log_softmax(logits.float(), dim=1), (2, 3, 4)
    ce_map = -(target * log_p).sum(dim=1, keepdim=True)
    ce = (ce_map * region).sum((1, *axes)) / region.sum((1, *axes)).clamp_min(1)
    p, y = log_p.exp() * region, target * region
    dice = (2 * (p * y).sum(axes) + SMOOTH) / ((p + y).sum(axes) + SMOOTH)
    return (ce + 1 - dice.mean(dim=1)) / 2
