"""Parse dicts from outside (JSON, TOML) into frozen dataclasses, or raise an error that names the key."""

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

# pydantic's kind of an error -> what was wanted, in words of JSON and TOML instead of Python's
WANTED = {
    "tuple_type": "a list",
    "list_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "keys with values",
    "dataclass_type": "keys with values",
    "string_type": "text",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_too_short": "{min_length} or more characters",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
}


def closed(cls: type[T]) -> type[T]:
    """Make a dataclass refuse unknown keys, NaN and infinity when it is parsed (class decorator).

    The class also accepts no text and no boolean as a number, and only true and false as a boolean.
    """
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return cls


class Rule:
    """A condition on a value besides its type: metadata of an `Annotated` type, checked when parsed.

    Parameters
    ----------
    holds
        Called to get whether a value of that type is allowed.
    wanted
        Description of the allowed values, to follow "wanted" in the message.
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
        If the data does not fit; the message names file, key, found value and wanted form.
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
    """Return pydantic's adapter of a type, cached: it takes milliseconds, and a batch parses every case."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


@cache
def _validator(cls: Any) -> Any:
    from pydantic_core import SchemaValidator

    return SchemaValidator(_exact(_adapter(cls).core_schema))


def _exact(schema: Any, strict: bool = False) -> Any:
    """Return a pydantic schema in which closed dataclasses do not convert: pydantic reads true as 1.

    1.0 stays valid as a whole number: JSON knows only one kind of number.
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
    """Return the schema of an integer or literal, which refuses booleans and, for an integer, text."""
    from pydantic_core import core_schema

    is_number = schema["type"] == "int"

    def check(value: Any) -> Any:
        if isinstance(value, bool) or (is_number and isinstance(value, str)):
            raise ValueError("a whole number" if is_number else " or ".join(map(repr, schema["expected"])))
        return value

    return core_schema.no_info_before_validator_function(check, schema)


def dump(instance: Any) -> Any:
    """Convert a dataclass, by its annotations, into values that `json.dumps` accepts.

    A field of another type than annotated is converted as it is, without a warning: `parse` names its key.
    """
    return _adapter(type(instance)).dump_python(instance, mode="json", warnings=False)  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """Return JSON that every reader accepts: infinity becomes "inf" or "-inf", nan null, tuples lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _config_error(errors: list[Any], cls: type, where: str | Path) -> ConfigError:
    first = _of_a_short_list(errors[0])
    key = _shortened(".".join(str(part) for part in first["loc"]))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "unexpected_keyword_argument":
        names = ", ".join(_siblings(cls, first["loc"]))
        return ConfigError(f"there is no key '{key}'{more}", where=where, todo=f"Allowed here: {names}")
    if first["type"] in {"missing", "missing_argument"}:
        return ConfigError(f"the key '{key}' is missing{more}", where=where)
    found = f"{key} = {_shortened(_repr(first['input']))}" if key else "its content"
    return ConfigError(f"{found}: wanted {_wanted(first)}{more}", where=where)


def _of_a_short_list(error: Any) -> Any:
    """Return the error of a list that is too short, for pydantic's error of its first missing item."""
    *of_list, item = error["loc"] or [""]
    if error["type"] != "missing" or not isinstance(item, int):
        return error
    return {**error, "type": "too_short", "loc": tuple(of_list), "ctx": {"min_length": item + 1}}


def _wanted(error: Any) -> str:
    known = WANTED.get(error["type"])
    if known is None:
        return str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return known.format_map(error.get("ctx", {}))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _repr(value: Any) -> str:
    """Return the repr of a found value, without parts too long for a message."""
    if isinstance(value, str | bytes):
        return repr(value[: LONGEST_VALUE + 1])
    try:
        return repr(value)
    except (RecursionError, ValueError):  # nested too deep; a whole number of more than 4,300 digits
        return f"a {type(value).__name__}"


def _siblings(cls: Any, loc: tuple[Any, ...]) -> list[str]:
    """Return the field names of the dataclass in which the last part of `loc` was not found."""
    from dataclasses import fields, is_dataclass
    from typing import get_args, get_type_hints

    for part in loc[:-1]:
        hint = get_type_hints(cls).get(part) if is_dataclass(cls) else None
        cls = next((c for c in (hint, *get_args(hint)) if is_dataclass(c)), cls)
    return [f.name for f in fields(cls)] if is_dataclass(cls) else []
