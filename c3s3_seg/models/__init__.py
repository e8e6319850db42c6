"""The two backbones of C3S3: nets only."""

from typing import Literal, get_args

from c3s3_seg.errors import ConfigError
from c3s3_seg.models.activation_checkpointing import set_activation_checkpointing
from c3s3_seg.models.blocks import Backbone, parameter_count
from c3s3_seg.models.resvnet import ResVNet
from c3s3_seg.models.vnet import VNet

Architecture = Literal["vnet", "resvnet"]


def build(architecture: str, *, channels: int, classes: int, filters: int, dropout: float = 0.5) -> Backbone:
    """A freshly initialised backbone.

    Raises
    ------
    ConfigError
        If there is no such architecture.
    """
    if architecture == "vnet":
        return VNet(channels, classes, filters, dropout)
    if architecture == "resvnet":
        return ResVNet(channels, classes, filters, dropout)
    raise ConfigError(
        f"found architecture '{architecture}', wanted one of {', '.join(get_args(Architecture))}"
    )


__all__ = [
    "Architecture",
    "Backbone",
    "ResVNet",
    "VNet",
    "build",
    "parameter_count",
    "set_activation_checkpointing",
]
