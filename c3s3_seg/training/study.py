"""Train, score and record several methods and seeds under one recipe, in an order that can resume."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.report.study_table import METRICS, Conditions, Trained, mixture
from c3s3_seg.system.files import make_folder, make_own_folder, write_whole
from c3s3_seg.system.progress import Progress
from c3s3_seg.system.reading import read_json, read_regular
from c3s3_seg.system.schema import closed, dump, parse, plain
from c3s3_seg.training import checkpoint
from c3s3_seg.training.conditions import current_conditions, note_conditions, read_conditions
from c3s3_seg.training.config import TrainConfig, load_config
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.history import History
from c3s3_seg.training.loggers import open_logger
from c3s3_seg.training.method_settings import without_unread
from c3s3_seg.training.run import DivergedError
from c3s3_seg.training.train import train


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
    try:
        data = tomllib.loads(read_regular(path).decode())
    except ValueError as error:  # no TOML, no UTF-8, or a whole number of more than 4,300 digits
        raise InputError(f"not valid TOML: {error}", where=path) from error
    except RecursionError:
        raise InputError("not valid TOML: it is nested too deep", where=path) from None
    if isinstance(data.get("reference"), str):
        data["reference"] = [data["reference"]]
    study = parse(Study, data, path)
    names = [entry.name for entry in study.entries]
    for reference in study.reference:
        if reference not in names:
            what = f"reference = {reference!r}: wanted one of {', '.join(names)}"
            raise ConfigError(what, where=path)
    plans = list(_plans(study, overrides))
    _refuse_shared_names(plans, path)
    return study, plans


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
            yield StudyPlan(entry.name, seed, load_config(Path(study.base), changes), start)


def run_study(plans: list[StudyPlan], out: Path, report: Progress) -> list[str]:
    """Train the runs without a record; a run that diverges gets none, and the others continue.

    Parameters
    ----------
    plans
        The runs, or a share of them.
    out
        Folder of `records/NAME.json`, which are small and sufficient to resume, and of `runs/NAME`.
    report
        Called with a line before each run, and when a run diverges.

    Returns
    -------
    The names of the runs that diverged.

    Raises
    ------
    InputError
        If a record was made with other settings, the data has no validation cases, or a run that was stopped
        began from a bundle that the study no longer names.
    """
    waiting = [plan for plan in plans if not _record(plan, out).exists()]
    _check_validation(waiting)
    _check_starts(waiting, out)
    make_folder(out)
    make_own_folder(out / "records")
    make_own_folder(out / "runs")
    diverged = []
    for number, plan in enumerate(plans, start=1):
        record = _record(plan, out)
        if not record.exists():
            report(f"{plan.name} ({number} of {len(plans)})")
            try:
                found = _train(plan, _folder(plan, out))
            except DivergedError as error:
                report(f"{plan.name}: {error.what}")
                # It would resume just before it diverged, and refuse a lower learning rate.
                checkpoint.set_aside(_folder(plan, out))
                diverged.append(plan.name)
                continue
            write_whole(record, json.dumps(plain(found), indent=1).encode())
        read_record(record, plan)
    return diverged


def _record(plan: StudyPlan, out: Path) -> Path:
    return out / "records" / f"{plan.name}.json"


def _folder(plan: StudyPlan, out: Path) -> Path:
    return out / "runs" / plan.name


def _check_validation(plans: Sequence[StudyPlan]) -> None:
    """Check, before hours of training, that every data set of the entries has validation cases."""
    for data in {plan.config.data: None for plan in plans}:
        if not read_splits(data)[1].validation:
            raise InputError("a study needs validation cases, and there are none", where=data.folder)


def _check_starts(plans: Sequence[StudyPlan], out: Path) -> None:
    """Check that no run that began from a bundle would be resumed and recorded as one of random weights."""
    for folder in (_folder(plan, out) for plan in plans if plan.start is None):
        if not (folder / checkpoint.FILE).exists():
            continue
        began = History(checkpoint.read(folder).history).first("initialized_from")
        if began is not None:
            what = f"the run began from '{began['bundle']}', and the study names no `start`"
            todo = "Restore `start` in the study, or remove this folder to train again"
            raise InputError(what, where=folder, todo=todo)


def finished(plans: list[StudyPlan], out: Path) -> list[Trained]:
    """Read the records of the finished runs."""
    records = [(_record(plan, out), plan) for plan in plans]
    return [read_record(path, plan) for path, plan in records if path.exists()]


def _conditions(plan: StudyPlan) -> Conditions:
    return current_conditions(plan.config.run.device, plan.start)


def check_conditions(plans: list[StudyPlan], out: Path) -> None:
    """Raise an error, before hours of training, if new runs would be added to records of other conditions.

    Raises
    ------
    InputError
        If machine, code or start differ from the records or from those of a run that would be resumed, or
        differ among the records already.
    """
    done = finished(plans, out)
    here = [
        Trained(plan.entry, plan.seed, 0, 0.0, {}, _conditions(plan), read_conditions(_folder(plan, out)))
        for plan in plans
        if not _record(plan, out).exists()
    ]
    known = [
        replace(
            run,
            conditions=replace(run.conditions, precision=""),
            earlier=tuple(replace(earlier, precision="") for earlier in run.earlier),
        )
        for run in done
    ]
    refuse_mixture(done, out)
    refuse_mixture([*known, *here], out)


def refuse_mixture(runs: Sequence[Trained], out: Path) -> None:
    """Raise an error for runs of several machines, precisions, versions of the code or starts.

    Raises
    ------
    InputError
        If the runs have several of these conditions.
    """
    lines = mixture(runs)
    if lines:
        raise InputError(
            f"the runs would not be compared under the same conditions. {'; '.join(lines)}",
            where=out / "records",
            todo="Give another folder with -o, or --allow-mixed: then the tables say so",
        )


def _train(plan: StudyPlan, folder: Path) -> dict[str, Any]:
    resume, here = (folder / checkpoint.FILE).exists(), _conditions(plan)
    earlier = note_conditions(folder, here)
    with open_logger(folder) as logger:
        bundle = train(plan.config, folder, logger, resume=resume, start=plan.start)
    training_record = bundle.manifest.training
    conditions = [replace(each, precision=training_record["precision"]) for each in (*earlier, here)]
    return {
        "entry": plan.entry,
        "seed": plan.seed,
        "iterations": training_record["iterations"],
        "seconds": training_record["seconds"],
        "conditions": dump(conditions[-1]),
        "earlier": [dump(each) for each in conditions[:-1]],
        "nets": training_record["validation_cases"],
        "config": _settings(plan.config),
    }


def _numbers(found: Any) -> Any:
    """Turn scores into numbers again: JSON has an infinite distance as "inf" and nan as null."""
    if isinstance(found, dict):
        return {key: _numbers(value) for key, value in found.items()}
    return float("nan" if found is None else found)


def read_record(path: Path, plan: StudyPlan) -> Trained:
    """Read a finished run, with the current name of its entry: file names equate `C3S3` and `c3s3`.

    Raises
    ------
    InputError
        If the record cannot be read, lacks a score, or was made with other settings.
    """
    try:
        data = read_json(path)
        found = {k: data[k] for k in ("entry", "seed", "iterations", "seconds")}
        found["nets"] = _numbers(data["nets"])
        found |= {"conditions": data.get("conditions", {}), "earlier": data.get("earlier", [])}
        trained, settings = parse(Trained, found, path), _with_defaults(data["config"])
        _check_scores(trained)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not a record of a study ({error})", where=path) from error
    except InputError as error:
        raise InputError(f"not a record of a study ({error.what})", where=path) from error
    if trained.seed != plan.seed or settings != _settings(plan.config):
        todo = "Give another folder with -o, or remove this record to train again"
        raise InputError("this record was made with other settings", where=path, todo=todo)
    return replace(trained, entry=plan.entry)


def _check_scores(trained: Trained) -> None:
    """Raise an error if a record lacks a score that a table shows."""
    scores = [
        (f"nets.{net}.{case}.{label}", metrics)
        for net, cases in trained.nets.items()
        for case, labels in cases.items()
        for label, metrics in labels.items()
    ]
    if not scores:
        raise InputError("nets has no scores")
    for where, metrics in scores:
        if missing := set(METRICS) - metrics.keys():
            raise InputError(f"{where} lacks {', '.join(sorted(missing))}")


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a record's settings in the form of today's configuration: newer keys get their defaults."""
    folder = {**settings["data"], "folder": ""}
    known = without_unread(settings)  # other methods may have lost a key
    return _settings(parse(TrainConfig, {**known, "data": folder}, "record"))


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide the result: without data folder, label codes, threads and the like.

    Other methods' sections are left out, so that new defaults of one method keep the records of the others.
    """
    settings = without_unread(dump(config))
    settings["data"].pop("folder")
    settings["data"].pop("note")
    for label in settings["task"]["labels"]:
        label.pop("code", None)
    for key in ("threads", "activation_checkpointing", "checkpoint_every"):
        settings["run"].pop(key)
    return settings
