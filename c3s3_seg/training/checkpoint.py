"""The whole state of a run in one safetensors file: nets, EMA, momentum, random state. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.hardware import is_memory_error
from c3s3_seg.system.reading import parse_json
from c3s3_seg.system.schema import closed, parse
from c3s3_seg.training.records import check_records

Tensors = dict[str, Tensor]
FILE = "checkpoint.safetensors"
ANEW = "Start the run again without --resume"


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


@closed
@dataclass(frozen=True)
class CheckpointFacts:
    """What is written beside the tensors: all else of a `State`, and the names and the hash of the tensors.

    `sha256` is "" in a checkpoint that was written before there was one.
    """

    iteration: Annotated[int, Ge(0), Le(2**53)]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    seconds: Annotated[float, Ge(0), Le(1e12)]
    tensors: list[str]
    sha256: str = ""


def write(run: Path, state: State) -> None:
    """Replace the checkpoint; on a full disk the one before stays as it was."""
    from safetensors.torch import save

    facts = ("iteration", "config", "history", "seconds")
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}
    stored = {name: getattr(state, name) for name in facts}
    stored |= {"tensors": sorted(tensors), "sha256": _sha256(tensors)}
    write_whole(run / FILE, save(tensors, metadata={"state": json.dumps(stored)}))


def read(run: Path) -> State:
    """The newest checkpoint of a run.

    Raises
    ------
    InputError
        If there is none, it cannot be read, or something in it is missing or has changed.
    """
    from safetensors import SafetensorError, safe_open

    path = run / FILE
    if not path.is_file():
        raise InputError(
            "there is no checkpoint to resume", where=path, todo="Start the run without --resume"
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse(CheckpointFacts, parse_json(file.metadata()["state"], path), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        check_records(facts.history, path)
        missing = next((name for name in facts.tensors if name not in tensors), None)
        if missing is not None:
            raise InputError(f"the checkpoint lacks the tensor '{missing}'", where=path, todo=ANEW)
        if facts.sha256 not in ("", _sha256(tensors)):
            what = "the checkpoint is damaged: its tensors do not have the sha256 that was written with them"
            raise InputError(what, where=path, todo=f"Restore it from a copy. {ANEW}")
        return State(facts.iteration, facts.config, tensors, facts.history, facts.seconds)
    except ConfigError as error:
        raise InputError(f"not a checkpoint of ours ({error.what})", where=path, todo=ANEW) from error
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise InputError(f"not a checkpoint of ours ({error})", where=path, todo=ANEW) from error


def _sha256(tensors: Tensors) -> str:
    """Of names, types, shapes and values, in the order of the names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@contextmanager
def restoring(run: Path) -> Iterator[None]:
    """What does not fit while a run takes over its checkpoint, as an error of ours.

    Raises
    ------
    InputError
        Where a tensor is missing, or has another shape.
    """
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError) as error:
        if is_memory_error(error):
            raise
        what = f"the checkpoint does not fit this run ({' '.join(str(error).split())[:300]})"
        raise InputError(what, where=run / FILE, todo=ANEW) from error


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
    """The inverse of `optimiser_tensors`.

    Raises
    ------
    ValueError
        If a tensor is of no parameter, or has another shape: torch would find out in the first step.
    """
    whole = optimiser.state_dict()
    shapes = [parameter.shape for group in optimiser.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        wanted = torch.Size() if key == "step" else shapes[int(number)]
        if tensor.shape != wanted:
            raise ValueError(f"'{name}' has the shape {list(tensor.shape)}, wanted {list(wanted)}")
        entries.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({**whole, "state": entries})
