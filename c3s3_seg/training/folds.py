"""Which cases a run takes for what; in a cross-validation, which labelled ones a fold is validated on."""

from __future__ import annotations

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
    """The data set, and which of its cases this run takes for what.

    Raises
    ------
    InputError
        If no data set is given, or there is none, or no labelled case, or fewer of them than are wanted, or a
        patient is in training and validation.
    """
    if not config.folder:  # records of studies leave the folder out; a run would take the working folder
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
    if config.fold is None:  # a fold has looked at all cases, and divides them by patient
        refuse_leaks(data, splits)
    return data, splits


def take_fold(data: DataSet, splits: Splits, fold: str, seed: int) -> Splits:
    """Part i of k of the labelled cases for validation, the other parts to learn from.

    No person is on both sides: all scans of a patient are in one part, and what else there is of a
    validation patient without labels is left out. Who is one patient is what `dataset.patients` says. The
    validation cases of `splits` are left out too: they are seen by no fold, so that an ensemble of all
    folds can be validated on them.

    Parameters
    ----------
    data
        Says which patient a case is of; of a case without a record its name says it.
    splits
        Of the whole data set.
    fold
        "i/k".
    seed
        Of the division. The same seed divides the same cases alike.

    Raises
    ------
    InputError
        If there are fewer patients than folds, or the index has one of them on both sides.
    """
    refuse_leaks(data, splits)
    number, count = parse_share(fold, "data.fold")
    # Of all cases at once: what names have in common shows when they are compared.
    known = patients_of(data, (*splits.cases, *splits.test))
    parts = divide(data, splits.labelled, count, seed, known)
    held_out = set(parts[number - 1])
    patients = {known[case].patient for case in held_out}
    return replace(
        splits,
        labelled=tuple(case for case in splits.labelled if case not in held_out),
        unlabelled=tuple(case for case in splits.unlabelled if known[case].patient not in patients),
        validation=tuple(case for case in splits.labelled if case in held_out),
    )


def divide(
    data: DataSet, cases: tuple[str, ...], count: int, seed: int, known: Mapping[str, Guess] | None = None
) -> list[list[str]]:
    """Cases in `count` parts of nearly equal size, all of a patient in one part."""
    known = patients_of(data, cases) if known is None else known
    people: dict[str, list[str]] = {}
    for case in sorted(cases):
        people.setdefault(known[case].patient, []).append(case)
    if len(people) < count:
        what = f"{count} folds of {quantity(len(people), 'patient')} with labelled cases"
        raise InputError(what, where=data.folder / INDEX, todo="Take fewer folds")
    # A name's own spelling, not that of the guess: the folds of earlier runs stay what they were.
    order = sorted(people, key=lambda p: p if known[people[p][0]].rule == GIVEN else f"case {people[p][0]}")
    random.Random(seed).shuffle(order)
    parts: list[list[str]] = [[] for _ in range(count)]
    # Patients with many scans first, each to the part that is smallest so far.
    for name in sorted(order, key=lambda name: -len(people[name])):
        min(parts, key=len).extend(people[name])
    return parts
