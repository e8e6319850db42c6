"""TraCoCo (Liu et al., TMI 2024): two networks predict alike where crops overlap, and teach each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Offset, Views
from c3s3_seg.training.losses import masked_mean, ramp, seg_terms
from c3s3_seg.training.method_settings import TraCoCoConfig
from c3s3_seg.training.methods.base import Method, Phase, fresh, logged

Slices = tuple[slice, ...]

PUBLISHED_CROPS = 4  # pairs in a published batch, over which the divergence is a sum


class TranslationConsistency(Method):
    """TraCoCo with two networks, both configured as backbone A; the second's unlabelled crops use CutMix.

    All terms are over the softmax of all classes: the teacher's likeliest class is learnt where the teacher
    is certain, and its least likely class is unlearnt. Each network takes its crops in one forward; the
    published code runs one for each kind of crop.
    """

    alone = "each network has a backward pass of its own"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        (self.a, self.info_a), (self.b, self.info_b) = fresh(config)

    def views(self, iteration: int) -> Views:
        """Request both kinds of crops, in pairs that overlap."""
        run = self.config.run
        return Views(run.labelled_batch, run.unlabelled_batch, shift=self.config.tracoco.shift)

    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield two phases, one for each network, so that only one graph is in memory."""
        crops, config = batch.views[0], self.config.tracoco
        weight = config.weight * ramp(self.progress(iteration) / config.ramp)
        with torch.no_grad():
            clean_a, clean_b = self.a(crops).float(), self.b(crops).float()
        torch.clear_autocast_cache()  # weights cast without a gradient would stop the gradients
        n = batch.labelled
        loss, terms = self._loss(self.a, batch, crops[n:], clean_b[n:], weight)
        yield Phase(loss, ("a",), {f"{name}_a": value for name, value in terms.items()})
        mixed, wanted = cut_mix(crops, clean_a, config.mix)
        loss, terms = self._loss(self.b, batch, mixed[n:], wanted[n:], weight)
        yield Phase(loss, ("b",), {f"{name}_b": value for name, value in terms.items()})

    def _loss(
        self, net: nn.Module, batch: Batch, unlabelled: Tensor, wanted: Tensor, weight: float
    ) -> tuple[Tensor, dict[str, float]]:
        """Return one network's loss and its terms; `wanted`: the other's logits on `unlabelled`."""
        config, (first, second) = self.config.tracoco, batch.views
        crops = torch.cat([first, second, unlabelled])
        unit = torch.cat([batch.deviation, batch.deviation, batch.deviation[batch.labelled :]])
        noisy = crops + config.noise * unit * (2 * torch.rand_like(crops) - 1)
        logits, moved, taught = net(noisy).float().split([len(first), len(second), len(unlabelled)])
        seg = seg_terms([logits[: batch.labelled]], batch.target).loss / 2
        crc = confident_loss(taught, wanted, config)
        pairs = [_overlapping(*pair) for pair in zip(logits, moved, batch.offsets, strict=True)]
        divergence, certainty = overlap_losses(pairs, config)
        consistency = config.translation_weight * divergence + config.entropy_weight * certainty
        terms = logged(seg=seg, crc=crc, translation=divergence, certainty=certainty)
        return seg + weight * (crc + consistency), terms

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each network, one optimiser each."""
        return {"a": list(self.a.parameters()), "b": list(self.b.parameters())}

    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return both networks."""
        return {
            self.info_a.candidate: (self.a, self.info_a),
            self.info_b.candidate: (self.b, self.info_b),
        }


def overlap(sides: Offset, offset: Offset) -> tuple[Slices, Slices]:
    """Return where two crops see the same voxels: slices of the first, and of the second, at `offset`."""
    pairs = list(zip(sides, offset, strict=True))
    first = tuple(slice(max(0, d), n + min(0, d)) for n, d in pairs)
    second = tuple(slice(max(0, -d), n - max(0, d)) for n, d in pairs)
    return first, second


def _overlapping(first: Tensor, second: Tensor, offset: Offset) -> tuple[Tensor, Tensor]:
    """Return the overlap in the outputs (C, X, Y, Z) for both crops of a pair."""
    x, y, z = first.shape[1:]
    in_first, in_second = overlap((x, y, z), offset)
    return first[(slice(None), *in_first)], second[(slice(None), *in_second)]


def overlap_losses(pairs: Sequence[tuple[Tensor, Tensor]], config: TraCoCoConfig) -> tuple[Tensor, Tensor]:
    """Return the divergence of overlaps and their negative entropy, as `translation` wants.

    The divergence is `PUBLISHED_CROPS` times the mean over the pairs: the published sum over a batch of four,
    without its dependence on the size of the batch.

    Parameters
    ----------
    pairs
        Logits (C, x, y, z) of the overlap in the first crop and in the second, for each pair of crops.
    """
    axis = 0
    if config.translation == "published":
        pairs, axis = [(a.clamp(1e-6, 1), b.clamp(1e-6, 1)) for a, b in pairs], 1
    divergence = torch.stack([translation_loss(a, b, axis) for a, b in pairs]).mean()
    certainty = torch.stack([negative_entropy(part) for pair in pairs for part in pair]).mean()
    return PUBLISHED_CROPS * divergence, certainty


def translation_loss(first: Tensor, second: Tensor, axis: int = 0) -> Tensor:
    """Return KL(second || first) over an axis of logits (C, x, y, z), divided by the length of this axis.

    It is the mean of the divergence's summands over all elements, as published.
    """
    log_first, log_second = first.log_softmax(dim=axis), second.log_softmax(dim=axis)
    return (log_second.exp() * (log_second - log_first)).mean()


def negative_entropy(logits: Tensor) -> Tensor:
    """Return the mean over voxels of sum_c p log p; minimising it keeps the outputs from collapsing."""
    log_p = logits.log_softmax(dim=0)
    return (log_p.exp() * log_p).sum(dim=0).mean()


def confident_loss(logits: Tensor, wanted: Tensor, config: TraCoCoConfig) -> Tensor:
    """Return the confident regional cross entropy: positive learning where the other network is certain.

    Negative learning pushes down the class that the other network finds least likely, if it is unlikely
    enough. Each voxel is weighted by the teacher's probability of the class in question.

    Parameters
    ----------
    logits, wanted
        Logits (N, C, X, Y, Z) of the network that learns, and of the one that teaches.
    """
    teacher = wanted.softmax(dim=1)
    (most, likely), (least, unlikely) = teacher.max(dim=1), teacher.min(dim=1)
    log_p = logits.log_softmax(dim=1)
    positive = -log_p.gather(1, likely[:, None])[:, 0] * most
    negative = -(1 - log_p.exp().gather(1, unlikely[:, None])[:, 0]).clamp_min(1e-6).log() * least
    learnt = masked_mean(positive, (most >= config.confident).float())
    return learnt + masked_mean(negative, (least < config.unlikely).float())


def cut_mix(crops: Tensor, wanted: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """Replace a box in x and y, over all of z, of each crop and its output by another crop's of the batch."""
    share = float(torch.distributions.Beta(mix, mix).sample())
    partner = torch.randperm(len(crops)).to(crops.device)
    slices: list[slice] = [slice(None), slice(None)]
    for side in crops.shape[2:4]:
        length = round(math.sqrt(1 - share) * side)
        begin = int(torch.randint(side - length + 1, ()))
        slices.append(slice(begin, begin + length))
    box = tuple(slices)
    mixed, answer = crops.clone(), wanted.clone()
    mixed[box], answer[box] = crops[partner][box], wanted[partner][box]
    return mixed, answer
