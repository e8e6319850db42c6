"""VNet: the V-Net of Milletari et al. (2016) as the semi-supervised LA benchmarks use it."""

from torch import Tensor, nn

from c3s3_seg.models.blocks import Backbone, downsample, initialise, stage
from c3s3_seg.models.strides import EVEN, Strides, kernels_of


class VNet(Backbone):
    """Backbone A of the paper: 9,448,866 parameters at 16 filters, 1 channel, 2 classes.

    Parameters
    ----------
    channels
        Input channels.
    classes
        Output classes, background included.
    filters
        Feature maps at full resolution; doubled at each of four downsamplings.
    dropout
        Share of the channels that are dropped at the bottleneck and before the output, in training.
    strides
        Strides of the four downsamplings, see `c3s3_seg.models.strides`.
    """

    CONVOLUTIONS = (1, 2, 3, 3, 3)  # number per encoder stage, finest first

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        filters: int = 16,
        dropout: float = 0.5,
        strides: Strides = EVEN,
    ) -> None:
        super().__init__(channels, classes, filters, dropout, strides)
        widths = [filters * 2**level for level in range(5)]
        ins = [channels, *widths[1:]]
        kernels = kernels_of(strides)
        self.stages = nn.ModuleList(
            stage(count, ins[i], widths[i], kernels[i]) for i, count in enumerate(self.CONVOLUTIONS)
        )
        self.downs = nn.ModuleList(
            downsample(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)
        )
        self.bottleneck = nn.Dropout3d(dropout)
        initialise(self)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features: (N, C, X, Y, Z) -> five maps, finest first."""
        maps = [self.part(self.stages[0], x)]
        for down, level in zip(self.downs, list(self.stages)[1:], strict=True):
            maps.append(level(down(maps[-1])))
        return maps
