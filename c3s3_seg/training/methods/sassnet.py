"""SASSNet (Li et al., MICCAI 2020): unlabelled crops' distance maps should look like labelled crops'."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import cross_entropy, dice_loss, one_hot, ramp
from c3s3_seg.training.methods.base import Adam, Method, Phase, fresh, logged

SLOPE = 0.2  # slope of the discriminator's leaky ReLU below 0
DROPOUT = 0.5
BETAS = (0.9, 0.99)


class ShapeAware(Method):
    """SASSNet: backbone A with a second head, tanh, for the signed distance of each foreground class.

    Each published head has one channel; here the first head is the softmax over all classes, and the Dice is
    the mean of the foreground classes. There is no cross entropy, as published.
    """

    alone = "network and discriminator learn in turn, with a backward pass each"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)
        classes = config.task.classes - 1
        self.distance = nn.Conv3d(self.info.filters, classes, 1)
        filters = config.sassnet.discriminator_filters
        self.discriminator = Discriminator(classes, self.info.channels, filters)

    def views(self, iteration: int) -> Views:
        """Request both kinds of crops in one view, and distance maps."""
        run = self.config.run
        return Views(run.labelled_batch, run.unlabelled_batch, distances="zero boundary")

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield two phases: the network, which should deceive the discriminator; then the discriminator."""
        yield self._learn(batch, self.progress(iteration))
        yield self._judge(batch)

    def _learn(self, batch: Batch, progress: float) -> Phase:
        n, config = batch.labelled, self.config.sassnet
        (images,) = batch.views
        features = self.net.features(images)
        probability = self.net.output(features[:n]).float().softmax(dim=1)
        distance = torch.tanh(self.distance(features).float())
        dice = dice_loss(probability, batch.target)
        l_distance = (distance[:n] - batch.distances).square().mean()
        self.discriminator.eval().requires_grad_(False)
        verdict = self.discriminator(distance[n:], images[n:])
        deceived = cross_entropy(verdict, one_hot(torch.ones_like(verdict[:, 0]), 2))
        loss = dice + config.distance_weight * l_distance + config.weight * ramp(progress) * deceived
        return Phase(loss, ("main",), logged(dice=dice, distance=l_distance, deceived=deceived))

    def _judge(self, batch: Batch) -> Phase:
        """Return the phase of the discriminator on all crops; its target is 1 for labelled crops."""
        (images,) = batch.views
        with torch.no_grad():
            self.net.eval()
            distance = torch.tanh(self.distance(self.net.features(images)).float())
            self.net.train()
        self.discriminator.train().requires_grad_(True)
        labelled = torch.arange(len(images), device=images.device) < batch.labelled
        loss = cross_entropy(self.discriminator(distance, images), one_hot(labelled, 2))
        return Phase(loss, ("discriminator",), logged(discriminator=loss))

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the network with both heads, and of the discriminator."""
        return {
            "main": [*self.net.parameters(), *self.distance.parameters()],
            "discriminator": list(self.discriminator.parameters()),
        }

    def own_optimisers(self) -> dict[str, Adam]:
        """Return the settings of the discriminator's Adam."""
        return {"discriminator": Adam(self.config.sassnet.discriminator_lr, BETAS)}

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return the net; the second head is not exported."""
        return {self.info.candidate: (self.net, self.info)}


class Discriminator(nn.Module):
    """A classifier of crops as labelled or not, by distance maps and image; averages the whole last map.

    Parameters
    ----------
    classes, channels
        Channels of the distance maps, and of the image.
    filters
        Filters of the first convolutions; the three that follow each halve the sides and double the filters.
    """

    def __init__(self, classes: int, channels: int, filters: int) -> None:
        super().__init__()
        self.distance = _halving(classes, filters)
        self.image = _halving(channels, filters)
        layers: list[nn.Module] = []
        for level in range(3):
            layers += [nn.LeakyReLU(SLOPE), nn.Dropout3d(DROPOUT)]
            layers.append(_halving(filters * 2**level, filters * 2 ** (level + 1)))
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(8 * filters, 2)

    def forward(self, distance: Tensor, image: Tensor) -> Tensor:
        """Classify (N, K, X, Y, Z) and (N, C, X, Y, Z) -> logits (N, 2), the second for labelled crops."""
        maps = self.layers(self.distance(distance) + self.image(image))
        return self.output(maps.mean(dim=(2, 3, 4)))  # type: ignore[no-any-return]


def _halving(channels_in: int, channels_out: int) -> nn.Conv3d:
    return nn.Conv3d(channels_in, channels_out, 4, stride=2, padding=1)
