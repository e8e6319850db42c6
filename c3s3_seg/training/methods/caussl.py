"""CauSSL (Miao et al., ICCV 2023): two networks teach each other, and keep their weights independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import SegTerms, cross_entropy, one_hot, ramp, seg_terms
from c3s3_seg.training.methods.base import Adam, Method, Phase, fresh, logged

SPREAD = 1e-3  # standard deviation of fresh coefficients


class WeightIndependence(Method):
    """CauSSL on cross pseudo supervision: two networks, both configured as backbone A, alike layer by layer.

    Coefficients seek the linear combination of one network's kernels that is most like the other's; the
    networks then move away from this combination, from the first round of the coefficients' updates on. The
    pseudo-label is the likeliest of all classes.
    """

    alone = "the coefficients take many backward passes in one iteration"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        (self.a, self.info_a), (self.b, self.info_b) = fresh(config)
        self.coefficients_a, self.coefficients_b = (coefficients(net) for net in (self.a, self.b))

    def views(self, iteration: int) -> Views:
        """Request both kinds of crops in one view."""
        return Views(self.config.run.labelled_batch, self.config.run.unlabelled_batch)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield a round of phases for the coefficients, in some iterations; then one for the networks."""
        for _ in range(self.updates(iteration)):
            ours, theirs = ([w.detach() for w in kernels(net)] for net in (self.a, self.b))
            yield Phase(-self._dependence(ours, theirs), ("coefficients",))
        yield self._learn(batch, iteration)

    def updates(self, iteration: int) -> int:
        """Return the number of the coefficients' updates in an iteration; 0 in most."""
        if iteration % self._every or not self.independent(iteration):
            return 0
        return max(1, round(self.config.caussl.updates * self._every))

    def independent(self, iteration: int) -> bool:
        """Return whether the coefficients have had a round of updates: before it, they are random."""
        latest = iteration - iteration % self._every  # rounds begin at multiples of `_every`
        return self.progress(latest) >= self.config.caussl.coefficient_start

    @property
    def _every(self) -> int:
        """The number of iterations from round to round."""
        return max(1, round(self.config.caussl.every * self.config.run.iterations))

    def _dependence(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        """Return the dependence of A's kernels on B's, plus that of B's on A's: 0 to 2."""
        forth = dependence(ours, theirs, list(self.coefficients_a))
        return forth + dependence(theirs, ours, list(self.coefficients_b))

    def _learn(self, batch: Batch, iteration: int) -> Phase:
        n, config, progress = batch.labelled, self.config.caussl, self.progress(iteration)
        (images,) = batch.views
        logits = [net(images).float() for net in (self.a, self.b)]
        seg_a, seg_b = (seg_terms([x[:n]], batch.target) for x in logits)
        pseudo = torch.stack([pseudo_supervision(x[n:], y[n:]) for x, y in (logits, logits[::-1])]).sum()
        begun = progress >= config.pseudo_start
        weight = config.weight * config.pseudo_weight * ramp(progress) * begun
        loss = _half(seg_a) + _half(seg_b) + weight * pseudo
        terms = {"seg_a": _half(seg_a), "seg_b": _half(seg_b), "pseudo": pseudo}
        if self.independent(iteration):
            terms["dependence"] = self._dependence(kernels(self.a), kernels(self.b))
            loss = loss + config.independence_weight * terms["dependence"]
        return Phase(loss, ("main",), logged(**terms))

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of both networks, and the coefficients."""
        return {
            "main": [*self.a.parameters(), *self.b.parameters()],
            "coefficients": [*self.coefficients_a, *self.coefficients_b],
        }

    def own_optimisers(self) -> dict[str, Adam]:
        """Return the settings of the coefficients' Adam."""
        return {"coefficients": Adam(self.config.caussl.coefficient_lr)}

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return both networks."""
        return {
            self.info_a.candidate: (self.a, self.info_a),
            self.info_b.candidate: (self.b, self.info_b),
        }


def _half(terms: SegTerms) -> Tensor:
    return terms.loss / 2


def pseudo_supervision(logits: Tensor, other: Tensor) -> Tensor:
    """Return the cross entropy with the other network's likeliest class."""
    return cross_entropy(logits, one_hot(other.argmax(dim=1), other.shape[1]))


def kernels(net: nn.Module) -> list[Tensor]:
    """Return the convolutions' weights, each (channels out, product of the other axes)."""
    found = []
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose3d):
            found.append(module.weight.transpose(0, 1).flatten(1))
        elif isinstance(module, nn.Conv3d):
            found.append(module.weight.flatten(1))
    return found


def coefficients(net: nn.Module) -> nn.ParameterList:
    """Return one random square matrix for each convolution, with as many rows as channels out."""
    sizes = [len(kernel) for kernel in kernels(net)]
    return nn.ParameterList(nn.Parameter(SPREAD * torch.randn(size, size)) for size in sizes)


def dependence(ours: Sequence[Tensor], theirs: Sequence[Tensor], mixing: Sequence[Tensor]) -> Tensor:
    """Return how well combinations of `theirs` reproduce the kernels `ours`: 0 to 1.

    The value is the mean over layers and rows of cos(P W', W)^2. The gradient goes to P if `ours` is
    detached, else to `ours`; never to `theirs`.
    """
    found = []
    with torch.autocast(ours[0].device.type, enabled=False):
        for kernel, other, matrix in zip(ours, theirs, mixing, strict=True):
            fixed = matrix.detach() if kernel.requires_grad else matrix
            combined = fixed @ other.detach()
            found.append(F.cosine_similarity(combined, kernel, dim=1, eps=1e-8).square().mean())
    return torch.stack(found).mean()
