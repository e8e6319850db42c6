"""The history of a run: records of its validations, its precision, its warnings and its changed settings."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.precision import Precision
from c3s3_seg.training.validation import Validation

Record = dict[str, Any]
UNLEARNT = 0.3  # mean Dice below which a label counts as not learnt
LAG = 8  # iterations from a validation to the first crops that depend on it: loaders draw so far ahead


class History:
    """The records of a run, in the order in which they were noted.

    Parameters
    ----------
    records
        Records of a checkpoint; each has its `iteration`, and the fields of one kind in `KINDS`.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records: list[Record] = list(records)

    def note(self, iteration: int, **fields: Any) -> None:
        """Add a record."""
        self.records.append({"iteration": iteration, **fields})

    def note_once(self, iteration: int, what: str, value: Record, where: Path) -> None:
        """Add a record of what must not change during a run, unless it is there.

        Raises
        ------
        InputError
            If the history has another value of it.
        """
        known = self.first(what)
        if known is None:
            self.note(iteration, **{what: value})
        elif known != value:
            found = f"the run began with the {what} {known}, found {value}"
            raise InputError(found, where=where, todo="Restore what it began with, or start another run")

    def warn(self, iteration: int, text: str) -> None:
        """Add a warning, once."""
        if text not in self.warnings:
            self.note(iteration, warning=text)

    def kind(self, key: str) -> list[Record]:
        """Return the records that have a key, such as `dice` or `changed`."""
        return [record for record in self.records if key in record]

    def first(self, key: str) -> Any:
        """Return the value of the first record that has a key; None without one."""
        return next((record[key] for record in self.records if key in record), None)

    @property
    def warnings(self) -> list[str]:
        """The texts of the warnings."""
        return [record["warning"] for record in self.kind("warning")]

    def add_scores(self, result: Validation, iteration: int) -> bool:
        """Add a validation of one net, and return whether its mean Dice is the highest of this net so far."""
        before, record = self.best(result.candidate), scored(result, iteration)
        self.records.append(record)
        return isfinite(record["dice"]) and (before is None or record["dice"] > before["dice"])

    def best(self, candidate: str | None = None) -> Record | None:
        """Return the first validation record with the highest mean Dice, of one net or of all; else None."""
        records = [
            r for r in self.kind("dice") if candidate in (None, r["candidate"]) and isfinite(r["dice"])
        ]
        return max(records, key=lambda r: float(r["dice"]), default=None)

    def unlearnt(self, iteration: int) -> tuple[str, ...]:
        """Return the labels that no network had learnt at the last validation by then; () before one."""
        scores = [r for r in self.kind("dice") if 0 < r["iteration"] <= iteration]
        last = [r for r in scores if r["iteration"] == scores[-1]["iteration"]]
        weak = [set(r.get("unlearnt", ())) for r in last]
        return tuple(sorted(set.intersection(*weak))) if weak else ()

    def stalled(self, patience: int, warm_up: int) -> bool:
        """Return whether no net has improved in `patience` validations, of those after the warm-up."""
        dice: dict[int, dict[str, float]] = {}
        for record in self.kind("dice"):
            dice.setdefault(record["iteration"], {})[record["candidate"]] = record["dice"]
        counted = sum(iteration > warm_up for iteration in dice)
        return 0 < patience <= min(counted, since_gain([tuple(scores.values()) for scores in dice.values()]))

    def precision(self, config: TrainConfig) -> Precision | None:
        """Return the precision that a run began with; None if "auto" has not been decided yet."""
        if config.run.precision != "auto":
            return Precision(config.run.precision, "as the run began")
        found = next(iter(self.kind("precision")), None)
        return None if found is None else Precision(found["precision"], found["why"])


def scored(result: Validation, iteration: int) -> Record:
    """Return a validation's record with its unlearnt labels and empty masks (distance 0 in the protocol)."""
    empty, masks = empty_masks(result)
    weak = [name for name, dice in result.by_label.items() if dice < UNLEARNT]
    counted = {"empty": empty, "masks": masks} if empty else {}
    return result.record(iteration) | counted | ({"unlearnt": weak} if weak else {})


def empty_masks(result: Validation) -> tuple[int, int]:
    """Return the number of empty masks and the number of all masks, without those of an empty truth.

    In the paper's protocol only an empty mask has both an overlap of 0 and a distance of 0. The means contain
    both, unless no other mask gives a distance.
    """
    rows = [row for labels in result.per_case.values() for row in labels.values()]
    empty = sum(row["dice"] == 0 == row.get("hd95_vox", 1) for row in rows)
    return empty, len(rows) - result.both_empty


def since_gain(validations: list[tuple[float, ...]]) -> int:
    """Return how many validations (one Dice per net) ago some net was last better than ever before."""
    for back, now in enumerate(reversed(validations)):
        before = validations[: len(validations) - 1 - back]
        if not before or any(d > max(past) for d, past in zip(now, zip(*before, strict=True), strict=True)):
            return back
    return 0


def differences(old: Record, new: Record, prefix: str = "") -> dict[str, list[Any]]:
    """Return the values that differ: dotted key -> [old value, new value]."""
    found: dict[str, list[Any]] = {}
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = [a, b]
    return found
