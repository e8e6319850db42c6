"""Read a study: its entries, and a configuration for each of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import ConfigError, Told
from c3s3_seg.system.reading import parse_toml, read_regular
from c3s3_seg.system.schema import closed, parse
from c3s3_seg.training.config import TrainConfig, load_config

OWN_KEYS = {
    "run.seed": "List the seeds in `seeds`",
    "networks.ship": "Leave it out: the tables have a row for each network",
}


@closed
@dataclass(frozen=True)
class Entry:
    """One method of a study: a name for the table, and `key=value` overrides of the base."""

    name: str
    set: tuple[str, ...] = ()


@closed
@dataclass(frozen=True)
class Study:
    """The content of a study's TOML file.

    Parameters
    ----------
    base
        A configuration: a TOML file, or the name of a shipped one.
    seeds
        Seeds with each of which every entry is trained once.
    reference
        Names of the entries that the others are compared with; the file may have the name alone.
    entries
        The methods.
    set
        Overrides for all entries.
    start
        A bundle, or the name of a shipped one, whose networks every run begins from; "": random weights.
    """

    base: str
    seeds: Annotated[tuple[int, ...], MinLen(1)]
    reference: Annotated[tuple[str, ...], MinLen(1)]
    entries: Annotated[tuple[Entry, ...], MinLen(1)]
    set: tuple[str, ...] = ()
    start: str = ""


@dataclass(frozen=True)
class StudyPlan:
    """A run of a study; `start` is the bundle that the run begins from, None: random weights."""

    entry: str
    seed: int
    config: TrainConfig
    start: ModelBundle | None = None

    @property
    def name(self) -> str:
        """The name of the run's folder and record."""
        return f"{re.sub('[^a-z0-9]+', '-', self.entry.lower()).strip('-')}-{self.seed}"


def load_study(path: Path, overrides: Sequence[str] = ()) -> tuple[Study, list[StudyPlan]]:
    """Read a study and all its configurations: nothing is trained before all of them are valid.

    Returns
    -------
    The study, and its runs: all entries with the first seed, then all with the second, and so on, so
    that a study that was stopped half-way compares all methods.

    Raises
    ------
    InputError, ConfigError
        If the file or a configuration is not valid, the bundle to begin from does not exist, or two runs
        would share a name.
    """
    data = parse_toml(read_regular(path), path)
    if isinstance(data.get("reference"), str):
        data["reference"] = [data["reference"]]
    study = parse(Study, data, path)
    names = [entry.name for entry in study.entries]
    for reference in study.reference:
        if reference not in names:
            what = f"reference = {reference!r}: wanted one of {', '.join(names)}"
            raise ConfigError(what, where=path)
    _refuse_own_keys(study, overrides, path)
    plans = list(_plans(study, overrides))
    _refuse_shared_names(plans, path)
    return study, plans


def _refuse_own_keys(study: Study, overrides: Sequence[str], where: Path) -> None:
    """Raise an error for keys that a study sets itself: an override of them would have no effect."""
    every = [*study.set, *overrides, *(text for entry in study.entries for text in entry.set)]
    for key, todo in OWN_KEYS.items():
        if any(text.partition("=")[0].strip() == key for text in every):
            raise ConfigError(f"{key} has no effect in a study", where=where, todo=todo)


def _refuse_shared_names(plans: Sequence[StudyPlan], where: Path) -> None:
    """Raise an error if two runs would share a folder and a record."""
    first: dict[str, StudyPlan] = {}
    for plan in plans:
        other = first.setdefault(plan.name, plan)
        if other is plan:
            continue
        if (other.entry, other.seed) == (plan.entry, plan.seed):
            raise ConfigError("two entries have the same name, or a seed appears twice", where=where)
        what = f"the entries {other.entry!r} and {plan.entry!r} would share the record {plan.name}.json"
        todo = "Give names that differ in a letter a to z or a digit"
        raise ConfigError(what, where=where, todo=todo)


def _plans(study: Study, overrides: Sequence[str]) -> Iterator[StudyPlan]:
    start = ModelBundle.find(study.start) if study.start else None
    for seed in study.seeds:
        for entry in study.entries:
            changes = [*study.set, *entry.set, *overrides, f"run.seed={seed}", "networks.ship=[]"]
            try:
                config = load_config(Path(study.base), changes)
            except ConfigError as error:
                of = f"entry {entry.name!r}: "
                error.what = Told.of(of + error.what.named, of + error.what.public)
                raise
            yield StudyPlan(entry.name, seed, config, start)
