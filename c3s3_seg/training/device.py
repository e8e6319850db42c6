"""The device of a run: its choice, autocast, and moving batches to it."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from c3s3_seg.inference.backends.runtimes import forbid_tf32
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch
from c3s3_seg.training.distributed import ProcessGroup, check_gpu


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a step: half precision, or nothing changed if `precision` is float32."""
    half = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "float32")


def choose_device(config: TrainConfig, group: ProcessGroup) -> torch.device:
    """Return the device on which this process trains, set up so that a run can be repeated there.

    Raises
    ------
    MissingError
        If CUDA is configured and torch finds no CUDA device.
    ConfigError
        If torch does not find the GPU of this process.
    """
    if config.run.device == "cuda":
        check_gpu(group)
    # cuBLAS is deterministic only with a workspace of fixed size, which this variable sets.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.run.device == "cuda":
        forbid_tf32()  # with half precision too, as the loss terms are still float32
        return torch.device("cuda", group.local_rank)
    return torch.device(config.run.device)


def move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device, with the channels of its views last in memory."""
    views = tuple(v.to(device, memory_format=torch.channels_last_3d) for v in batch.views)
    moved = {name: getattr(batch, name).to(device) for name in ("target", "box", "distances", "taught")}
    return replace(batch, views=views, **moved)
