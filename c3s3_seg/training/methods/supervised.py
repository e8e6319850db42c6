"""The baseline: one backbone, on labelled crops only, unless there is a teacher (distillation)."""

from collections.abc import Iterator

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import seg_terms
from c3s3_seg.training.methods.base import Method, Phase, fresh, learn_from_teacher, logged


class Supervised(Method):
    """L_seg (eq. 2) of one backbone; with a teacher, plus its targets' loss, on unlabelled crops too."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)

    def views(self, iteration: int) -> Views:
        """Request labelled crops in one view; with a teacher, both kinds."""
        run = self.config.run
        return Views(run.labelled_batch, run.unlabelled_batch if self.config.teacher.wanted else 0)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase."""
        logits = [self.net(view) for view in batch.views]
        seg = seg_terms([x[: batch.labelled] for x in logits], batch.target)
        loss, terms = seg.loss, logged(ce=seg.ce, dice=seg.dice)
        if self.config.teacher.wanted:
            taught = learn_from_teacher(logits, batch, self.config.teacher)
            loss, terms = loss + self.config.teacher.weight * taught, {**terms, **logged(taught=taught)}
        yield Phase(loss, ("main",), terms)

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return the single net."""
        return {self.info.candidate: (self.net, self.info)}
