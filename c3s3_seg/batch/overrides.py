"""Parse the rarely used settings of a prediction: `predict --set KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from c3s3_seg.errors import InputError
from c3s3_seg.inference.backends.select import BackendRequest
from c3s3_seg.inference.settings import Settings, tiled
from c3s3_seg.system.choices import TilingPreset, Weighting
from c3s3_seg.system.overrides import nested
from c3s3_seg.system.schema import Rule, closed, parse

Positive = Annotated[int, Rule(lambda value: value >= 1, "a whole number from 1 on")]


@closed
@dataclass(frozen=True)
class TilingKeys:
    """Keys as in `Settings`; None leaves a key to the preset."""

    overlap: float | None = None
    stride: tuple[Positive, Positive, Positive] | None = None
    weighting: Weighting | None = None


@closed
@dataclass(frozen=True)
class PostprocessKeys:
    """Keys as in `Settings`; None leaves `keep_largest` to the bundle."""

    keep_largest: bool | None = None
    min_volume_ml: float = 0.0
    fill_holes: bool = False


@closed
@dataclass(frozen=True)
class BatchKeys:
    """Keys as in `BatchPlan`."""

    limit: Positive | None = None


@closed
@dataclass(frozen=True)
class NetworkKeys:
    """Keys as in `Settings` (`on_device`) and `BackendRequest`; None leaves `on_device` to the device."""

    on_device: bool | None = None
    channels_last: bool = True
    cuda_graphs: bool = True


@closed
@dataclass(frozen=True)
class PredictKeys:
    """Every key that `predict --set` takes."""

    tiling: TilingKeys = field(default_factory=TilingKeys)
    postprocess: PostprocessKeys = field(default_factory=PostprocessKeys)
    batch: BatchKeys = field(default_factory=BatchKeys)
    network: NetworkKeys = field(default_factory=NetworkKeys)

    @classmethod
    def parse(cls, overrides: Sequence[str]) -> PredictKeys:
        """Return the keys parsed from `tiling.overlap=0.5`, `postprocess.fill_holes=true`, ...

        Raises
        ------
        ConfigError
            If a key does not exist or does not accept the value.
        """
        return parse(cls, nested(overrides, "tiling.overlap=0.5"), "--set")

    def settings(self, settings: Settings, preset: TilingPreset) -> Settings:
        """Return the settings with the preset's tiles, overridden by these keys.

        Raises
        ------
        InputError
            If a tiling key is given with the preset `paper` (published evaluations) or `whole` (one tile).
        """
        asked = {key: value for key, value in vars(self.tiling).items() if value is not None}
        if asked and preset in ("paper", "whole"):
            what = f"the tiles of --tiling {preset} are fixed, and tiling.{next(iter(asked))} was set"
            raise InputError(what, todo="Leave one of them out")
        if "stride" in asked:
            asked = {"overlap": None, **asked}  # replaces the preset's overlap
        return replace(
            tiled(settings, preset), **asked, **vars(self.postprocess), on_device=self.network.on_device
        )

    def request(self, request: BackendRequest) -> BackendRequest:
        """Return the request for a backend with these keys."""
        network = self.network
        return replace(request, channels_last=network.channels_last, cuda_graphs=network.cuda_graphs)
