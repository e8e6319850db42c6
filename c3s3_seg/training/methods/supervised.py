"""The baseline: one backbone, labelled crops only."""

from collections.abc import Iterator

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import seg_terms
from c3s3_seg.training.methods.base import Method, Phase, fresh


class Supervised(Method):
    """L_seg (eq. 2) of one backbone."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)

    def views(self, iteration: int) -> Views:
        """Labelled crops, one view."""
        return Views(labelled=self.config.run.labelled_batch)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """One phase."""
        terms = seg_terms([self.net(view) for view in batch.views], batch.target)
        yield Phase(
            terms.loss, ("main",), {"ce": float(terms.ce.detach()), "dice": float(terms.dice.detach())}
        )

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """The only net."""
        return {self.info.candidate: (self.net, self.info)}
