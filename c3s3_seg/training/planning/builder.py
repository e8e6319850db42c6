"""Build a training plan: choices with reasons, settings that replace them, and the resulting TOML file."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from c3s3_seg.system.names import printable
from c3s3_seg.system.overrides import nested, put
from c3s3_seg.system.schema import parse
from c3s3_seg.training.config import TrainConfig, build_config
from c3s3_seg.training.method_settings import METHOD_NAMES

BY_HAND = "as set"
TABLES = ("task", "data", "networks", "teacher", *METHOD_NAMES, "augment", "optimiser", "run")

# Placeholders for required keys, with which a person's settings can be checked before anything is chosen.
_LABELS, _RECIPE = [{"name": "label", "value": 1}], {"spacing_mm": [1, 1, 1]}
_TASK = {"name": "task", "modality": "MR", "patch": [16] * 3, "labels": _LABELS, "recipe": _RECIPE}
REQUIRED: dict[str, Any] = {
    "method": "supervised",
    "task": _TASK,
    "data": {"folder": "data"},
    "run": {"iterations": 1},
}


@dataclass(frozen=True)
class Choice:
    """One key of a configuration, its value, and the reason."""

    key: str
    value: Any
    reason: str


class ConfigBuilder:
    """Choices in the order in which they are made.

    Parameters
    ----------
    overrides
        `key=value` settings, which replace any choice.

    Raises
    ------
    ConfigError
        If a key does not exist, or its value is not allowed.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        data = copy.deepcopy(REQUIRED)
        for override in overrides:
            put(data, override)
        parse(TrainConfig, data, "--set")  # raises now, since choices depend on these values
        self._set = dict(_leaves(nested(overrides)))
        self._choices = {key: Choice(key, value, BY_HAND) for key, value in self._set.items()}

    def put(self, key: str, value: Any, reason: str) -> Any:
        """Choose a value, or choose again, and return the value in effect."""
        if key not in self._set:
            self._choices[key] = Choice(key, value, reason)
        return self._choices[key].value

    def remove(self, key: str) -> None:
        """Remove a choice, so that the default holds; settings stay."""
        if key not in self._set:
            self._choices.pop(key, None)

    def __getitem__(self, key: str) -> Any:
        return self._choices[key].value

    def __contains__(self, key: str) -> bool:
        return key in self._choices

    def is_set(self, key: str) -> bool:
        """Return whether a person set this key."""
        return key in self._set

    def choices(self) -> list[Choice]:
        """Return all choices, ordered by table."""
        order = {name: place for place, name in enumerate(TABLES)}
        return sorted(
            self._choices.values(), key=lambda c: (order.get(_table(c.key).split(".")[0], -1), _table(c.key))
        )

    def config(self, **more: Any) -> TrainConfig:
        """Return the configuration so far, with the `table__key` values added or replaced."""
        data: dict[str, Any] = {}
        chosen = {choice.key: choice.value for choice in self._choices.values()}
        for key, value in (chosen | {key.replace("__", "."): value for key, value in more.items()}).items():
            *parents, last = key.split(".")
            place = data
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return build_config(data, [], "the plan")


def toml(choices: Sequence[Choice], heading: str) -> str:
    """Return a configuration as TOML, with the reason as a comment above each value."""
    lines, table = [f"# {printable(line)}" for line in heading.splitlines()], ""
    for choice in choices:
        if _table(choice.key) != table:
            table = _table(choice.key)
            lines += ["", f"[{table}]"]
        lines += [
            f"# {printable(choice.reason)}",
            f"{choice.key.rpartition('.')[2]} = {_value(choice.value)}",
        ]
    return "\n".join(lines) + "\n"


def _table(key: str) -> str:
    return key.rpartition(".")[0]


def _leaves(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, str):
        # A TOML basic string is a JSON string, except for the character DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
