"""SS-Net (Wu et al., MICCAI 2022): smooth outputs around each crop, and separate features of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.activation_checkpointing import settled
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import ramp
from c3s3_seg.training.methods.base import Method, Phase, fresh, logged
from c3s3_seg.training.methods.rows import draw, evaluating, pass_rows, perceptron, rows_at

SLOPE = 0.2  # slope of the selectors' leaky ReLU below 0
PUBLISHED_CROP = 112 * 112 * 80  # voxels of the crop for which the lengths of the steps were published


class SmoothSeparable(Method):
    """SS-Net: backbone A with virtual adversarial training, and a memory per class that features approach.

    The labels' Dice is the mean of the foreground classes; smoothness and separation are of all classes.
    """

    alone = "the memory is of one process's crops"
    memory: Tensor
    filled: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)
        channels, classes = config.ssnet.channels, config.task.classes
        self.project, self.predict = perceptron(self.info.filters, channels), perceptron(channels, channels)
        self.select_features, self.select_memory = (
            nn.ModuleList(_selector(channels) for _ in range(classes)) for _ in range(2)
        )
        self.register_buffer("memory", torch.zeros(classes, config.ssnet.vectors, channels))
        self.register_buffer("filled", torch.zeros(classes, dtype=torch.long))

    def views(self, iteration: int) -> Views:
        """Request both kinds of crops in one view."""
        return Views(self.config.run.labelled_batch, self.config.run.unlabelled_batch)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase: Dice, smoothness on all crops, and separation."""
        n, config = batch.labelled, self.config.ssnet
        (images,) = batch.views
        features = self.net.features(images)
        p = self.net.output(features).float().softmax(dim=1)
        dice = plain_dice(p[:n, 1:], batch.target[:, 1:])
        smoothness = self._smoothness(images, p.detach())
        truth, said = batch.target.argmax(dim=1), p.argmax(dim=1)
        self._remember(features[:n], torch.where(said[:n] == truth, truth, -1))
        separation = self._separation(features[:n], truth) + self._separation(features[n:], said[n:])
        weight = config.weight * ramp(self.progress(iteration) / config.ramp)
        loss = dice + weight * (smoothness + config.contrast_weight * separation)
        yield Phase(loss, ("main",), logged(dice=dice, smoothness=smoothness, separation=separation))

    def _smoothness(self, images: Tensor, answer: Tensor) -> Tensor:
        """Return the Dice distance of the outputs for crops and for crops moved where outputs change most."""
        config = self.config.ssnet
        distance = pooled_dice if config.distance == "pooled" else plain_dice
        longer = math.sqrt(images[0].numel() / PUBLISHED_CROP)  # equal changes of each voxel
        noise = unit(torch.rand_like(images) - 0.5).requires_grad_(True)
        with settled(self.net):  # batch norms do not remember the moved crops
            moved = self.net(images + longer * config.probe * noise).float().softmax(dim=1)
            # Only the gradient's direction is used; per voxel it would vanish in half precision.
            (gradient,) = torch.autograd.grad(distance(moved, answer) * answer.numel(), noise)
            moved = self.net(images + longer * config.radius * unit(gradient)).float().softmax(dim=1)
        return distance(moved, answer)

    @property
    def _contrasted(self) -> range:
        """The classes that have a memory."""
        return range(self.config.ssnet.memory == "published", self.config.task.classes)

    @torch.no_grad()
    def _remember(self, features: Tensor, right: Tensor) -> None:
        """Replace the memory of each class by correctly predicted voxels (`right`: class, or -1)."""
        config = self.config.ssnet
        with evaluating(self.project, self.select_features):
            for label in self._contrasted:
                index = draw(right == label, config.voxels)
                if len(index):
                    rows = pass_rows(rows_at(features, index), [self.project])
                    scores = pass_rows(rows, [self.select_features[label]])[:, 0]
                    best = scores.argsort(stable=True, descending=config.memory == "paper")[: config.vectors]
                    self.memory[label, : len(best)] = rows[best]
                    self.filled[label] = len(best)

    def _separation(self, features: Tensor, label: Tensor) -> Tensor:
        """Return the weighted cosine distance of voxels to the memory of their class, mean over classes."""
        config = self.config.ssnet
        index = {c: draw(label == c, config.voxels) for c in self._contrasted}
        index = {c: i for c, i in index.items() if min(len(i), int(self.filled[c])) > 1}
        if not index:  # batch norm needs two rows
            return features.new_zeros((), dtype=torch.float32)
        rows = rows_at(features, torch.cat(list(index.values())))
        passed = pass_rows(rows, [self.project, self.predict])
        parts = torch.tensor_split(passed, torch.tensor([len(i) for i in index.values()]).cumsum(0)[:-1])
        terms = []
        for c, part in zip(index, parts, strict=True):
            memory = self.memory[c, : int(self.filled[c])].clone()  # the next step overwrites the memory
            chosen = selected(part.detach(), self.select_features[c])
            terms.append(weighted_distance(part, memory, chosen, selected(memory, self.select_memory[c])))
        return torch.stack(terms).sum() / self.config.task.classes

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return the net; heads and selectors are not exported."""
        return {self.info.candidate: (self.net, self.info)}


def _selector(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, channels), nn.BatchNorm1d(channels), nn.LeakyReLU(SLOPE), nn.Linear(channels, 1)
    )


def unit(x: Tensor) -> Tensor:
    """Scale each sample to Euclidean length 1."""
    return F.normalize(x.flatten(1), dim=1).view_as(x)


def plain_dice(probability: Tensor, target: Tensor, smooth: float = 1e-8) -> Tensor:
    """Return 1 - Dice with plain sums over the batch, mean over the classes given."""
    axes = (0, 2, 3, 4)
    overlap, sizes = (probability * target).sum(axes), (probability + target).sum(axes)
    return 1 - ((2 * overlap + smooth) / (sizes + smooth)).mean()


def pooled_dice(probability: Tensor, target: Tensor, smooth: float = 1e-8) -> Tensor:
    """Return 1 - Dice with plain sums over batch, classes and voxels together."""
    return 1 - (2 * (probability * target).sum() + smooth) / ((probability + target).sum() + smooth)


def selected(rows: Tensor, selector: nn.Module) -> Tensor:
    """Return the weights of rows, with mean 1: (n, F) -> (n,)."""
    weights = pass_rows(rows, [selector])[:, 0].sigmoid()
    return weights / weights.mean().clamp_min(1e-6)


def weighted_distance(rows: Tensor, memory: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean of (1 - cosine) over all pairs, weighted on both sides: (n, F), (m, F), (n,), (m,)."""
    with torch.autocast(rows.device.type, enabled=False):
        cosine = F.normalize(rows, dim=1, eps=1e-6) @ F.normalize(memory, dim=1, eps=1e-6).T
    return ((1 - cosine) * ours[:, None] * theirs[None]).mean()
