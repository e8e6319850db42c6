"""Where a run computes."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from c3s3_seg.errors import MissingError
from c3s3_seg.inference.backends.runtimes import forbid_tf32
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import Batch
from c3s3_seg.training.distributed import ProcessGroup


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """In which a step computes in half precision, if it is to."""
    half = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "float32")


def choose_device(config: TrainConfig, group: ProcessGroup) -> torch.device:
    """Where this process trains, set up so that a run can be repeated there.

    Raises
    ------
    MissingError
        If CUDA is configured and there is none.
    """
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise MissingError(
            "run.device = 'cuda', but torch finds no CUDA device", todo="Set run.device = 'cpu'"
        )
    # cuBLAS is deterministic only with a workspace of fixed size, which it reads from here.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.run.device == "cuda":
        forbid_tf32()  # in half precision too, where the loss terms are still float32
        return torch.device("cuda", group.local_rank)
    return torch.device(config.run.device)


def move(batch: Batch, device: torch.device) -> Batch:
    """The same batch on a device, its views with the channels last."""
    views = tuple(v.to(device, memory_format=torch.channels_last_3d) for v in batch.views)
    moved = {name: getattr(batch, name).to(device) for name in ("target", "box", "distances", "taught")}
    return replace(batch, views=views, **moved)
