"""Write and read the record of a finished run of a study: its scores, its settings, its conditions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, listed
from c3s3_seg.report.study_table import METRICS, Conditions, Trained
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.reading import read_json
from c3s3_seg.system.schema import dump, parse, plain
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.history import differences
from c3s3_seg.training.method_settings import without_unread
from c3s3_seg.training.studies.plan import StudyPlan

TODO = "Give another folder with -o, or remove this record to train again"


def write_record(
    path: Path, plan: StudyPlan, training: dict[str, Any], conditions: Sequence[Conditions]
) -> None:
    """Write the record of a finished run.

    Parameters
    ----------
    path
        JSON file to write or replace.
    plan
        The run.
    training
        The record of the training in the manifest of the run's bundle.
    conditions
        Conditions under which the run was trained, without the precision; the last ones are those at its end.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    known = [dump(replace(each, precision=training["precision"])) for each in conditions]
    found = {
        "entry": plan.entry,
        "seed": plan.seed,
        "iterations": training["iterations"],
        "seconds": training["seconds"],
        "conditions": known[-1],
        "earlier": known[:-1],
        "cases": training.get("cases_sha256", ""),
        "nets": training["validation_cases"],
        "config": _settings(plan.config),
    }
    write_whole(path, json.dumps(plain(found), indent=1).encode())


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
        found["cases"] = data.get("cases", "")
        trained, changed = parse(Trained, found, path), changes(data["config"], plan)
        _check_scores(trained)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not a record of a study ({error})", where=path) from error
    except InputError as error:
        raise InputError(f"not a record of a study ({error.what})", where=path) from error
    if trained.seed != plan.seed or changed:
        raise InputError(f"this record was made with {_others(trained, changed)}", where=path, todo=TODO)
    return replace(trained, entry=plan.entry)


def _others(trained: Trained, changed: dict[str, list[Any]]) -> str:
    shown = [f"{key}: {then!r}, now {now!r}" for key, (then, now) in changed.items()]
    return f"other settings ({listed(shown)})" if shown else f"another seed, {trained.seed}"


def changes(settings: dict[str, Any], plan: StudyPlan) -> dict[str, list[Any]]:
    """Return the settings that decide the result and differ in a plan: dotted key -> [then, now].

    Parameters
    ----------
    settings
        Configuration of a record or a checkpoint; newer keys get their defaults.
    plan
        The run.
    """
    return differences(_with_defaults(settings), _settings(plan.config))


def _numbers(found: Any) -> Any:
    """Turn scores into numbers again: JSON has an infinite distance as "inf" and nan as null."""
    if isinstance(found, dict):
        return {key: _numbers(value) for key, value in found.items()}
    return float("nan" if found is None else found)


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
