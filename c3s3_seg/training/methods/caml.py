"""CAML (Gao et al., MICCAI 2023): a second branch with attention across samples, and correlated features."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from c3s3_seg.bundle import Network
from c3s3_seg.errors import ConfigError
from c3s3_seg.models.blocks import Backbone, Convolution, initialise
from c3s3_seg.models.strides import Triple
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import ramp
from c3s3_seg.training.method_settings import CAMLConfig
from c3s3_seg.training.methods.base import Method, Phase, fresh, logged
from c3s3_seg.training.methods.rows import draw, evaluating, pass_rows, perceptron, rows_at
from c3s3_seg.training.methods.ssnet import plain_dice


class CorrelationAware(Method):
    """CAML with backbone A, which ships, and its twin with cross-sample attention and interpolation.

    With several classes, sharpening is over the softmax of all classes, and the bank holds vectors of each.
    """

    alone = "the bank of features is one process's own, and attention is among the crops of one process"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        ((self.net, self.info),) = fresh(config)
        ((self.twin, _),) = fresh(config)
        self._change(self.twin)
        filters, channels = self.info.filters, config.caml.channels
        self.project, self.predict, self.project_twin, self.predict_twin = (
            perceptron(width, channels) for width in (filters, channels, filters, channels)
        )
        self.bank = Bank(config.task.classes, config.caml)

    def views(self, iteration: int) -> Views:
        """Request both kinds of crops in one view; the batch states the case of each labelled crop."""
        return Views(self.config.run.labelled_batch, self.config.run.unlabelled_batch)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield one phase: Dice of both branches, their agreement, and the correlation with the bank."""
        n, config = batch.labelled, self.config.caml
        (images,) = batch.views
        features = [net.features(images) for net in (self.net, self.twin)]
        logits = [net.output(x).float() for net, x in zip((self.net, self.twin), features, strict=True)]
        p, q = (x.softmax(dim=1) for x in logits)
        dice_p, dice_q = (plain_dice(x[:n, 1:], batch.target[:, 1:]) for x in (p, q))
        dice = dice_p + dice_q
        consistency = mutual_consistency(p, q, config.temperature)
        agreed = torch.where(p.argmax(dim=1) == q.argmax(dim=1), p.argmax(dim=1), -1)
        self._remember([x[:n] for x in features], agreed[:n], batch)
        correlation = self._correlate([x[n:] for x in features], agreed[n:], p[n:])
        r = ramp(self.progress(iteration) / config.ramp)
        unsupervised = config.consistency_weight * consistency + config.correlation_weight * correlation
        loss = config.supervised_weight * dice + r * unsupervised
        terms = {"dice": dice, "consistency": consistency, "correlation": correlation}
        yield Phase(loss, ("main",), logged(**terms))

    @torch.no_grad()
    def _remember(self, features: list[Tensor], agreed: Tensor, batch: Batch) -> None:
        """Write into each case's slot the mean of both projections where both branches are right."""
        right = torch.where(agreed == batch.target.argmax(dim=1), agreed, -1)
        with evaluating(self.project, self.project_twin):
            for crop, case in enumerate(batch.cases):
                self.bank.empty(case)
                for label in range(self.config.task.classes):
                    index = draw(right[crop] == label, self.config.caml.stored)
                    if len(index):
                        ours, theirs = (rows_at(x[crop : crop + 1], index) for x in features)
                        mean = pass_rows(ours, [self.project]) + pass_rows(theirs, [self.project_twin])
                        self.bank.write(case, label, mean / 2)

    def _correlate(self, features: list[Tensor], agreed: Tensor, probability: Tensor) -> Tensor:
        """Return the omni-correlation on unlabelled voxels where both branches predict the same class."""
        config, classes = self.config.caml, range(self.config.task.classes)
        confidence = probability.detach().amax(dim=1).flatten()
        most = max(1, round(config.voxel_share * len(confidence)))
        index = torch.cat([surest(agreed.flatten() == c, confidence, most) for c in classes])
        memory = torch.cat([self.bank.draw(c, config.drawn) for c in classes])
        if len(index) < 2 or not len(memory):  # batch norm needs two rows
            return probability.new_zeros(())
        ours = pass_rows(rows_at(features[0], index), [self.project, self.predict])
        theirs = pass_rows(rows_at(features[1], index), [self.project_twin, self.predict_twin])
        return omni_correlation(ours, theirs, memory, config.temperature)

    def _change(self, net: Backbone) -> None:
        make_twin(net, 8 * self.info.filters, self.config.caml)

    def after_start(self) -> None:
        """Copy backbone A to the twin; its attention and upsampling get new random weights."""
        begun = copy.deepcopy(self.net)
        self._change(begun)
        self.twin.load_state_dict(begun.state_dict())

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return backbone A; the twin is not exported."""
        return {self.info.candidate: (self.net, self.info)}


def mutual_consistency(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    """Return the MSE of each branch with the other's sharpened output; gradients go through both."""

    def sharp(x: Tensor) -> Tensor:
        return (x.clamp_min(1e-12).log() / temperature).softmax(dim=1)

    return F.mse_loss(p, sharp(q)) + F.mse_loss(q, sharp(p))


