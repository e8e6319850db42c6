"""C3S3: two backbones that learn from labels, compete to teach each other, and contrast their features."""

from collections.abc import Iterator

from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.competition import Competition
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.ema import Ema
from c3s3_seg.training.methods.base import Method, Phase, fresh, learn_from_teacher, logged
from c3s3_seg.training.methods.bcp import follow
from c3s3_seg.training.methods.c3s3_options import pseudo_label_loss
from c3s3_seg.training.step import Outputs, Terms, c3s3_loss, warm_loss

CHANNELS = 64  # number of projected features


def projector(filters: int) -> nn.Sequential:
    """Return a head for rows of voxels: 1x1 convolution, PReLU, 1x1 convolution."""
    return nn.Sequential(nn.Linear(filters, filters), nn.PReLU(), nn.Linear(filters, CHANNELS))


class C3S3(Method):
    """C3S3 with backbones A and B of any two architectures, each with a projector that is never exported.

    If pseudo-labels are configured (`c3s3_options`), C3S3 also holds a moving average of each backbone.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        (self.a, self.info_a), (self.b, self.info_b) = fresh(config)
        self.project_a, self.project_b = projector(self.info_a.filters), projector(self.info_b.filters)
        self.competition = Competition(config.c3s3.alpha, config.c3s3.competition_memory)
        wanted = (self.a, self.b) if config.c3s3.pseudo_labels else ()
        self._averages = [Ema(net, config.c3s3.teacher_decay) for net in wanted]
        self.teachers = nn.ModuleList(average.net for average in self._averages)  # for the checkpoint

    def views(self, iteration: int) -> Views:
        """Request labelled crops, one view, in the warm-up; then both kinds, two views or one decoded twice.

        With a teacher the warm-up has both kinds.
        """
        run, c3s3 = self.config.run, self.config.c3s3
        if iteration < c3s3.warm_up:
            return Views(run.warm_batch, run.unlabelled_batch if self.config.teacher.wanted else 0)
        count = 2 if c3s3.views == "independent" else 1
        box = c3s3.mix_box if c3s3.mix_weight else 0.0
        return Views(run.labelled_batch, run.unlabelled_batch, count, box=box)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase: one backward of the sum of all terms."""
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
        for more, named in self._additions(a, b, batch, terms):
            loss, terms = loss + more, {**terms, **named}
        yield Phase(loss, ("main",), terms)

    def _additions(
        self, a: Outputs, b: Outputs, batch: Batch, terms: Terms
    ) -> Iterator[tuple[Tensor, Terms]]:
        """Yield the configured terms that the paper does not have; by default there are none."""
        config, teacher = self.config.c3s3, self.config.teacher
        if config.pseudo_labels and "a_wins" in terms:  # not in the warm-up
            winner = self.teachers[0 if terms["a_wins"] else 1]
            yield pseudo_label_loss((self.a, self.b), (a, b), winner, batch, config)
        if teacher.wanted:
            taught_a, taught_b = (learn_from_teacher(net.logits, batch, teacher) for net in (a, b))
            yield teacher.weight * (taught_a + taught_b), logged(taught_a=taught_a, taught_b=taught_b)

    def after_start(self) -> None:
        """Copy the nets to the averages."""
        for average, net in zip(self._averages, (self.a, self.b), strict=False):
            average.copy(net)

    def after_step(self, iteration: int) -> None:
        """Update the averages; in the warm-up, copy the nets."""
        for average, net in zip(self._averages, (self.a, self.b), strict=False):
            follow(average, net, iteration, self.config.c3s3.warm_up)

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters except those of the averages."""
        return {"main": [p for p in self.parameters() if p.requires_grad]}

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return both nets."""
        return {
            self.info_a.candidate: (self.a, self.info_a),
            self.info_b.candidate: (self.b, self.info_b),
        }
