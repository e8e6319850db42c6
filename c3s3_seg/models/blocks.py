"""Building blocks of the backbones.

All tensors are (N, C, X, Y, Z) float. Convolutions are followed by batch norm and ReLU.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from c3s3_seg.models.activation_checkpointing import Checkpointed
from c3s3_seg.models.strides import EVEN, NONE, Strides, Triple, kernels_of

CUBE: Triple = (3, 3, 3)


class Convolution(nn.Conv3d):
    """A convolution; under CPU autocast (bfloat16), maps with a side below 3 use single precision.

    oneDNN's weight gradient of such a map reads uninitialised memory, on CPUs with AVX-512 bfloat16 (found
    with torch 2.13: half of the gradients were not finite). Crops of 32 have such maps on the coarsest level.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer: (N, C, X, Y, Z) -> (N, channels_out, X/stride, Y/stride, Z/stride)."""
        if torch.is_autocast_enabled("cpu") and x.device.type == "cpu" and min(x.shape[2:]) < 3:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


def same(kernel: Triple) -> Triple:
    """Return the padding with which a kernel of odd sides keeps the sides of its input."""
    x, y, z = (side // 2 for side in kernel)
    return x, y, z


def conv_norm_relu(channels_in: int, channels_out: int, kernel: Triple = CUBE) -> nn.Sequential:
    """Return a convolution that keeps the sides, batch norm and ReLU."""
    convolution = Convolution(channels_in, channels_out, kernel, padding=same(kernel))
    return nn.Sequential(convolution, nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True))


def downsample(channels_in: int, channels_out: int, stride: Triple) -> nn.Sequential:
    """Return a convolution as large as its stride, which divides the sides, batch norm and ReLU."""
    convolution = Convolution(channels_in, channels_out, stride, stride=stride)
    return nn.Sequential(convolution, nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True))


def stage(count: int, channels_in: int, channels_out: int, kernel: Triple = CUBE) -> nn.Sequential:
    """Return `count` convolutions, the first of which changes the number of channels."""
    widths = [channels_in] + [channels_out] * count
    return nn.Sequential(*(conv_norm_relu(a, b, kernel) for a, b in pairwise(widths)))


def upsample(channels_in: int, channels_out: int, stride: Triple) -> nn.Sequential:
    """Return a transposed convolution as large as its stride, which multiplies the sides, norm and ReLU."""
    convolution = nn.ConvTranspose3d(channels_in, channels_out, stride, stride=stride)
    return nn.Sequential(convolution, nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    """The residual block of ResNet-18/34 (He et al. 2016, fig. 2) with 3D convolutions.

    If the stride is not 1 or the width changes, the shortcut is a 1x1x1 convolution and batch norm.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: Triple = NONE, kernel: Triple = CUBE
    ) -> None:
        super().__init__()
        padding = same(kernel)
        self.first = Convolution(
            channels_in, channels_out, kernel, stride=stride, padding=padding, bias=False
        )
        self.norm1 = nn.BatchNorm3d(channels_out)
        self.second = Convolution(channels_out, channels_out, kernel, padding=padding, bias=False)
        self.norm2 = nn.BatchNorm3d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != NONE or channels_in != channels_out:
            projection = nn.Conv3d(channels_in, channels_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm3d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer: (N, C, X, Y, Z) -> (N, channels_out, X/stride, Y/stride, Z/stride)."""
        y = self.relu(self.norm1(self.first(x)))
        y = self.norm2(self.second(y))
        return self.relu(y + self.shortcut(x))  # type: ignore[no-any-return]


class Decoder(Checkpointed):
    """The V-Net decoder: four upsamplings, each *adding* the encoder's map of the same size.

    It takes the five maps of an encoder, finest first, with `filters * (1, 2, 4, 8, 16)` channels,
    and returns the last feature map: (N, filters, X, Y, Z).
    """

    CONVOLUTIONS = (1, 2, 3, 3)  # number per stage, finest first
    LARGE = 2  # number of finest levels whose maps are worth computing again

    def __init__(self, filters: int, dropout: float = 0.5, strides: Strides = EVEN) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(5)]
        self.ups = nn.ModuleList(upsample(widths[i + 1], widths[i], strides[i]) for i in range(4))
        kernels = kernels_of(strides)
        self.stages = nn.ModuleList(
            stage(count, widths[i], widths[i], kernels[i]) for i, count in enumerate(self.CONVOLUTIONS)
        )
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Decode five maps, finest first -> (N, filters, X, Y, Z)."""
        x = maps[4]
        for level in (3, 2, 1, 0):
            step = partial(self._level, level)
            x = self.part(step, x, maps[level]) if level < self.LARGE else step(x, maps[level])
        return self.dropout(x)  # type: ignore[no-any-return]

    def _level(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        return self.stages[level](self.ups[level](x) + skip)  # type: ignore[no-any-return]


def initialise(module: nn.Module) -> None:
    """Set Kaiming (fan-in) normal weights in convolutions, ones and zeros in batch norms."""
    for child in module.modules():
        if isinstance(child, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(child.weight)
        elif isinstance(child, nn.BatchNorm3d):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)


class Backbone(Checkpointed):
    """An encoder, a decoder and a 1x1x1 output convolution.

    Sub-classes take `channels`, `classes`, `filters`, `dropout` and `strides`. They define `encode`, and
    `new_decoder` if the decoder is not V-Net's; they set `bottleneck` if the coarsest map passes through a
    further module. The sides of the input must be multiples of `multiple_of(strides)`.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        filters: int = 16,
        dropout: float = 0.5,
        strides: Strides = EVEN,
    ) -> None:
        super().__init__()
        self.bottleneck: nn.Module = nn.Identity()
        self.decoder = self.new_decoder(filters, dropout, strides)
        self.output = nn.Conv3d(filters, classes, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features: (N, C, X, Y, Z) -> five maps, finest first."""
        raise TypeError(f"{type(self).__name__} has no encoder: use a backbone of c3s3_seg.models.BACKBONES")

    def new_decoder(self, filters: int, dropout: float, strides: Strides) -> nn.Module:
        """Return a decoder: five maps, finest first -> (N, filters, X, Y, Z)."""
        return Decoder(filters, dropout, strides)

    def features(self, x: Tensor, passes: int = 1) -> Tensor:
        """Return the decoder's last features: (N, C, X, Y, Z) -> (passes * N, filters, X, Y, Z).

        Several passes share the encoder; each pass drops other channels.
        """
        maps = self.encode(x)
        if passes > 1:
            maps = [level.repeat(passes, 1, 1, 1, 1) for level in maps]
        maps[-1] = self.bottleneck(maps[-1])
        return self.decoder(maps)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, C, X, Y, Z) -> (N, classes, X, Y, Z)."""
        return self.output(self.features(x))  # type: ignore[no-any-return]
