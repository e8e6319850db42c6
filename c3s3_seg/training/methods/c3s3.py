"""C3S3: two backbones that learn from labels, compete to teach each other, and contrast what they see."""

from collections.abc import Iterator

from torch import nn

from c3s3_seg.bundle import Network
from c3s3_seg.models import Backbone, build
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.methods.base import Method, Phase
from c3s3_seg.training.step import Outputs, c3s3_loss, warm_loss

CHANNELS = 64  # of the projected features


def projector(filters: int) -> nn.Sequential:
    """1x1 convolution, PReLU, 1x1 convolution, on rows of voxels."""
    return nn.Sequential(nn.Linear(filters, CHANNELS), nn.PReLU(), nn.Linear(CHANNELS, CHANNELS))


class C3S3(Method):
    """Backbone A is a VNet, backbone B a ResVNet; each has a projector that is never exported."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        widths, classes = config.networks, config.task.classes
        shape = {"channels": 1, "classes": classes}
        self.a = build("vnet", **shape, filters=widths.vnet_filters, dropout=widths.dropout)
        self.b = build("resvnet", **shape, filters=widths.resvnet_filters, dropout=widths.dropout)
        self.project_a, self.project_b = projector(widths.vnet_filters), projector(widths.resvnet_filters)

    def views(self, iteration: int) -> Views:
        """Warm start: labelled crops, one view. Then both kinds, two views."""
        run = self.config.run
        if iteration < self.config.c3s3.warm_start:
            return Views(labelled=run.warm_batch)
        return Views(labelled=run.labelled_batch, unlabelled=run.unlabelled_batch, count=2)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """One phase: one backward of the sum of all terms."""
        a, b = Outputs.of(self.a, self.project_a, batch), Outputs.of(self.b, self.project_b, batch)
        warm = self.config.c3s3.warm_start
        if iteration < warm:
            loss, terms = warm_loss(a, b, batch)
        else:
            progress = (iteration - warm) / max(1, self.config.run.iterations - warm)
            loss, terms = c3s3_loss(a, b, batch, self.config.c3s3, progress)
        yield Phase(loss, ("main",), terms)

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Both nets."""
        widths = self.config.networks
        return {
            "vnet": (self.a, Network("model", "vnet", widths.vnet_filters)),
            "resvnet": (self.b, Network("model", "resvnet", widths.resvnet_filters)),
        }
