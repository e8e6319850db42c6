"""Several processes that train as one, started by torchrun; in a single process this module does nothing.

Each process draws its share of every batch. Sums that a loss pools over the batch, the batch norms'
statistics and the competition's values are taken over all processes, so N processes step as one would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from c3s3_seg.errors import ConfigError, MissingError, quantity
from c3s3_seg.training.config import TrainConfig, mixed_batches

# The other processes wait for rank 0 while rank 0 validates and writes.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process among the processes of a run.

    Parameters
    ----------
    rank
        Number of this process, 0 to size - 1; rank 0 validates, writes and reports.
    size
        Number of processes.
    local_rank
        Number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> ProcessGroup:
        """Read the variables that torchrun sets; without them, one process.

        Raises
        ------
        ConfigError
            If a variable is not a whole number, or RANK is not below WORLD_SIZE.
        """
        rank, size, local = (_number(name, default) for name, default in _VARIABLES)
        if rank >= size:
            raise ConfigError(f"the environment has WORLD_SIZE = {size} and RANK = {rank}", todo=_TODO)
        return cls(rank, size, local)

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes and reports."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return the numbers of this process's crops among `count` crops."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
_MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_TODO = "Start several processes with torchrun, or one without these variables"


def _number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    if not (text.isascii() and text.isdecimal()):
        what = f"the environment has {name} = {text!r}, wanted a whole number"
        raise ConfigError(what, todo=_TODO)
    return int(text)


@contextmanager
def join(config: TrainConfig) -> Iterator[ProcessGroup]:
    """Join the other processes, if there are any, and leave them at the end.

    Raises
    ------
    ConfigError
        If a batch cannot be divided evenly, the environment does not state the other processes' address, or
        this process has no GPU of its own.
    MissingError
        If CUDA is configured and torch finds no CUDA device.
    """
    group = ProcessGroup.of_environment()
    if group.size == 1:
        yield group
        return
    _check(config, group)
    missing = [name for name in _MEETING if not os.environ.get(name)]
    if missing:  # other launchers set WORLD_SIZE too, for other programs
        what = f"the environment has WORLD_SIZE = {group.size}, and no {', '.join(missing)}"
        raise ConfigError(what, todo=_TODO)
    if config.run.device == "cuda":
        check_gpu(group)
        torch.cuda.set_device(group.local_rank)
    dist.init_process_group("nccl" if config.run.device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield group
    finally:
        dist.destroy_process_group()


def check_gpu(group: ProcessGroup) -> None:
    """Raise if torch does not find the GPU of this process.

    Raises
    ------
    MissingError
        If torch finds no CUDA device.
    ConfigError
        If it finds fewer than the processes on this machine need.
    """
    if not torch.cuda.is_available():
        what = "run.device = 'cuda', but torch finds no CUDA device"
        raise MissingError(what, todo="Set run.device = 'cpu'")
    count = torch.cuda.device_count()
    if group.local_rank >= count:
        found = f"this process finds {quantity(count, 'GPU')}"
        what = f"the environment has LOCAL_RANK = {group.local_rank}, and {found}"
        todo = (
            "Start no more processes on a machine than it has GPUs, and let each of them find all GPUs"
            " (CUDA_VISIBLE_DEVICES)"
        )
        raise ConfigError(what, todo=todo)


def _check(config: TrainConfig, group: ProcessGroup) -> None:
    mixed = mixed_batches(config)
    for key in ("labelled_batch", "unlabelled_batch", "warm_batch"):
        count, each = getattr(config.run, key), group.size
        what = f"a multiple of the {each} processes"
        if key in mixed:  # a process holds whole pairs: with one crop, it would mix the crop with itself
            each *= 2
            what = f"a multiple of {each}, twice the number of processes: {mixed[key]} mixes pairs of crops,"
            what = f"{what} each within a process"
        if count % each:
            raise ConfigError(f"run.{key} = {count}: wanted {what}")


def total(local: Tensor) -> Tensor:
    """Return the sum over all processes; gradients flow back to each process's share."""
    if not dist.is_initialized():
        return local
    from torch.distributed.nn.functional import all_reduce

    summed: Tensor = all_reduce(local)  # type: ignore[no-untyped-call]
    return summed


def mean(values: list[float]) -> list[float]:
    """Return the mean over all processes, number by number."""
    if not dist.is_initialized():
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    averaged: list[float] = (summed / dist.get_world_size()).tolist()
    return averaged


def led(value: bool) -> bool:
    """Return whether any process, in practice the first one, passes True; all processes must call this."""
    return any(mean([float(value)]))


def wait() -> None:
    """Wait until all processes have called this."""
    if dist.is_initialized():
        dist.barrier()


def synchronise(method: nn.Module, device: torch.device) -> None:
    """Make batch norms take their statistics over all processes; names in the state dict do not change."""
    if not dist.is_initialized():
        return
    for parent in list(method.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm3d):
                setattr(parent, name, _synchronised(child, device))


def _synchronised(norm: nn.BatchNorm3d, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-any-return, no-untyped-call]
    synced = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum)
    synced.load_state_dict(norm.state_dict())
    return synced


class SharedBatchNorm(nn.BatchNorm3d):
    """Batch norm over all processes on a CPU, which torch's own SyncBatchNorm does not support."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, X, Y, Z), in training with the statistics of all processes; the shape is kept."""
        if not self.training:
            return super().forward(x)
        axes = (0, 2, 3, 4)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        x32 = x.float()
        # In double precision: of values far from 0 the two terms of the variance are nearly equal.
        sums = total(torch.stack([x32.sum(axes, dtype=torch.float64), x32.double().square().sum(axes)]))
        average = sums[0] / count
        variance = (sums[1] / count - average.square()).clamp_min(0)
        self._remember(average.detach(), variance.detach() * count / (count - 1))
        shape = (1, -1, 1, 1, 1)
        scale = self.weight * (variance + self.eps).rsqrt().float()
        centred = x32 - average.float().view(shape)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, average: Tensor, unbiased: Tensor) -> None:
        for running, new in ((self.running_mean, average), (self.running_var, unbiased)):
            if running is not None:
                running.lerp_(new.to(running.dtype), self.momentum or 0.0)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
