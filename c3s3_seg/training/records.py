"""The records of a run's history in a checkpoint: the fields that each kind must have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic.types import AllowInfNan

from c3s3_seg.errors import ConfigError
from c3s3_seg.system.schema import closed, parse

Number = Annotated[int, Ge(0)]
Distance = Annotated[float, AllowInfNan(True)]  # nan if every mask is empty
Cases = dict[str, dict[str, dict[str, Distance]]]  # case -> label -> metric -> value


@closed
@dataclass(frozen=True)
class ScoredRecord:
    """A validation of one net."""

    iteration: Number
    candidate: str
    dice: Distance  # nan if all masks are empty and so are the truths
    jaccard: Distance
    hd95_vox: Distance
    asd_vox: Distance
    infinite: Number = 0
    empty: Number = 0
    masks: Number = 0
    both_empty: Number = 0
    unlearnt: tuple[str, ...] = ()


@closed
@dataclass(frozen=True)
class ChosenRecord:
    """The precision chosen for "auto"."""

    iteration: Number
    precision: str
    why: str


@closed
@dataclass(frozen=True)
class WarnedRecord:
    """A warning."""

    iteration: Number
    warning: str


@closed
@dataclass(frozen=True)
class OriginRecord:
    """A bundle whose networks a run began from."""

    bundle: str
    networks: tuple[str, ...]
    weights_sha256: dict[str, str]
    iterations: Number
    seconds: float


@closed
@dataclass(frozen=True)
class InitializedRecord:
    """The start of a run from a bundle."""

    iteration: Number
    initialized_from: OriginRecord


@closed
@dataclass(frozen=True)
class TaughtByBundle:
    """A teacher that is a bundle."""

    bundle: str
    networks: Number
    weights_sha256: tuple[str, ...]


@closed
@dataclass(frozen=True)
class TaughtByMasks:
    """A teacher that is a folder of masks."""

    masks: str
    cases: Number
    sha256: str


@closed
@dataclass(frozen=True)
class TaughtRecord:
    """The teacher of a run."""

    iteration: Number
    teacher: TaughtByBundle | TaughtByMasks


@closed
@dataclass(frozen=True)
class CasesRecord:
    """The cases of a run: numbers and hash."""

    iteration: Number
    cases: dict[str, Any]


@closed
@dataclass(frozen=True)
class InheritedRecord:
    """The hashes of the names of the cases that the bundles of a run were trained on."""

    iteration: Number
    inherited: tuple[str, ...]


@closed
@dataclass(frozen=True)
class ChangedRecord:
    """The settings that a resumed run changed."""

    iteration: Number
    changed: dict[str, tuple[Any, Any]]


KINDS: dict[str, type] = {
    "dice": ScoredRecord,
    "precision": ChosenRecord,
    "warning": WarnedRecord,
    "initialized_from": InitializedRecord,
    "teacher": TaughtRecord,
    "cases": CasesRecord,
    "inherited": InheritedRecord,
    "changed": ChangedRecord,
}


def check_records(history: list[dict[str, Any]], where: Path) -> None:
    """Raise an error if a history was not written by a run.

    Raises
    ------
    ConfigError
        If a record is of no known kind, or its fields are not those of the kind.
    """
    for record in history:
        kind = next((kind for key, kind in KINDS.items() if key in record), None)
        if kind is None:
            raise ConfigError("history has a record of no known kind", where=where)
        parse(kind, record, where)
