"""UA-MT (Yu et al., MICCAI 2019): a mean teacher whose certain voxels teach the student."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.ema import Ema
from c3s3_seg.training.losses import masked_mean, ramp, seg_terms
from c3s3_seg.training.methods.base import Method, Phase, fresh


class UncertaintyAwareMeanTeacher(Method):
    """UA-MT with backbone A as student; the teacher is its moving average, with dropout and noise."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.student, self.info),) = fresh(config)
        self._average = Ema(self.student, config.uamt.teacher_decay)
        self.teacher = self._average.net  # a sub-module, so that the checkpoint holds it
        for module in self.teacher.modules():
            if isinstance(module, nn.Dropout3d):
                module.p = config.uamt.teacher_dropout

    def views(self, iteration: int) -> Views:
        """Request both kinds of crops in one view."""
        return Views(self.config.run.labelled_batch, self.config.run.unlabelled_batch)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase: L_seg and the consistency where the teacher is certain."""
        n, progress = batch.labelled, iteration / self.config.run.iterations
        (images,) = batch.views
        logits = self.student(images)
        seg = seg_terms([logits[:n]], batch.target)
        wanted, certain = self._teach(images[n:], batch.deviation[n:], progress)
        difference = (logits[n:].float().softmax(dim=1) - wanted).square().mean(dim=1)
        consistency = masked_mean(difference, certain)
        weight = self.config.uamt.weight * ramp(progress)
        terms = {"seg": seg.loss, "consistency": consistency, "certain": certain.mean()}
        loss = seg.loss + weight * consistency
        yield Phase(loss, ("main",), {name: float(value.detach()) for name, value in terms.items()})

    @torch.no_grad()
    def _teach(self, images: Tensor, unit: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Return the teacher's first output (N, C, X, Y, Z), and 1 where its mean output has low entropy.

        `unit` is that of the noise: the standard deviations of the crops' scans, (N, 1, 1, 1, 1).
        """
        self.teacher.train()  # dropout is part of the uncertainty
        answers = [self._noisy(images, unit) for _ in range(self.config.uamt.passes)]
        mean = torch.stack(answers).mean(dim=0)
        entropy = -(mean * mean.clamp_min(1e-6).log()).sum(dim=1)
        limit = (0.75 + 0.25 * ramp(progress)) * math.log(mean.shape[1])
        return answers[0], (entropy < limit).float()

    def _noisy(self, images: Tensor, unit: Tensor) -> Tensor:
        config = self.config.uamt
        noise = (torch.randn_like(images) * config.noise).clamp(-config.noise_limit, config.noise_limit)
        probability: Tensor = self.teacher(images + unit * noise).float().softmax(dim=1)
        return probability

    def after_start(self) -> None:
        """Copy the student to the teacher."""
        self._average.copy(self.student)

    def after_step(self, iteration: int) -> None:
        """Update the teacher."""
        self._average.update(self.student, iteration)

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return the student's parameters only."""
        return {"main": list(self.student.parameters())}

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return the student."""
        return {self.info.candidate: (self.student, self.info)}
