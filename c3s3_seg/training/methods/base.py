"""What the loop knows of a method. Methods never see files, devices or loggers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch.distributed as dist
from torch import Tensor, nn

from c3s3_seg.bundle import Network
from c3s3_seg.models import build
from c3s3_seg.models.blocks import Backbone
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch, Views
from c3s3_seg.training.losses import taught_loss
from c3s3_seg.training.settings import TeacherConfig


@dataclass(frozen=True)
class Phase:
    """One backward pass: a loss, the optimisers that step on it, and named numbers for the log."""

    loss: Tensor
    optimisers: tuple[str, ...]
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Adam:
    """An optimiser of a method's own beside the run's SGD; its learning rate stays constant."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)


class Method(nn.Module, ABC):
    """Built from the run's configuration.

    Heads, teachers and memories are sub-modules, so `state_dict()` is the checkpoint.

    Attributes
    ----------
    alone
        Why several processes cannot train it as one; empty where they can.
    """

    alone: ClassVar[str] = ""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def views(self, iteration: int) -> Views:
        """What the batch of this iteration must hold."""

    @abstractmethod
    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """The phases of one iteration, in order."""

    @abstractmethod
    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """The nets among which validation chooses the one to export."""

    def after_step(self, iteration: int) -> None:
        """What follows the optimisers' step; for most methods nothing."""

    def after_start(self) -> None:
        """What follows when a bundle has filled the nets: teachers copy them; for most methods nothing."""

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name of their optimiser."""
        return {"main": list(self.parameters())}

    def own_optimisers(self) -> dict[str, Adam]:
        """Those of `optimised` that are not the run's SGD."""
        return {}

    def progress(self, iteration: int) -> float:
        """The share of the run that is done: what drives ramps and starts."""
        return iteration / self.config.run.iterations


def logged(**terms: Tensor) -> dict[str, float]:
    """A phase's terms as numbers for the log."""
    return {name: float(value.detach()) for name, value in terms.items()}


def learn_from_teacher(logits: Sequence[Tensor], batch: Batch, config: TeacherConfig) -> Tensor:
    """What a teacher's targets teach one net; logits per view (L + U, C, X, Y, Z)."""
    taught = len(batch.taught)
    return taught_loss([x[len(x) - taught :] for x in logits], batch.taught, config.temperature)


def fresh(config: TrainConfig) -> list[tuple[Backbone, Network]]:
    """The nets that the run trains, freshly initialised, A before B."""
    return [
        (
            build(
                network.architecture,
                channels=network.channels,
                classes=config.task.classes,
                filters=network.filters,
                dropout=config.networks.dropout,
                strides=config.task.network_strides,
            ),
            network,
        )
        for network in config.networks.trained(config.method).values()
    ]


class Stepper(nn.Module):
    """A method's step as `forward`, for what wraps modules.

    One process takes the phases as they come, so that a later one may see what an earlier one changed.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, iteration: int) -> Iterable[Phase]:
        """The phases of one iteration."""
        if dist.is_initialized():  # the wrapper must see every loss before the first backward
            return list(self.method.step(batch, iteration))
        return self.method.step(batch, iteration)
