"""Split the cases of a run into training and validation, also by the folds of a cross-validation."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from c3s3_seg.dataset import INDEX, DataSet, Splits
from c3s3_seg.dataset.check.index_checks import refuse_leaks
from c3s3_seg.dataset.patients import GIVEN, Guess, patients_of
from c3s3_seg.errors import ConfigError, InputError, quantity
from c3s3_seg.system.shard import parse_share
from c3s3_seg.training.settings import DataConfig


def read_splits(config: DataConfig) -> tuple[DataSet, Splits]:
    """Read the data set, and return it with this run's split into training and validation cases.

    Raises
    ------
    InputError
        If no data set is given or found, it has no labelled case or fewer than requested, or a patient is in
        training and validation.
    """
    if not config.folder:  # records of studies omit the folder; a run would use the working folder
        raise ConfigError("data.folder = '': wanted the folder of a data set")
    data = DataSet.load(Path(config.folder))
    splits = data.splits.hold_out(config.validation_from_unlabelled)
    if config.fully_supervised:
        splits = replace(splits, labelled=splits.labelled + splits.unlabelled, unlabelled=())
    if not splits.labelled:
        raise InputError("names no labelled case", where=data.folder / INDEX)
    if config.fold is not None:
        splits = take_fold(data, splits, config.fold, config.fold_seed)
    if config.labelled is not None:
        if config.labelled > len(splits.labelled):
            there = quantity(len(splits.labelled), "labelled case")
            what = f"data.labelled = {config.labelled}, but the data have {there}"
            raise InputError(what, where=data.folder / INDEX)
        splits = splits.label_only(config.labelled)
    if config.fold is None:  # `take_fold` has checked all cases, and divides them by patient
        refuse_leaks(data, splits)
    return data, splits


def take_fold(data: DataSet, splits: Splits, fold: str, seed: int) -> Splits:
    """Hold out part i of k of the labelled cases for validation; the other parts are for training.

    No patient is on both sides: all scans of a patient are in one part, and unlabelled cases of a
    validation patient are left out. `dataset.patients` decides which scans are of one patient. Labelled
    cases whose mask is an uncorrected prediction are in no part: they are for training, except those of a
    validation patient. The validation cases of `splits` are left out too: no fold sees them, so that an
    ensemble of all folds can be validated on them.

    Parameters
    ----------
    data
        Data set, whose records give the patient of a case; without a record, the case's name does.
    splits
        Splits of the whole data set.
    fold
        "i/k".
    seed
        Seed of the division. The same seed divides the same cases in the same way.

    Raises
    ------
    InputError
        If there are fewer patients than folds, or the index has a patient on both sides.
    """
    refuse_leaks(data, splits)
    number, count = parse_share(fold, "data.fold")
    # All cases at once: the common parts of names show only when the names are compared.
    known = patients_of(data, (*splits.cases, *splits.test))
    able = tuple(case for case in splits.labelled if case not in data.predicted)
    held_out = set(divide(data, able, count, seed, known)[number - 1])
    patients = {known[case].patient for case in held_out}
    return replace(
        splits,
        labelled=tuple(case for case in splits.labelled if known[case].patient not in patients),
        unlabelled=tuple(case for case in splits.unlabelled if known[case].patient not in patients),
        validation=tuple(case for case in able if case in held_out),
    )


def divide(
    data: DataSet, cases: tuple[str, ...], count: int, seed: int, known: Mapping[str, Guess] | None = None
) -> list[list[str]]:
    """Divide cases into `count` parts of nearly equal size, with all cases of a patient in one part."""
    known = patients_of(data, cases) if known is None else known
    people: dict[str, list[str]] = {}
    for case in sorted(cases):
        people.setdefault(known[case].patient, []).append(case)
    if len(people) < count:
        what = f"{count} folds of {quantity(len(people), 'patient')} with labelled cases"
        raise InputError(what, where=data.folder / INDEX, todo="Take fewer folds")
    # Sort by the case's name, not by a guessed patient's: the folds of earlier runs stay the same.
    order = sorted(people, key=lambda p: p if known[people[p][0]].rule == GIVEN else f"case {people[p][0]}")
    random.Random(seed).shuffle(order)
    parts: list[list[str]] = [[] for _ in range(count)]
    # Patients with many scans come first; each goes to the part that is smallest so far.
    for name in sorted(order, key=lambda name: -len(people[name])):
        min(parts, key=len).extend(people[name])
    return parts


def cases_sha256(splits: Splits) -> str:
    """Return the SHA-256 of the lists of training and validation cases, in their order."""
    lists = (splits.labelled, splits.unlabelled, splits.validation)
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()
