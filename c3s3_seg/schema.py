"""Dicts from the outside (JSON, TOML) -> frozen dataclasses, or an error that names the key."""

import math
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from c3s3_seg.errors import ConfigError

T = TypeVar("T")


def closed(cls: type[T]) -> type[T]:
    """Class decorator: a dataclass that refuses keys it does not know, when it is parsed."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return cls


def parse(cls: type[T], data: Any, where: str | Path) -> T:
    """Check `data` against the annotations of a dataclass and build it.

    Raises
    ------
    ConfigError
        Naming the file, the key, the value that was found and what was wanted.
    """
    from pydantic import ValidationError

    try:
        checked: T = _adapter(cls).validate_python(data)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _config_error(error.errors(include_url=False), cls, where) from None
    return checked


@cache
def _adapter(cls: Any) -> Any:
    """What pydantic makes of the annotations. It takes milliseconds, and a batch parses every case."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def dump(instance: Any) -> Any:
    """A dataclass -> what `json.dumps` takes."""
    return _adapter(type(instance)).dump_python(instance, mode="json")  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """JSON that every reader takes: infinity becomes "inf" or "-inf", nan null; tuples become lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _config_error(errors: list[Any], cls: type, where: str | Path) -> ConfigError:
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "unexpected_keyword_argument":
        names = ", ".join(_siblings(cls, first["loc"]))
        return ConfigError(f"there is no key '{key}'{more}", where=where, todo=f"Allowed here: {names}")
    if first["type"] in {"missing", "missing_argument"}:
        return ConfigError(f"the key '{key}' is missing{more}", where=where)
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return ConfigError(f"{key} = {first['input']!r}: wanted {wanted}{more}", where=where)


def _siblings(cls: Any, loc: tuple[Any, ...]) -> list[str]:
    """The field names of the dataclass in which the last part of `loc` was not found."""
    from dataclasses import fields, is_dataclass
    from typing import get_args, get_type_hints

    for part in loc[:-1]:
        hint = get_type_hints(cls).get(part) if is_dataclass(cls) else None
        cls = next((c for c in (hint, *get_args(hint)) if is_dataclass(c)), cls)
    return [f.name for f in fields(cls)] if is_dataclass(cls) else []
