"""The backbones that a run trains: the table `networks` of its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le

from c3s3_seg.bundle import Network
from c3s3_seg.models import Architecture
from c3s3_seg.system.choices import Storage
from c3s3_seg.system.schema import closed

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, ...] = get_args(Slot)
PAIRS = ("c3s3", "mcf", "sdcl")  # methods that train A and B
TWINS = ("tracoco", "caussl")  # methods that train two networks as A is configured


@closed
@dataclass(frozen=True)
class BackboneA:
    """Backbone A, by default the paper's V-Net.

    Parameters
    ----------
    architecture
        A name in `c3s3_seg.models.BACKBONES`.
    filters
        Number of feature maps at full resolution.
    """

    architecture: Architecture = "vnet"
    filters: Annotated[int, Gt(0)] = 16


@closed
@dataclass(frozen=True)
class BackboneB(BackboneA):
    """Backbone B, by default the paper's ResVNet."""

    architecture: Architecture = "resvnet"


@closed
@dataclass(frozen=True)
class NetworksConfig:
    """The two backbones, and which of them a run trains and ships.

    Parameters
    ----------
    a, b
        The two competing backbones. A method with one network (UA-MT, DTC) trains A, one with two of the
        same architecture (TraCoCo, CauSSL) trains A twice.
    supervised
        Backbone that a supervised run trains.
    dropout
        Share of the channels that are dropped in training. With a few filters 0 is better.
    ship
        Backbones that go into the bundle; if empty, all.
    storage
        Format of large kernels in the bundle: half precision, or 8 bits (half of that size).
    """

    a: BackboneA = field(default_factory=BackboneA)
    b: BackboneB = field(default_factory=BackboneB)
    supervised: Slot = "a"
    dropout: Annotated[float, Ge(0), Le(1)] = 0.5
    ship: tuple[Slot, ...] = ()
    storage: Storage = "half"

    def backbone(self, slot: Slot) -> BackboneA:
        """Return the backbone of a slot."""
        return self.a if slot == "a" else self.b

    def trained(self, method: str) -> dict[Slot, Network]:
        """Return the networks that a method trains, as its bundle describes them; `candidate` is unique."""
        slots = self._slots(method)
        backbones = [self.backbone("a" if method in TWINS else slot) for slot in slots]
        names = [backbone.architecture for backbone in backbones]
        found: dict[Slot, Network] = {}
        for slot, backbone in zip(slots, backbones, strict=True):
            architecture = backbone.architecture
            name = f"{architecture}-{slot}" if names.count(architecture) > 1 else None
            found[slot] = Network("model", architecture, backbone.filters, name=name)
        return found

    def shipped(self, method: str) -> list[str]:
        """Return the candidates of the networks that go into the bundle."""
        trained = self.trained(method)
        return [network.candidate for slot, network in trained.items() if slot in (self.ship or trained)]

    def _slots(self, method: str) -> Sequence[Slot]:
        if method == "supervised":
            return (self.supervised,)
        return SLOTS if method in (*PAIRS, *TWINS) else ("a",)
