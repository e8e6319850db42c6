"""The backbones (networks only), and the table through which the rest of the package uses them.

A new backbone is a file in this package with a sub-class of `blocks.Backbone`, and a row here. The module of
a row is imported when such a network is built: names are checked, and graphs run, without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

from c3s3_seg.errors import ConfigError
from c3s3_seg.models.strides import EVEN, Strides
from c3s3_seg.system.schema import Rule

if TYPE_CHECKING:
    from c3s3_seg.models.blocks import Backbone


@dataclass(frozen=True)
class BackboneEntry:
    """The module and the class of a backbone.

    Parameters
    ----------
    module, class_name
        Module and class; the class takes `channels`, `classes`, `filters`, `dropout` and `strides`.
    first_kernel
        Name of its first kernel, (filters, channels, x, y, z), in a state dict; no other backbone has a
        kernel of that name. The name identifies a weights file without torch.
    """

    module: str
    class_name: str
    first_kernel: str


BACKBONES = {
    "vnet": BackboneEntry("c3s3_seg.models.vnet", "VNet", "stages.0.0.0.weight"),
    "resvnet": BackboneEntry("c3s3_seg.models.resvnet", "ResVNet", "stem.0.weight"),
    "resencunet": BackboneEntry("c3s3_seg.models.resencunet", "ResEncUNet", "encoder.0.0.0.weight"),
}

WANTED = " or ".join(map(repr, BACKBONES))
Architecture = Annotated[str, Rule(lambda name: name in BACKBONES, WANTED)]


def build(
    architecture: str,
    *,
    channels: int,
    classes: int,
    filters: int,
    dropout: float = 0.5,
    strides: Strides = EVEN,
) -> Backbone:
    """Return a freshly initialised backbone.

    Raises
    ------
    ConfigError
        If there is no such architecture.
    """
    if architecture not in BACKBONES:
        raise ConfigError(f"found architecture '{architecture}', wanted {WANTED}")
    entry = BACKBONES[architecture]
    kind: type[Backbone] = getattr(import_module(entry.module), entry.class_name)
    return kind(channels, classes, filters, dropout, strides)


__all__ = ["BACKBONES", "Architecture", "BackboneEntry", "build"]
