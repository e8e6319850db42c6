"""ResEncUNet: a U-Net with a residual encoder, as nnU-Net 2 plans it (Isensee et al., MICCAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from c3s3_seg.models.activation_checkpointing import Checkpointed
from c3s3_seg.models.blocks import CUBE, Backbone, Convolution, initialise, same
from c3s3_seg.models.strides import EVEN, NONE, Strides, Triple, kernels_of

SLOPE = 0.01  # slope of the leaky ReLU below 0
WIDEST = 10  # most feature maps, in multiples of `filters`: nnU-Net goes from 32 up to 320


class ResEncUNet(Backbone):
    """Residual blocks on five levels, a plain decoder that concatenates: 15,705,218 parameters at 16 filters.

    Differences from nnU-Net: five levels (crops here are small), one output (no deep supervision), and batch
    norm instead of instance norm, so that a voxel's output does not depend on the size of the tile, and the
    norms are folded into the convolutions in inference.

    Parameters
    ----------
    channels
        Input channels.
    classes
        Output classes, background included.
    filters
        Feature maps at full resolution; doubled at each of four downsamplings, up to ten times as many.
    dropout
        Share of the channels that are dropped before the output, in training.
    strides
        Strides of the four downsamplings, see `c3s3_seg.models.strides`.
    """

    BLOCKS = (1, 3, 4, 6, 6)  # number per level, finest first

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        filters: int = 16,
        dropout: float = 0.5,
        strides: Strides = EVEN,
    ) -> None:
        super().__init__(channels, classes, filters, dropout, strides)
        maps = widths(filters)
        kernels = kernels_of(strides)
        stem = convolution(channels, filters, kernel=kernels[0])
        finest = _level(filters, filters, self.BLOCKS[0], kernel=kernels[0])
        self.encoder = nn.ModuleList([nn.Sequential(stem, *finest)])
        levels = zip(pairwise(maps), self.BLOCKS[1:], strides, kernels[1:], strict=True)
        for (finer, coarser), count, stride, kernel in levels:
            self.encoder.append(nn.Sequential(*_level(finer, coarser, count, stride, kernel)))
        initialise(self)

    def new_decoder(self, filters: int, dropout: float, strides: Strides) -> nn.Module:
        """Return a decoder: five maps, finest first -> (N, filters, X, Y, Z)."""
        return ConcatenatingDecoder(widths(filters), dropout, strides)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features: (N, C, X, Y, Z) -> five maps, finest first."""
        finest, *coarser = self.encoder
        maps = [self.part(finest, x)]
        for level in coarser:
            maps.append(level(maps[-1]))
        return maps


class ResidualBlock(nn.Module):
    """Two convolutions; the shortcut averages if the stride is not 1 (ResNet-D, He et al. 2019)."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: Triple = NONE, kernel: Triple = CUBE
    ) -> None:
        super().__init__()
        self.first = convolution(channels_in, channels_out, stride, kernel)
        self.second = Convolution(channels_out, channels_out, kernel, padding=same(kernel), bias=False)
        self.norm = nn.BatchNorm3d(channels_out)
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)
        shortcut: list[nn.Module] = [] if stride == NONE else [Halving(stride, stride)]
        if channels_in != channels_out:
            projection = nn.Conv3d(channels_in, channels_out, 1, bias=False)
            shortcut += [projection, nn.BatchNorm3d(channels_out)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: (N, C, X, Y, Z) -> (N, channels_out, X/stride, Y/stride, Z/stride)."""
        y = self.norm(self.second(self.first(x)))
        return self.activation(y + self.shortcut(x))  # type: ignore[no-any-return]


class Halving(nn.AvgPool3d):
    """Average pooling whose gradient is deterministic on a GPU, where torch has none and refuses.

    In training, pairs of neighbours are averaged along each axis whose stride is 2; this differs by rounding
    from torch's own pooling, which is used otherwise and in exported graphs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, X, Y, Z) -> (N, C, X/stride, Y/stride, Z/stride)."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        for axis, step in enumerate(self.stride, 2):  # type: ignore[arg-type]
            if step == 2:
                first, second = x.unflatten(axis, (-1, 2)).unbind(axis + 1)  # type: ignore[no-untyped-call]
                x = (first + second) / 2
        return x


class ConcatenatingDecoder(Checkpointed):
    """U-Net's decoder: four upsamplings, each concatenated with the encoder's map and convolved once."""

    LARGE = 2  # number of finest levels whose maps are worth computing again

    def __init__(self, maps: Sequence[int], dropout: float, strides: Strides) -> None:
        super().__init__()
        pairs = list(pairwise(maps))
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(coarser, finer, stride, stride=stride)
            for (finer, coarser), stride in zip(pairs, strides, strict=True)
        )
        kernels = kernels_of(strides)
        self.stages = nn.ModuleList(
            convolution(2 * finer, finer, kernel=kernel)
            for (finer, _), kernel in zip(pairs, kernels, strict=False)
        )
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Decode five maps, finest first -> (N, filters, X, Y, Z)."""
        x = maps[-1]
        for level in reversed(range(len(self.ups))):
            step = partial(self._level, level)
            x = self.part(step, x, maps[level]) if level < self.LARGE else step(x, maps[level])
        return self.dropout(x)  # type: ignore[no-any-return]

    def _level(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        return self.stages[level](torch.cat([self.ups[level](x), skip], dim=1))  # type: ignore[no-any-return]


def widths(filters: int) -> list[int]:
    """Return the numbers of feature maps of the five levels, finest first."""
    return [filters * min(2**level, WIDEST) for level in range(len(ResEncUNet.BLOCKS))]


def convolution(
    channels_in: int, channels_out: int, stride: Triple = NONE, kernel: Triple = CUBE
) -> nn.Sequential:
    """Return a convolution, batch norm and leaky ReLU."""
    first = Convolution(channels_in, channels_out, kernel, stride=stride, padding=same(kernel), bias=False)
    return nn.Sequential(first, nn.BatchNorm3d(channels_out), nn.LeakyReLU(SLOPE, inplace=True))


def _level(
    channels_in: int, channels_out: int, count: int, stride: Triple = NONE, kernel: Triple = CUBE
) -> list[nn.Module]:
    """Return `count` residual blocks, the first of which changes resolution and width."""
    first = ResidualBlock(channels_in, channels_out, stride, kernel)
    more = (ResidualBlock(channels_out, channels_out, kernel=kernel) for _ in range(count - 1))
    return [first, *more]
