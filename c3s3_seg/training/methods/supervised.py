"""The baseline: one backbone, labelled crops only."""

from collections.abc import Iterator

from c3s3_seg.bundle import Network
from c3s3_seg.models import Backbone, build
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import seg_terms
from c3s3_seg.training.methods.base import Method, Phase


class Supervised(Method):
    """L_seg (eq. 2) of one backbone."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        kind = config.networks.supervised
        filters = config.networks.vnet_filters if kind == "vnet" else config.networks.resvnet_filters
        self.info = Network("model", kind, filters)
        dropout = config.networks.dropout
        self.net = build(kind, channels=1, classes=config.task.classes, filters=filters, dropout=dropout)

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
        return {self.info.architecture: (self.net, self.info)}
