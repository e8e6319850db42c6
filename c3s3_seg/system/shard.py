"""One share of many cases, or of a study's runs, for one of several machines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from c3s3_seg.errors import ConfigError, InputError

T = TypeVar("T")
TODO = (
    "Give --shard 1/4 to --shard 4/4, or --shard auto inside a SLURM array, or --shard auto/4 in Kubernetes"
)


@dataclass(frozen=True)
class Shard:
    """The share number `index` (from 1) of `count` shares."""

    index: int
    count: int

    def of(self, items: Sequence[T]) -> list[T]:
        """Return each `count`-th item from number `index` on: together the shards have all items once."""
        return list(items[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def parse_share(text: str, what: str) -> tuple[int, int]:
    """Parse `i/n` -> (i, n), with i from 1 to n.

    Raises
    ------
    ConfigError
        If the text is not of that form; the message names `what`.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    index, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f"found {what} {text!r}, wanted I/N with I from 1 to N", todo="For example 1/2")
    return index, count


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Parse `2/8`, or `auto` or `auto/8` with the index that a scheduler gave.

    Parameters
    ----------
    text
        INDEX/COUNT with an index from 1. `auto`: SLURM_ARRAY_TASK_ID, _MIN, _STEP and _COUNT. `auto/COUNT`:
        the same for an array of COUNT tasks, or JOB_COMPLETION_INDEX, which Kubernetes counts from 0, without
        giving the count.
    environment
        `os.environ`.

    Raises
    ------
    InputError
        If the text has neither form, the index is out of range, or the scheduler's variables are missing or
        do not tell the index, as for a few tasks of an array that were submitted again.
    """
    head, _, tail = text.partition("/")
    if head == "auto":
        return _scheduled(tail, environment)
    try:
        return Shard(*parse_share(text, "the shard"))
    except ConfigError as error:
        raise InputError(error.what, todo=TODO) from None


def _scheduled(count: str, environment: Mapping[str, str]) -> Shard:
    try:
        if "SLURM_ARRAY_TASK_ID" in environment:
            step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0" if count else "missing"))
            index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step + 1
            tasks = int(environment.get("SLURM_ARRAY_TASK_COUNT", count or "missing"))
            if count and first > 0 and tasks != int(count):
                what = f"found --shard auto/{count} in an array of {tasks} whose first number is {first}"
                todo = f"Give the share itself, such as --shard $SLURM_ARRAY_TASK_ID/{count}"
                raise InputError(f"{what}, which does not tell the share of a task", todo=todo)
            return _checked(index, int(count or environment["SLURM_ARRAY_TASK_COUNT"]))
        return _checked(int(environment["JOB_COMPLETION_INDEX"]) + 1, int(count))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        what = "found no usable SLURM_ARRAY_TASK_ID, _MIN and _COUNT, nor a JOB_COMPLETION_INDEX with a count"
        raise InputError(what, todo=TODO) from error


def _checked(index: int, count: int) -> Shard:
    if not 1 <= index <= count:
        raise InputError(
            f"found the shard 'auto' = {index}/{count}, wanted an index of 1 to {count}", todo=TODO
        )
    return Shard(index, count)
