"""Values of a configuration file: each key of `config_keys` with its type, checked as a whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.choices import BackendName, MaskFormat, Precision, ReportFile
from c3s3_seg.system.config_file import FoundConfig, read
from c3s3_seg.system.config_keys import ANY_SERVER, KEYS, SERVER_TABLE, UNCHECKED, keys_of
from c3s3_seg.system.hardware import check_device
from c3s3_seg.system.memory import parse_memory
from c3s3_seg.system.schema import Rule, closed, parse

SECRET = re.compile(
    r"token|passw|secret|api[_-]?key|credential|private[_-]?key|bearer|authori[sz]ation", re.IGNORECASE
)
PASSWORD = re.compile(r"://[^/\s]*@")  # in an address: a user, or a user and a password
SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ADDRESS = re.compile(r"[^@\s]{1,16}@\S+|https?://\S+")


def _accepted(check: Callable[[str], object]) -> Callable[[str], bool]:
    """Return a predicate: whether `check` accepts a text without InputError."""

    def holds(text: str) -> bool:
        try:
            check(text)
        except InputError:
            return False
        return True

    return holds


_TEXT = Annotated[str, Rule(lambda text: bool(text.strip()), "a text that is not empty")]
KINDS: dict[str, Any] = {
    "text": _TEXT,
    "path": _TEXT,
    "model": _TEXT,
    "flag": bool,
    "format": MaskFormat,
    "report": list[ReportFile],
    "backend": BackendName,
    "precision": Precision,
    "device": Annotated[str, Rule(_accepted(check_device), "'auto', 'cpu', 'cuda' or 'cuda:N'")],
    "size": Annotated[str, Rule(_accepted(parse_memory), "a size such as '8GB'")],
    "address": Annotated[
        str, Rule(lambda text: bool(ADDRESS.fullmatch(text)), "'TITLE@host:port' or 'https://host/path'")
    ],
    "count": Annotated[int, Rule(lambda number: number >= 1, "a whole number of at least 1")],
    "count or 0": Annotated[int, Rule(lambda number: number >= 0, "a whole number of at least 0")],
    "seconds": Annotated[float, Rule(lambda number: number >= 1, "seconds, at least 1")],
}


@dataclass(frozen=True)
class ConfigValues:
    """The checked values of a configuration file.

    Parameters
    ----------
    found
        The file.
    values
        Name of a key -> its value, without the tables of servers.
    servers
        Name of a server -> the last part of a key (`server`, `title`, ...) -> its value.
    """

    found: FoundConfig
    values: Mapping[str, Any] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, found: FoundConfig) -> ConfigValues:
        """Read a file and check all of it, whichever command is run, except the table `serve`.

        Raises
        ------
        InputError
            Same as in `config_file.read`.
        ConfigError
            If a key or value is not allowed, or is a secret; the message names file, key and wanted value.
        """
        data = {name: value for name, value in read(found).items() if name != UNCHECKED}
        try:
            _refuse_secrets(data, found.path)
        except RecursionError:  # a.a.a.a = 1 nests a table in each table
            raise ConfigError("is nested too deep", where=found.path) from None
        keys = parse(_schema(), data, found.path)
        folder = found.path.parent
        values = {**_values(keys, folder), **_values(keys.limits, folder, "limits.")}
        servers = {name: _values(table, folder) for name, table in keys.pacs.items()}
        for name, table in servers.items():
            _check_server(name, table, found.path)
        return cls(found, values, servers)

    def defaults_of(self, command: str | None, server: str | None = None) -> dict[str, Any]:
        """Return parameter of a command -> value in the file; for `fetch` and `send` of the named server."""
        of_server = self.servers.get(server, {}) if server is not None else {}
        found: dict[str, Any] = {}
        for key in keys_of(command):
            value = of_server.get(key.option) if key.of_a_server else self.values.get(key.name)
            if value is not None:
                found[key.option] = value
        return found


@cache
def _schema() -> Any:
    """Return a closed dataclass of all keys, with a nested one for each table."""

    def table(name: str, prefix: str, *more: Any) -> type:
        own = [(key.option, KINDS[key.kind] | None, None) for key in KEYS if key.table == prefix]
        return closed(make_dataclass(name, [*own, *more], frozen=True))

    limits = table("limits", "limits.")
    server = table("server", f"{SERVER_TABLE}.{ANY_SERVER}.")
    tables: tuple[Any, ...] = (
        ("limits", limits, field(default_factory=limits)),
        (SERVER_TABLE, dict[str, server], field(default_factory=dict)),  # type: ignore[valid-type]
    )
    return table("keys", "", *tables)


def _values(table: Any, folder: Path, prefix: str = "") -> dict[str, Any]:
    """Return name -> value of the keys that are set; paths count from the folder of the file."""
    kinds = {key.option: key.kind for key in KEYS}
    return {
        prefix + name: placed(kinds[name], value, folder)
        for name, value in vars(table).items()
        if value is not None and name in kinds
    }


def placed(kind: str, value: Any, folder: Path) -> Any:
    """Return a value of this kind; relative paths, and models that are folders, count from `folder`."""
    is_folder = kind == "model" and any(mark in value for mark in ("/", os.sep))
    if kind != "path" and not is_folder:
        return value
    found = str(folder / os.path.expanduser(value))
    if is_folder and found == os.path.basename(found):  # without a separator: a model's name
        return os.path.join(".", found)
    return found


def _refuse_secrets(value: Any, where: Path, name: str = "", prefix: str = "") -> None:
    """Refuse secrets before other checks, whose messages repeat a wrong value."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_secrets(item, where, key, f"{prefix}{name}." if name else prefix)
    elif isinstance(value, list):
        for item in value:
            _refuse_secrets(item, where, name, prefix)
    named = SECRET.search(name) and not isinstance(value, dict)
    if named or (isinstance(value, str) and PASSWORD.search(value)):
        raise ConfigError(
            f"the key '{prefix}{name}' holds a secret, which a configuration file may not",
            where=where,
            todo="Remove it, and give the secret in the environment of the command that needs it",
        )


def _check_server(name: str, table: Mapping[str, Any], where: Path) -> None:
    if not SERVER_NAME.fullmatch(name):
        what = f"[{SERVER_TABLE}.{name!r}]: wanted a name of letters, digits, '_' and '-'"
        raise ConfigError(what, where=where)
    if "server" not in table:
        raise ConfigError(f"the key '{SERVER_TABLE}.{name}.server' is missing", where=where)
