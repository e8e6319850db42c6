"""The keys of `c3s3-seg.toml`: each is defined once, with its type, its commands and its variable.

Every command with a key imports this module, so it holds plain data; `config_values` checks files by it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

PREFIX = "C3S3_SEG_"
ANY_SERVER = "NAME"  # in the name of a key: stands for the user's name of a server
SERVER_TABLE = "pacs"
UNCHECKED = "serve"  # the table of the command `serve`, which checks it


class ConfigKey(NamedTuple):
    """One key that a file may have.

    Parameters
    ----------
    name
        Full name: `workers`, `limits.max_time`, `pacs.NAME.title`.
    kind
        Name of the key's type, see `config_values.KINDS`.
    commands
        Commands with an option or argument named by the last part of `name`, whose default the key sets.
    example
        Example of a value.
    about
        Description of the key's effect.
    """

    name: str
    kind: str
    commands: tuple[str, ...]
    example: Any
    about: str

    @property
    def table(self) -> str:
        """The table of the key: `limits.` of `limits.max_time`; empty without a table."""
        return self.name[: -len(self.option)]

    @property
    def option(self) -> str:
        """The name of the parameter in its commands."""
        return self.name.rpartition(".")[2]

    @property
    def variable(self) -> str | None:
        """The environment variable of the same meaning; None for a key that sets no option."""
        if not self.commands:
            return None
        return PREFIX + self.name.replace(f"{ANY_SERVER}.", "").replace(".", "_").upper()

    @property
    def of_a_server(self) -> bool:
        """Whether the key belongs to a table `[pacs.NAME]`."""
        return self.table == f"{SERVER_TABLE}.{ANY_SERVER}."


_PREDICT, _FETCH, _BOTH = ("predict",), ("fetch",), ("fetch", "send")
_SERVER = f"{SERVER_TABLE}.{ANY_SERVER}."
KEYS = (
    ConfigKey(
        "model",
        "model",
        ("predict", "benchmark"),
        "left-atrium",
        "Model: a name, or a folder written with a separator, as ./mine",
    ),
    ConfigKey("format", "format", _PREDICT, "nii.gz", "File format of the masks"),
    ConfigKey("report", "report", _PREDICT, ["png", "html"], "More files for each case"),
    ConfigKey("uncertainty", "flag", _PREDICT, True, "Compare the networks of the model"),
    ConfigKey("backend", "backend", _PREDICT, "auto", "Runtime of the network"),
    ConfigKey("device", "device", _PREDICT, "auto", "Where the network runs"),
    ConfigKey("precision", "precision", _PREDICT, "auto", "Precision of the network"),
    ConfigKey("threads", "count", _PREDICT, 2, "CPU threads of each worker"),
    ConfigKey("max_memory", "size", _PREDICT, "8GB", "Memory of all workers together"),
    ConfigKey("workers", "count or 0", _PREDICT, 2, "Processes with a model each; 0: only this process"),
    ConfigKey("case_timeout", "seconds", _PREDICT, 600, "Seconds that a case may take"),
    ConfigKey("log_file", "path", _PREDICT, "c3s3-seg.log", "Log file of a batch"),
    ConfigKey("limits.max_time", "seconds", _FETCH, 7200, "Seconds that the fetching of a study may take"),
    ConfigKey("limits.max_files", "count", _FETCH, 100_000, "Files that a fetched study may have"),
    ConfigKey("limits.max_size", "size", _FETCH, "64GB", "What the files of a fetched study may take"),
    ConfigKey(f"{_SERVER}server", "address", (), "ARCHIVE@pacs.example.org:11112", "Address of the server"),
    ConfigKey(f"{_SERVER}title", "text", _BOTH, "C3S3SEG", "Our own AE title, as the server knows it"),
    ConfigKey(f"{_SERVER}timeout", "seconds", _BOTH, 30, "Seconds that the server may take to answer"),
    ConfigKey(f"{_SERVER}tls", "flag", _BOTH, True, "Encrypt, and check the server's certificate"),
    ConfigKey(
        f"{_SERVER}trust",
        "path",
        _BOTH,
        "authorities.pem",
        "PEM file of the authorities that are trusted for the server",
    ),
    ConfigKey(f"{_SERVER}certificate", "path", _BOTH, "ours.pem", "PEM file with our certificate and key"),
)


def keys_of(command: str | None) -> tuple[ConfigKey, ...]:
    """Return the keys that set defaults of a command."""
    return tuple(key for key in KEYS if command in key.commands)
