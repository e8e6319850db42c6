"""DTC (Luo et al., AAAI 2021): one head labels voxels, another measures distances, and the two must agree."""

from collections.abc import Iterator

import torch
from torch import nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import dice_loss, ramp
from c3s3_seg.training.methods.base import Method, Phase, fresh, logged


class DualTaskConsistency(Method):
    """DTC: backbone A with a second head, tanh, for the signed distance of each foreground class.

    The labels' loss is the Dice alone, as published.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)
        self.distance = nn.Conv3d(self.info.filters, config.task.classes - 1, 1)

    def views(self, iteration: int) -> Views:
        """Request both kinds of crops in one view, and distance maps."""
        run = self.config.run
        return Views(run.labelled_batch, run.unlabelled_batch, distances="plain")

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase: Dice, the distances, and the agreement of both heads on all crops."""
        n, config = batch.labelled, self.config.dtc
        (images,) = batch.views
        features = self.net.features(images)
        logits = self.net.output(features).float()
        distance = torch.tanh(self.distance(features).float())
        probability = logits.softmax(dim=1)
        dice = dice_loss(probability[:n], batch.target)
        l_distance = (distance[:n] - batch.distances).square().mean()
        label = torch.sigmoid(-config.steepness * distance)
        agreement = (label - probability[:, 1:]).square().mean()
        weight = config.weight * ramp(self.progress(iteration))
        loss = dice + config.distance_weight * l_distance + weight * agreement
        yield Phase(loss, ("main",), logged(dice=dice, distance=l_distance, agreement=agreement))

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return the net; the second head is not exported."""
        return {self.info.candidate: (self.net, self.info)}
