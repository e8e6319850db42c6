"""Read the keys of an index as other tools write them too: labels and modality in two forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.names import PlainName, folded
from c3s3_seg.system.reading import read_json
from c3s3_seg.system.schema import parse

Texts = dict[str, dict[str, str]]
_Value = Annotated[int, Ge(0), Le(65535)]  # 16 bits, in a mask file


def read_index(path: Path) -> dict[str, Any]:
    """Return the keys of an index.

    Raises
    ------
    InputError
        If there is no index, or it is not a JSON object.
    """
    try:
        data = read_json(path)
    except InputError as error:
        todo = "Give a data set; c3s3-seg prepare makes one of a folder of scans"
        raise InputError(error.what, where=path, todo=todo) from error
    if not isinstance(data, dict):
        raise InputError("holds no table of keys", where=path)
    return data


def channel(data: Mapping[str, Any], key: str, path: Path) -> str:
    """Return the value of `"modality": "MR"`, or the first of `"modality": {"0": "MRI"}`; empty without key.

    Raises
    ------
    ConfigError
        If the value has neither form.
    """
    found = data.get(key, "")
    if isinstance(found, dict):
        return next(iter(parse(Texts, {key: found}, path)[key].values()), "")
    return parse(dict[str, str], {key: found}, path)[key]


def parse_labels(found: Any, path: Path) -> dict[str, int]:
    """Parse `{"background": 0, "atrium": 1}`, or the Decathlon's `{"0": "background", "1": "atrium"}`.

    Raises
    ------
    ConfigError
        If the labels have neither form, a mask cannot hold a value, two labels share a value or a name, or
        a name is not valid for a file.
    InputError
        If a label is a region of several values, as in nnU-Net.
    """
    if isinstance(found, dict):
        _refuse_regions(found, path)
        found = {
            key: str(value).lower() if isinstance(value, bool) else value for key, value in found.items()
        }
    if isinstance(found, dict) and found and all(map(_is_number, found)):
        by_value = parse(Texts, {"labels": found}, path)["labels"]
        parse(dict[str, dict[int, _Value]], {"labels": {value: int(value) for value in by_value}}, path)
        pairs = [(name, int(value)) for value, name in by_value.items()]
    else:
        pairs = list(parse(dict[str, dict[str, _Value]], {"labels": found}, path)["labels"].items())
    names = [folded(name) for name, _ in pairs]
    for what, seen in (("name", names), ("value", [value for _, value in pairs])):
        twice = [item for item, count in Counter(seen).items() if count > 1]
        if twice:
            raise ConfigError(f"two labels have the {what} {twice[0]!r}; wanted one of each", where=path)
    labels = {name: value for name, value in pairs if value != 0}
    parse(dict[str, dict[PlainName, int]], {"labels": labels}, path)
    return labels


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= 5


def _refuse_regions(found: dict[str, Any], path: Path) -> None:
    regions = [f"'{name}' = {value}" for name, value in found.items() if isinstance(value, list)]
    if regions:
        what = f"its labels are regions of several values ({regions[0]}), which are not supported"
        todo = (
            "Name each value that the masks hold, with --labels NAME=VALUE,... or in place of the regions,"
            " and join labels after the prediction"
        )
        raise InputError(what, where=path, todo=todo)
