"""Messages of values that do not fit, in words of JSON and TOML instead of Python's."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Ge, MinLen

from c3s3_seg.errors import ConfigError
from c3s3_seg.system.schema import Rule, closed, parse


@closed
@dataclass(frozen=True)
class Inner:
    names: Annotated[tuple[str, ...], MinLen(1)] = ("a",)
    size: tuple[int, int, int] = (1, 2, 3)
    pairs: tuple[tuple[float, float], ...] = ()
    text: Annotated[str, MinLen(1)] = "a"
    by_name: dict[str, float] | None = None
    number: float = 1.0
    flag: bool = True
    count: Annotated[int, Ge(1)] = 1
    braces: Annotated[str, Rule(lambda text: text != "no", "a text like {0}")] = ""


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"names": 3}, "names = 3: wanted a list."),
        ({"names": []}, "names = []: wanted a list of 1 or more."),
        ({"size": [1, 2]}, "size = [1, 2]: wanted a list of 3 or more."),
        ({"size": [1, 2, 3, 4]}, "size = [1, 2, 3, 4]: wanted a list of 3 or fewer."),
        ({"pairs": [[1, 2], [1]]}, "pairs.1 = [1]: wanted a list of 2 or more."),
        ({"text": 3}, "text = 3: wanted text."),
        ({"text": ""}, "text = '': wanted 1 or more characters."),
        ({"by_name": 3}, "by_name = 3: wanted keys with values."),
        ({"number": "many"}, "number = 'many': wanted a number."),
        ({"flag": 1}, "flag = 1: wanted true or false."),
        ({"count": 1.5}, "count = 1.5: wanted a whole number."),
        ({"count": "1"}, "count = '1': wanted a whole number."),
        ({"braces": "no"}, "braces = 'no': wanted a text like {0}."),
    ],
)
def test_what_was_wanted_is_in_words_of_the_file(value: dict[str, Any], message: str) -> None:
    for cls, content, key in ((Inner, value, ""), (Outer, {"inner": value}, "inner.")):
        with pytest.raises(ConfigError) as refused:
            parse(cls, content, "a.toml")
        assert str(refused.value) == f"a.toml: {key}{message}"


def test_a_value_in_place_of_a_table() -> None:
    with pytest.raises(ConfigError, match="its content: wanted keys with values"):
        parse(Outer, 3, "a.toml")
    with pytest.raises(ConfigError, match="inner = 3: wanted keys with values"):
        parse(Outer, {"inner": 3}, "a.toml")
