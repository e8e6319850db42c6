"""DTC (Luo et al., AAAI 2021): one head labels voxels, another measures distances, and the two must agree."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import ramp, seg_terms
from c3s3_seg.training.methods.base import Method, Phase, fresh

# The published numbers.
STEEPNESS = 1500.0  # of the sigmoid that turns a distance into a label
DISTANCE_WEIGHT = 0.3
WEIGHT = 0.1  # of the agreement, reached by the ramp


class DualTaskConsistency(Method):
    """Backbone A with a second head, tanh, for the signed distance of each foreground class."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)
        self.distance = nn.Conv3d(self.info.filters, config.task.classes - 1, 1)

    def views(self, iteration: int) -> Views:
        """Both kinds of crops, one view."""
        return Views(self.config.run.labelled_batch, self.config.run.unlabelled_batch)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """One phase: L_seg, the distances, and the agreement of both heads on all crops."""
        n = batch.labelled
        (images,) = batch.views
        features = self.net.features(images)
        logits = self.net.output(features).float()
        distance = torch.tanh(self.distance(features).float())
        seg = seg_terms([logits[:n]], batch.target)
        l_distance = (distance[:n] - signed_distance(batch.target[:, 1:])).square().mean()
        foreground = logits.softmax(dim=1)[:, 1:]
        agreement = (torch.sigmoid(-STEEPNESS * distance) - foreground).square().mean()
        weight = WEIGHT * ramp(iteration / self.config.run.iterations)
        loss = seg.loss + DISTANCE_WEIGHT * l_distance + weight * agreement
        terms = {"seg": seg.loss, "distance": l_distance, "agreement": agreement}
        yield Phase(loss, ("main",), {name: float(value.detach()) for name, value in terms.items()})

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """The net; the second head stays behind."""
        return {self.info.candidate: (self.net, self.info)}


def signed_distance(target: Tensor) -> Tensor:
    """Soft targets (N, K, X, Y, Z) -> distance to the surface in [-1, 1], negative inside.

    Each side is scaled by its own largest distance, as published. An absent class gives 0 everywhere.
    """
    from scipy.ndimage import distance_transform_edt

    result = np.zeros(target.shape, dtype=np.float32)
    for index in np.ndindex(*target.shape[:2]):
        inside = target[index].cpu().numpy() > 0.5
        if inside.any() and not inside.all():
            depth, height = distance_transform_edt(inside), distance_transform_edt(~inside)
            result[index] = height / height.max() - depth / depth.max()
    return torch.from_numpy(result).to(target.device)
