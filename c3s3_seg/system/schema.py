"""Dicts from the outside (JSON, TOML) -> frozen dataclasses, or an error that names the key."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from c3s3_seg.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

T = TypeVar("T")

LONGEST_VALUE = 120  # characters of a value that a message repeats


def closed(cls: type[T]) -> type[T]:
    """Class decorator: a dataclass that, when it is parsed, refuses unknown keys, NaN and infinity.

    It also takes no text and no truth value for a number, and nothing but true and false for a truth value.
    """
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return cls


class Rule:
    """What a value must be beside its type: metadata of an `Annotated` type, checked when it is parsed.

    Parameters
    ----------
    holds
        Whether a value of that type is allowed.
    wanted
        What is allowed, to follow "wanted" in the message.
    """

    def __init__(self, holds: Callable[[Any], bool], wanted: str) -> None:
        self._holds, self._wanted = holds, wanted

    def _check(self, value: Any) -> Any:
        if not self._holds(value):
            raise ValueError(self._wanted)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._check, handler(source))


def parse(cls: type[T], data: Any, where: str | Path) -> T:
    """Check `data` against the annotations of a dataclass and build it.

    Raises
    ------
    ConfigError
        Naming the file, the key, the value that was found and what was wanted.
    """
    from pydantic import ValidationError

    try:
        checked: T = _validator(cls).validate_python(data)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _config_error(error.errors(include_url=False), cls, where) from None
    except RecursionError:
        raise ConfigError("is nested too deep", where=where) from None
    except UnicodeError:  # half of a surrogate pair, which JSON can write
        raise ConfigError("holds a text that is not Unicode", where=where) from None
    return checked


@cache
def _adapter(cls: Any) -> Any:
    """What pydantic makes of the annotations. It takes milliseconds, and a batch parses every case."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


@cache
def _validator(cls: Any) -> Any:
    from pydantic_core import SchemaValidator

    return SchemaValidator(_exact(_adapter(cls).core_schema))


def _exact(schema: Any, strict: bool = False) -> Any:
    """A schema of pydantic in which closed dataclasses do not convert: by itself it reads true as 1.

    1.0 stays good for a whole number: JSON knows one kind of number only.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(_exact(part, strict) for part in schema)
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind == "dataclass":
        strict = schema.get("config", {}).get("extra_fields_behavior") == "forbid"
    if strict and kind in ("float", "bool"):
        return {**schema, "strict": True}
    if strict and kind in ("int", "literal"):
        return _before(schema)
    kept = ("default", "serialization", "metadata", "expected")
    return {key: part if key in kept else _exact(part, strict) for key, part in schema.items()}


def _before(schema: Any) -> Any:
    """A whole number, or one of some values, that is neither a truth value nor, for a number, a text."""
    from pydantic_core import core_schema

    is_number = schema["type"] == "int"

    def check(value: Any) -> Any:
        if isinstance(value, bool) or (is_number and isinstance(value, str)):
            raise ValueError("a whole number" if is_number else " or ".join(map(repr, schema["expected"])))
        return value

    return core_schema.no_info_before_validator_function(check, schema)


def dump(instance: Any) -> Any:
    """A dataclass -> what `json.dumps` takes, as its annotations say."""
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
    key = _shortened(".".join(str(part) for part in first["loc"]))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "unexpected_keyword_argument":
        names = ", ".join(_siblings(cls, first["loc"]))
        return ConfigError(f"there is no key '{key}'{more}", where=where, todo=f"Allowed here: {names}")
    if first["type"] in {"missing", "missing_argument"}:
        return ConfigError(f"the key '{key}' is missing{more}", where=where)
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    found = f"{key} = {_shortened(_repr(first['input']))}" if key else "its content"
    return ConfigError(f"{found}: wanted {wanted}{more}", where=where)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _repr(value: Any) -> str:
    """Of what was found, without a part of it that a message would not show."""
    if isinstance(value, str | bytes):
        return repr(value[: LONGEST_VALUE + 1])
    try:
        return repr(value)
    except (RecursionError, ValueError):  # nested too deep; a whole number of more than 4,300 digits
        return f"a {type(value).__name__}"


def _siblings(cls: Any, loc: tuple[Any, ...]) -> list[str]:
    """The field names of the dataclass in which the last part of `loc` was not found."""
    from dataclasses import fields, is_dataclass
    from typing import get_args, get_type_hints

    for part in loc[:-1]:
        hint = get_type_hints(cls).get(part) if is_dataclass(cls) else None
        cls = next((c for c in (hint, *get_args(hint)) if is_dataclass(c)), cls)
    return [f.name for f in fields(cls)] if is_dataclass(cls) else []
