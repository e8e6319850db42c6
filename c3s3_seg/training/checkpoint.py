"""The whole state of a run in one safetensors file: nets, EMA, momentum, random state. No pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from c3s3_seg.errors import InputError
from c3s3_seg.files import write_whole

Tensors = dict[str, Tensor]
FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class State:
    """Between two iterations.

    Parameters
    ----------
    iteration
        The next one to run. With the seed it is the sampler's whole state.
    config
        The run's configuration; another one cannot resume it.
    tensors
        Everything else, by name.
    history
        The validation records so far.
    seconds
        Wall clock spent in training, over all its processes.
    """

    iteration: int
    config: dict[str, Any]
    tensors: Tensors
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def write(run: Path, state: State) -> None:
    """Replace the checkpoint; on a full disk the one before stays as it was."""
    from safetensors.torch import save

    facts = {name: getattr(state, name) for name in ("iteration", "config", "history", "seconds")}
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}
    write_whole(run / FILE, save(tensors, metadata={"state": json.dumps(facts)}))


def read(run: Path) -> State:
    """The newest checkpoint of a run.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = run / FILE
    if not path.is_file():
        raise InputError(
            "there is no checkpoint to resume", where=path, todo="Start the run without --resume"
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a checkpoint of ours ({error})", where=path) from error
    return State(facts["iteration"], facts["config"], tensors, facts["history"], facts.get("seconds", 0.0))


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names begin with `prefix.`, without it."""
    return {
        name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")
    }


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """Momentum and the like, by parameter number and name. Learning rates are functions of the iteration."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entry in state.items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The inverse of `optimiser_tensors`."""
    whole = optimiser.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        entries.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({**whole, "state": entries})
