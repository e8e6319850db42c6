"""The table `serve` of a TOML file, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from c3s3_seg.errors import C3S3Error, ConfigError
from c3s3_seg.service.node_settings import ListenSettings, NodeSettings, PollSettings, WatchSettings
from c3s3_seg.service.value_types import Count, NotNegative, Positive, Size
from c3s3_seg.system.config_file import FoundConfig, read
from c3s3_seg.system.config_values import placed
from c3s3_seg.system.schema import Rule, closed, parse


@closed
@dataclass(frozen=True)
class OutputSettings:
    """What is written for a study.

    Parameters
    ----------
    capture
        Whether to make a secondary capture beside the SEG.
    uncertainty
        Whether to compare the networks of the model.
    log
        File of JSON lines, one for each study that is finished; default: `results.jsonl` in `state`.
    uids
        How the log names study and series: `hash` (SHA-256 of the UID, shortened) or `plain`.
    folder
        Where results are written; default: `results` in `state`.
    keep_days
        How long the results of a study are kept there after they are stored; none: for ever.
    """

    capture: bool = False
    uncertainty: bool = False
    log: Path | None = None
    uids: Literal["hash", "plain"] = "hash"
    folder: Path | None = None
    keep_days: NotNegative | None = None


@closed
@dataclass(frozen=True)
class LimitSettings:
    """What the service may take.

    Parameters
    ----------
    free
        Space on the disk below which nothing is received.
    spool
        Size of all received files.
    object, study, files
        Size of one object, size and number of files of a study.
    memory
        Of a worker: the tiles of the network are the largest that fit.
    study_s
        What a study may take in a worker.
    keep_spool_s, keep_dead_days
        How long the files of a finished study are kept; of one that was given up.
    drain_s
        What the study in work gets after SIGTERM.
    """

    free: Size = "2GB"
    spool: Size = "50GB"
    object: Size = "1GB"
    study: Size = "8GB"
    files: Count = 20_000
    memory: Size | None = None
    study_s: Positive = 3600.0
    keep_spool_s: NotNegative = 3600.0
    keep_dead_days: NotNegative = 30.0
    drain_s: NotNegative = 60.0


@closed
@dataclass(frozen=True)
class RetrySettings:
    """When a failed attempt is repeated.

    Parameters
    ----------
    attempts
        After so many a study is dead.
    first_s, longest_s
        The first wait; each further one is twice as long, up to the longest.
    """

    attempts: Count = 8
    first_s: Positive = 30.0
    longest_s: Positive = 3600.0

    def wait_s(self, attempts: int) -> float:
        """The wait after so many attempts."""
        return min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 60))


@closed
@dataclass(frozen=True)
class MonitorSettings:
    """Where `/healthz` and `/metrics` answer: loopback unless another host is given.

    Parameters
    ----------
    host, port
        The address; port 0: nowhere.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Rule(lambda value: 0 <= value < 65536, "a port, or 0")] = 9110


@closed
@dataclass(frozen=True)
class ServeSettings:
    """All of the service.

    Parameters
    ----------
    state
        Folder of the queue, the received files and the results.
    model
        Name of a shipped model, or the folder of a bundle.
    quiet_s
        A study is complete once no file of it came for so long.
    workers, threads
        Worker processes; threads of each.
    allow_out_of_domain
        Whether to segment scans that the domain check refuses.
    watch, listen, poll
        Where studies come from: one at least.
    store
        Where results are stored to.
    output, limits, retry, monitor
        See there.
    """

    state: Path
    model: str = "left-atrium"
    quiet_s: Positive = 30.0
    workers: Annotated[int, Rule(lambda value: 0 < value <= 64, "a number from 1 to 64")] = 1
    threads: Count | None = None
    allow_out_of_domain: bool = False
    watch: tuple[WatchSettings, ...] = ()
    listen: ListenSettings | None = None
    poll: tuple[PollSettings, ...] = ()
    store: tuple[NodeSettings, ...] = ()
    output: OutputSettings = field(default_factory=OutputSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)

    @property
    def results(self) -> Path:
        """The folder of results: `<study>/<revision>`."""
        return self.output.folder or self.state / "results"

    @property
    def log(self) -> Path:
        """The file of results."""
        return self.output.log or self.state / "results.jsonl"


@dataclass(frozen=True)
class _ServeFile:
    serve: ServeSettings


def read_settings(file: FoundConfig) -> ServeSettings:
    """The table `serve` of a configuration file; relative paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        If it has no such table, or a key or a value in it is not allowed.
    InputError
        If it cannot be read.
    """
    data, path = read(file), file.path
    if "serve" not in data:
        raise ConfigError("there is no table [serve]", where=path, todo="See docs/service.md")
    settings = parse(_ServeFile, {"serve": data["serve"]}, path).serve
    _check(settings, path)
    # Of a link its own folder counts, as for all keys: that of the target is another one after each update
    # of a Kubernetes ConfigMap.
    home = Path(os.path.abspath(path)).parent
    there: ServeSettings = _placed(settings, home)
    return replace(there, model=placed("model", settings.model, home))


def _check(settings: ServeSettings, path: Path) -> None:
    """What no type says: titles and addresses, pairs of keys, a source at least."""
    if not (settings.watch or settings.listen or settings.poll):
        what = "serve: no source of studies; wanted serve.watch, serve.listen or serve.poll"
        raise ConfigError(what, where=path)
    places = {
        "store: the same server": [store.server for store in settings.store],
        "poll: the same server": [poll.server for poll in settings.poll],
        "watch: the same folder": [os.path.abspath(watch.folder) for watch in settings.watch],
    }
    for what, several in places.items():
        if len(set(several)) < len(several):
            raise ConfigError(f"serve.{what} stands there twice", where=path)
    listen = settings.listen
    if listen is not None and (listen.certificate is None) != (listen.trust is None):
        what = "serve.listen: TLS needs both certificate and trust"
        raise ConfigError(what, where=path, todo="Give both, or none")
    try:
        for node in (*settings.store, *settings.poll):
            node.node, node.caller  # noqa: B018 - they are checked when they are made
        for poll in settings.poll:
            poll.listener  # noqa: B018
        if listen is not None:
            listen.gate(1)
    except C3S3Error as error:
        raise ConfigError(f"serve: {error.what}", where=path, todo=error.todo) from error


def _placed(value: Any, home: Path) -> Any:
    """A settings object in which relative paths are made absolute."""
    if isinstance(value, Path):
        return home / value
    if isinstance(value, tuple):
        return tuple(_placed(item, home) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _placed(getattr(value, f.name), home) for f in fields(value)})
    return value
