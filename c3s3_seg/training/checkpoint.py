"""Checkpoints: nets, EMA, momentum and random state of a run in one safetensors file, without pickle."""

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
from c3s3_seg.training.records import Cases, check_records

Tensors = dict[str, Tensor]
FILE = "checkpoint.safetensors"
DIVERGED = "diverged.safetensors"  # the last checkpoint of a run that diverged: no run resumes from it
STORED = ("iteration", "config", "history", "seconds", "best_cases")  # fields of a state beside its tensors
ANEW = "Remove this file and start the run again without --resume, or give another folder"


@dataclass(frozen=True)
class State:
    """The state of a run between two iterations.

    Parameters
    ----------
    iteration
        Number of the next iteration. With the seed, it is the sampler's whole state.
    config
        Configuration of the run; a resumed run may change only the keys `MAY_CHANGE` of `resume.py`.
    tensors
        All other state, by name.
    history
        Records so far (validations, warnings and the like).
    seconds
        Wall-clock time spent in training, over all starts of the run.
    best_cases
        Net -> its scores of each case with the best weights.
    """

    iteration: int
    config: dict[str, Any]
    tensors: Tensors
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    best_cases: dict[str, Cases] = field(default_factory=dict)


@closed
@dataclass(frozen=True)
class CheckpointMetadata:
    """The metadata beside the tensors: all other fields of a `State`, the tensors' names and their hash.

    `sha256` is "" and `best_cases` empty in a checkpoint that was written before they existed.
    """

    iteration: Annotated[int, Ge(0), Le(2**53)]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    seconds: Annotated[float, Ge(0), Le(1e12)]
    tensors: list[str]
    sha256: str = ""
    best_cases: dict[str, Cases] = field(default_factory=dict)


def write(run: Path, state: State) -> None:
    """Replace the checkpoint; on a full disk the previous one stays unchanged."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}
    stored = {name: getattr(state, name) for name in STORED}
    stored |= {"tensors": sorted(tensors), "sha256": _sha256(tensors)}
    write_whole(run / FILE, save(tensors, metadata={"state": json.dumps(stored)}))


def read(run: Path) -> State:
    """Read the newest checkpoint of a run.

    Raises
    ------
    InputError
        If there is no checkpoint, or it cannot be read, is incomplete or was changed.
    """
    from safetensors import SafetensorError, safe_open

    path = run / FILE
    if not path.is_file():
        raise InputError(
            "there is no checkpoint to resume", where=path, todo="Start the run without --resume"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = parse(CheckpointMetadata, parse_json(file.metadata()["state"], path), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        check_records(metadata.history, path)
        missing = next((name for name in metadata.tensors if name not in tensors), None)
        if missing is not None:
            raise InputError(f"the checkpoint lacks the tensor '{missing}'", where=path, todo=ANEW)
        if metadata.sha256 not in ("", _sha256(tensors)):
            what = "the checkpoint is damaged: its tensors do not have the sha256 that was written with them"
            raise InputError(what, where=path, todo=f"Restore it from a copy. {ANEW}")
        return State(tensors=tensors, **{name: getattr(metadata, name) for name in STORED})
    except ConfigError as error:
        raise InputError(f"not a checkpoint of ours ({error.what})", where=path, todo=ANEW) from error
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise InputError(f"not a checkpoint of ours ({error})", where=path, todo=ANEW) from error


def set_aside(run: Path) -> None:
    """Rename the checkpoint of a run that diverged, so that the run begins anew."""
    if (run / FILE).exists():
        (run / FILE).replace(run / DIVERGED)


def _sha256(tensors: Tensors) -> str:
    """Return the hash of names, dtypes, shapes and values, in the order of the names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@contextmanager
def restoring(run: Path) -> Iterator[None]:
    """Turn errors from a checkpoint that does not fit the run into `InputError`, except memory errors.

    Raises
    ------
    InputError
        If a tensor is missing, or has another shape.
    """
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError) as error:
        if is_memory_error(error):
            raise
        what = f"the checkpoint does not fit this run ({' '.join(str(error).split())[:300]})"
        raise InputError(what, where=run / FILE, todo=ANEW) from error


def under(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors whose names begin with `prefix.`, without this prefix."""
    return {
        name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")
    }


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """Return momentum and the like as `NUMBER.NAME` of the parameter; the iteration gives learning rates."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entry in state.items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore an optimiser from the tensors of `optimiser_tensors`.

    Raises
    ------
    ValueError
        If a tensor belongs to no parameter, or has another shape: torch would fail in the first step only.
    """
    whole = optimiser.state_dict()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    shapes = {str(number): parameter.shape for number, parameter in enumerate(parameters)}
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        if number not in shapes:
            raise ValueError(f"'{name}' belongs to no parameter")
        wanted = torch.Size() if key == "step" else shapes[number]
        if tensor.shape != wanted:
            raise ValueError(f"'{name}' has the shape {list(tensor.shape)}, wanted {list(wanted)}")
        entries.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({**whole, "state": entries})
