"""ResVNet: a 3D ResNet-34 encoder (He et al. 2016) with V-Net's decoder."""

from torch import Tensor, nn

from c3s3_seg.models.blocks import Backbone, BasicBlock, initialise, same
from c3s3_seg.models.strides import EVEN, Strides, Triple, kernels_of


class ResVNet(Backbone):
    """Backbone B of the paper: 17,930,354 parameters at 16 filters, 1 channel, 2 classes.

    Parameters
    ----------
    channels
        Input channels.
    classes
        Output classes, background included.
    filters
        Feature maps at full resolution; the stem has stride 1, so no detail is lost before it.
    dropout
        Share of the channels that are dropped before the output, in training.
    strides
        Strides of the four downsamplings, see `c3s3_seg.models.strides`.
    """

    BLOCKS = (3, 4, 6, 3)

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        filters: int = 16,
        dropout: float = 0.5,
        strides: Strides = EVEN,
    ) -> None:
        super().__init__(channels, classes, filters, dropout, strides)
        kernels = kernels_of(strides)
        wide = _wide(kernels[0])
        self.stem = nn.Sequential(
            nn.Conv3d(channels, filters, wide, padding=same(wide), bias=False),
            nn.BatchNorm3d(filters),
            nn.ReLU(inplace=True),
        )
        widths = [filters * 2**level for level in range(5)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                BasicBlock(widths[i], widths[i + 1], strides[i], kernels[i + 1]),
                *(BasicBlock(widths[i + 1], widths[i + 1], kernel=kernels[i + 1]) for _ in range(count - 1)),
            )
            for i, count in enumerate(self.BLOCKS)
        )
        initialise(self)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features: (N, C, X, Y, Z) -> five maps, finest first."""
        maps = [self.part(self.stem, x)]
        for level in self.stages:
            maps.append(level(maps[-1]))
        return maps


def _wide(kernel: Triple) -> Triple:
    """Return the stem's kernel: 7 where a kernel has 3, as in ResNet."""
    x, y, z = (7 if side > 1 else 1 for side in kernel)
    return x, y, z
