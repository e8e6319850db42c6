"""The interface of a method to the training loop. Methods never see files, devices or loggers."""

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
    """The settings of a method's own optimiser beside the run's SGD; the learning rate stays constant."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)


class Method(nn.Module, ABC):
    """A training method, built from the run's configuration.

    Heads, teachers and memories are sub-modules, so `state_dict()` holds the method's whole checkpoint.

    Attributes
    ----------
    alone
        Reason why several processes cannot train the method as one; empty if they can.
    """

    alone: ClassVar[str] = ""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def views(self, iteration: int) -> Views:
        """Return the contents that the batch of this iteration must have."""

    @abstractmethod
    def step(self, batch: Batch, iteration: int) -> Iterator[Phase]:
        """Yield the phases of one iteration, in order."""

    @abstractmethod
    def candidates(self) -> dict[str, tuple[Backbone, Network]]:
        """Return the nets that are validated and may be exported, by name."""

    def after_step(self, iteration: int) -> None:
        """Update averages after the optimisers' step; most methods do nothing."""

    def after_start(self) -> None:
        """Copy the nets to the teachers after a bundle has filled the nets; most methods do nothing."""

    def optimised(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by the name of their optimiser."""
        return {"main": list(self.parameters())}

    def own_optimisers(self) -> dict[str, Adam]:
        """Return the settings of the optimisers in `optimised` that are not the run's SGD."""
        return {}

    def progress(self, iteration: int) -> float:
        """Return the share of the run that is done, which drives ramps and starts."""
        return iteration / self.config.run.iterations


def logged(**terms: Tensor) -> dict[str, float]:
    """Return a phase's terms as numbers for the log."""
    return {name: float(value.detach()) for name, value in terms.items()}


def learn_from_teacher(logits: Sequence[Tensor], batch: Batch, config: TeacherConfig) -> Tensor:
    """Return one net's loss against a teacher's targets; one (L + U, C, X, Y, Z) of logits per view."""
    taught = len(batch.taught)
    return taught_loss([x[len(x) - taught :] for x in logits], batch.taught, config.temperature)


def fresh(config: TrainConfig) -> list[tuple[Backbone, Network]]:
    """Return the nets that the run trains, freshly initialised, A before B."""
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
    """A method's step as `forward`, for wrappers of modules.

    A single process takes the phases one by one, so that a later phase may see the changes of an earlier one.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, iteration: int) -> Iterable[Phase]:
        """Return the phases of one iteration."""
        if dist.is_initialized():  # the wrapper must see every loss before the first backward
            return list(self.method.step(batch, iteration))
        return self.method.step(batch, iteration)
