"""The history of a run: records of its validations, its precision and its changed settings."""

from __future__ import annotations

from typing import Any

from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.precision import Precision
from c3s3_seg.training.validation import Validation

Records = list[dict[str, Any]]
UNLEARNT = 0.3  # mean Dice below which a label counts as not learnt
LAG = 8  # iterations from a validation to the first crops that depend on it: loaders draw so far ahead


def scored(result: Validation, iteration: int) -> dict[str, Any]:
    """Return a validation's record with its unlearnt labels and empty masks (distance 0 in the protocol)."""
    empty, masks = empty_masks(result)
    weak = [name for name, dice in result.by_label.items() if dice < UNLEARNT]
    counted = {"empty": empty, "masks": masks} if empty else {}
    return result.record(iteration) | counted | ({"unlearnt": weak} if weak else {})


def unlearnt(history: Records, iteration: int) -> tuple[str, ...]:
    """Return the labels that no network had learnt at the last validation by then; () before the first."""
    scores = [r for r in history if "dice" in r and 0 < r["iteration"] <= iteration]
    last = [r for r in scores if r["iteration"] == scores[-1]["iteration"]]
    weak = [set(r.get("unlearnt", ())) for r in last]
    return tuple(sorted(set.intersection(*weak))) if weak else ()


def empty_masks(result: Validation) -> tuple[int, int]:
    """Return the number of empty masks, for which no distance is measured, and the number of all masks.

    In the paper's protocol only an empty mask has both an overlap of 0 and a distance of 0.
    """
    rows = [row for labels in result.per_case.values() for row in labels.values()]
    return sum(row["dice"] == 0 == row.get("hd95_vox", 1) for row in rows), len(rows)


def best_record(history: Records, candidate: str) -> dict[str, Any] | None:
    """Return the first of a net's validation records with the highest mean Dice; None without records."""
    records = [r for r in history if r.get("candidate") == candidate]
    return max(records, key=lambda r: float(r["dice"]), default=None)


def since_gain(validations: list[tuple[float, ...]]) -> int:
    """Return how many validations (one Dice per net) ago some net was last better than ever before."""
    for back, now in enumerate(reversed(validations)):
        before = validations[: len(validations) - 1 - back]
        if not before or any(d > max(past) for d, past in zip(now, zip(*before, strict=True), strict=True)):
            return back
    return 0


def began_with(config: TrainConfig, history: Records) -> Precision | None:
    """Return the precision that a run began with; None if "auto" has not been decided yet."""
    if config.run.precision != "auto":
        return Precision(config.run.precision, "as the run began")
    found = next((record for record in history if "precision" in record), None)
    return None if found is None else Precision(found["precision"], found["why"])


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Return the values that differ: dotted key -> [old value, new value]."""
    found: dict[str, list[Any]] = {}
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = [a, b]
    return found
