"""Overrides from the command line: `--set key.key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from c3s3_seg.errors import ConfigError


def put(data: dict[str, Any], override: str, example: str = "run.iterations=100") -> None:
    """Write one `key.key=value` into the tables of a TOML file. The value is TOML; a bare word is a string.

    Parameters
    ----------
    data
        The tables.
    override
        The text.
    example
        A right text for the same option, for the message.

    Raises
    ------
    ConfigError
        If the text is not of that form, is nested too deep, or takes a value for a table.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"found --set {override!r}, wanted key=value", todo=f"For example: --set {example}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # no TOML, or a whole number of more than 4,300 digits
        value = text
    except RecursionError:
        raise ConfigError(f"--set {key}: the value is nested too deep") from None
    *parents, last = key.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {key}: '{parent}' is a value, not a table")
    data[last] = value


def nested(overrides: Sequence[str], example: str = "run.iterations=100") -> dict[str, Any]:
    """Return `key.key=value` texts as nested tables; `example` as in `put`.

    Raises
    ------
    ConfigError
        Same as in `put`.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        put(data, override, example)
    return data