def surest(mask: Tensor, confidence: Tensor, count: int) -> Tensor:
    """Return indices of at most `count` voxels where a flat mask is true: those of the highest confidence."""
    places = mask.nonzero()[:, 0]
    if len(places) <= count:
        return places
    return places[confidence[places].topk(count).indices]


def omni_correlation(ours: Tensor, theirs: Tensor, memory: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of two correlations with the memory (m, F): `ours`, and `theirs` (n, F)."""
    with torch.autocast(ours.device.type, enabled=False):  # float16 would overflow
        log_ours = (ours @ memory.T / temperature).log_softmax(dim=1)
        correlation = (theirs @ memory.T / temperature).softmax(dim=1)
    floored = torch.logaddexp(log_ours, torch.full_like(log_ours, 1e-8).log())  # log(p + 1e-8)
    return -(correlation * floored).sum(dim=1).mean()


class Bank(nn.Module):
    """Feature vectors of labelled voxels, a slot for each case; a visit to the case empties it first."""

    vectors: Tensor
    counts: Tensor

    def __init__(self, classes: int, config: CAMLConfig) -> None:
        super().__init__()
        self.classes, self.slots = classes, config.slots
        places = config.slots * classes
        self.register_buffer("vectors", torch.zeros(places, config.stored, config.channels))
        self.register_buffer("counts", torch.zeros(places, dtype=torch.long))

    def empty(self, case: int) -> None:
        """Forget the vectors of all classes in the case's slot."""
        first = case % self.slots * self.classes
        self.counts[first : first + self.classes] = 0

    def write(self, case: int, label: int, vectors: Tensor) -> None:
        """Replace the case's vectors of one class by vectors (n, F); n is not above `stored`."""
        place = case % self.slots * self.classes + label
        self.vectors[place, : len(vectors)] = vectors
        self.counts[place] = len(vectors)

    def draw(self, label: int, count: int) -> Tensor:
        """Draw at most `count` vectors of a class, of all cases at random: (n, F)."""
        vectors, counts = self.vectors[label :: self.classes], self.counts[label :: self.classes]
        filled = torch.arange(vectors.shape[1], device=counts.device) < counts[:, None]
        return vectors.flatten(0, 1)[draw(filled, count)]


class CrossSampleAttention(nn.Module):
    """Attention among a sample's positions, then among samples at each position; absent in evaluation."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.within, self.across = (
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply both attentions: (N, C, X, Y, Z) -> the same shape."""
        if not self.training:
            return x
        rows: Tensor = x.flatten(2).transpose(1, 2)
        with sdpa_kernel(SDPBackend.MATH):  # other backends have no deterministic backward pass on a GPU
            rows = self.within(rows)
            rows = self.across(rows.transpose(0, 1)).transpose(0, 1)
        return rows.transpose(1, 2).reshape(x.shape)


class Enlarge(nn.Module):
    """Linear interpolation along axes whose stride is 2; torch's own is not deterministic on a GPU."""

    def __init__(self, stride: Triple) -> None:
        super().__init__()
        self.axes = [2 + axis for axis, step in enumerate(stride) if step == 2]

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate: (N, C, X, Y, Z) -> (N, C, X * stride, Y * stride, Z * stride)."""
        for axis in self.axes:
            count = x.shape[axis]
            first, last = x.narrow(axis, 0, 1), x.narrow(axis, count - 1, 1)
            before = torch.cat([first, x.narrow(axis, 0, count - 1)], dim=axis)
            after = torch.cat([x.narrow(axis, 1, count - 1), last], dim=axis)
            pair = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
            x = torch.stack(pair, dim=axis + 1).flatten(axis, axis + 1)
        return x


def make_twin(net: Backbone, width: int, config: CAMLConfig) -> None:
    """Change a backbone into the second branch, in place.

    Attention follows the encoder's level of stride 8, the last but one in its list of levels; a
    3x3x3 convolution after interpolation replaces each transposed convolution.

    Raises
    ------
    ConfigError
        If the backbone has no list of levels.
    """
    levels = next((child for child in net.children() if isinstance(child, nn.ModuleList)), None)
    if levels is None:
        raise ConfigError(f"{type(net).__name__} has no list of levels, which method 'caml' wants")
    attention = CrossSampleAttention(width, config.heads, config.attention_dropout)
    levels[-2] = nn.Sequential(levels[-2], attention)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ConvTranspose3d):
                x, y, z = child.stride
                convolution = Convolution(child.in_channels, child.out_channels, 3, padding=1)
                initialise(convolution)
                setattr(parent, name, nn.Sequential(Enlarge((x, y, z)), convolution))
