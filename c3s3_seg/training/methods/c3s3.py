"""C3S3: two backbones that learn from labels, compete to teach each other, and contrast what they see."""

from collections.abc import Iterator

from torch import nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.competition import Competition
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.methods.base import Method, Phase, fresh
from c3s3_seg.training.step import Outputs, c3s3_loss, warm_loss

CHANNELS = 64  # of the projected features


def projector(filters: int) -> nn.Sequential:
    """1x1 convolution, PReLU, 1x1 convolution, on rows of voxels."""
    return nn.Sequential(nn.Linear(filters, filters), nn.PReLU(), nn.Linear(filters, CHANNELS))


class C3S3(Method):
    """Backbones A and B, of any two architectures; each has a projector that is never exported."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        (self.a, self.info_a), (self.b, self.info_b) = fresh(config)
        self.project_a, self.project_b = projector(self.info_a.filters), projector(self.info_b.filters)
        self.competition = Competition(config.c3s3.alpha, config.c3s3.competition_memory)

    def views(self, iteration: int) -> Views:
        """Warm start: labelled crops, one view. Then both kinds, two views, or one that is seen twice."""
        run, c3s3 = self.config.run, self.config.c3s3
        if iteration < c3s3.warm_up:
            return Views(labelled=run.warm_batch)
        count = 2 if c3s3.views == "independent" else 1
        return Views(labelled=run.labelled_batch, unlabelled=run.unlabelled_batch, count=count)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """One phase: one backward of the sum of all terms."""
        config = self.config.c3s3
        warm = iteration < config.warm_up
        passes = 2 if config.views == "identical" and not warm else 1
        a = Outputs.of(self.a, self.project_a, batch, passes)
        b = Outputs.of(self.b, self.project_b, batch, passes)
        if warm:
            loss, terms = warm_loss(a, b, batch)
        else:
            progress = (iteration - config.warm_up) / max(1, self.config.run.iterations - config.warm_up)
            loss, terms = c3s3_loss(a, b, batch, self.competition, config, progress)
        yield Phase(loss, ("main",), terms)

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Both nets."""
        return {
            self.info_a.candidate: (self.a, self.info_a),
            self.info_b.candidate: (self.b, self.info_b),
        }
