"""The records of a run's history as a checkpoint holds them: what each kind must have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic.types import AllowInfNan

from c3s3_seg.errors import ConfigError
from c3s3_seg.system.schema import closed, parse

Number = Annotated[int, Ge(0)]
Distance = Annotated[float, AllowInfNan(True)]  # nan where every mask is empty


@closed
@dataclass(frozen=True)
class Scored:
    """A validation of one net."""

    iteration: Number
    candidate: str
    dice: float
    jaccard: float
    hd95_vox: Distance
    asd_vox: Distance
    infinite: Number = 0
    empty: Number = 0
    masks: Number = 0
    unlearnt: tuple[str, ...] = ()


@closed
@dataclass(frozen=True)
class Chosen:
    """What "auto" became."""

    iteration: Number
    precision: str
    why: str


@closed
@dataclass(frozen=True)
class Warned:
    """A warning."""

    iteration: Number
    warning: str


@closed
@dataclass(frozen=True)
class Origin:
    """A bundle whose networks a run began from."""

    bundle: str
    networks: tuple[str, ...]
    weights_sha256: dict[str, str]
    iterations: Number
    seconds: float


@closed
@dataclass(frozen=True)
class Initialized:
    """That it began from a bundle."""

    iteration: Number
    initialized_from: Origin


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
class Taught:
    """Who teaches."""

    iteration: Number
    teacher: TaughtByBundle | TaughtByMasks


@closed
@dataclass(frozen=True)
class Cases:
    """Which cases it has."""

    iteration: Number
    cases: dict[str, Any]


@closed
@dataclass(frozen=True)
class Changed:
    """What a resumed run does otherwise."""

    iteration: Number
    changed: dict[str, tuple[Any, Any]]


KINDS: dict[str, type] = {
    "dice": Scored,
    "precision": Chosen,
    "warning": Warned,
    "initialized_from": Initialized,
    "teacher": Taught,
    "cases": Cases,
    "changed": Changed,
}


def check_records(history: list[dict[str, Any]], where: Path) -> None:
    """Refuse a history that no run wrote.

    Raises
    ------
    ConfigError
        If a record is of no known kind, or lacks what is read of it.
    """
    for record in history:
        kind = next((kind for key, kind in KINDS.items() if key in record), None)
        if kind is None:
            raise ConfigError("history has a record of no known kind", where=where)
        parse(kind, record, where)
