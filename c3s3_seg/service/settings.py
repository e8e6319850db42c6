"""Settings of the service: the table `serve` of a TOML file, checked."""

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
from c3s3_seg.system.names import absolute
from c3s3_seg.system.schema import Rule, closed, parse


@closed
@dataclass(frozen=True)
class OutputSettings:
    """The output for a study.

    Parameters
    ----------
    capture
        Whether to make a secondary capture beside the SEG.
    uncertainty
        Whether to compare the networks of the model.
    log
        File of JSON lines, one for each finished study; default: `results.jsonl` in `state`.
    uids
        Names of study and series in the log: `hash` (SHA-256 of the UID, shortened) or `plain`.
    folder
        Folder for results; default: `results` in `state`.
    keep_days
        Days that the results of a study are kept in the folder after it is done; None: for ever.
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
    """The limits of the service.

    Parameters
    ----------
    free
        Free disk space below which nothing is received.
    spool
        Size of all received files.
    object, study, files
        Size of one object, size and number of files of a study.
    memory
        Memory of a worker: without an overlap the tiles of the network are the largest that fit; with
        one they keep the size of the training crops.
    study_s
        Seconds that a study may take in a worker, and that fetching a series may take.
    keep_spool_s, keep_dead_days
        Seconds that the files of a finished study are kept; days for a study that was given up.
    drain_s
        Seconds that the studies in work get after SIGTERM.
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
    """The schedule for repeating failed attempts.

    Parameters
    ----------
    attempts
        Number of failed attempts after which a study is dead.
    store_attempts
        The same for attempts that failed because a PACS did not take a result; the default lasts for about
        four days, as a PACS may be down over a weekend.
    first_s, longest_s
        First wait in seconds; each further wait is twice as long, up to the longest.
    """

    attempts: Count = 8
    store_attempts: Count = 100
    first_s: Positive = 30.0
    longest_s: Positive = 3600.0

    def wait_s(self, attempts: int) -> float:
        """Return the wait after this number of failed attempts."""
        return min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 60))


@closed
@dataclass(frozen=True)
class MonitorSettings:
    """The address of `/healthz` and `/metrics`: loopback unless another host is given.

    Parameters
    ----------
    host, port
        Address; port 0: no monitor.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Rule(lambda value: 0 <= value < 65536, "a port, or 0")] = 9110


@closed
@dataclass(frozen=True)
class ServeSettings:
    """All settings of the service.

    Parameters
    ----------
    state
        Folder of the queue, the received files and the results.
    model
        Name of a shipped model, or the folder of a bundle.
    quiet_s
        Seconds without a new file after which a study is complete.
    workers, threads
        Number of worker processes; threads of each.
    allow_out_of_domain
        Whether to segment scans that the domain check refuses.
    watch, listen, poll
        Sources of studies: at least one.
    store
        PACS that results are stored to.
    output, limits, retry, monitor
        Subtables, see their classes.
    """

    state: Annotated[Path, Rule(lambda path: path != Path(), "a folder of its own")]
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
        """The folder of results, with subfolders `<study>/<revision>`."""
        return self.output.folder or self.state / "results"

    @property
    def log(self) -> Path:
        """The path of the log of results."""
        return self.output.log or self.state / "results.jsonl"


@dataclass(frozen=True)
class _ServeFile:
    serve: ServeSettings


def read_settings(file: FoundConfig) -> ServeSettings:
    """Read the table `serve` of a configuration file; relative paths count from the file's folder.

    Raises
    ------
    ConfigError
        If the file has no such table, or a key or a value in it is not allowed.
    InputError
        If the file cannot be read.
    """
    data, path = read(file), file.path
    if "serve" not in data:
        raise ConfigError("there is no table [serve]", where=path, todo="See docs/service.md")
    settings = parse(_ServeFile, {"serve": data["serve"]}, path).serve
    # For a link its own folder counts, as for all keys: the folder of its target changes with each update
    # of a Kubernetes ConfigMap.
    home = Path(absolute(path)).parent
    there: ServeSettings = _placed(settings, home)
    _check(there, path)
    return replace(there, model=placed("model", settings.model, home))


def _check(settings: ServeSettings, path: Path) -> None:
    """Check what no type covers: titles and addresses, pairs of keys, at least one source."""
    if not (settings.watch or settings.listen or settings.poll):
        what = "serve: no source of studies; wanted serve.watch, serve.listen or serve.poll"
        raise ConfigError(what, where=path)
    places = {
        "store: the same server": [store.server for store in settings.store],
        "poll: the same server": [poll.server for poll in settings.poll],
        "watch: the same folder": [os.path.normpath(watch.folder) for watch in settings.watch],
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
            node.node, node.caller  # noqa: B018 - both are checked when they are created
        for poll in settings.poll:
            poll.check_move(listen)
        if listen is not None:
            listen.gate(1)
    except C3S3Error as error:
        raise ConfigError(f"serve: {error.what}", where=path, todo=error.todo) from error


def _placed(value: Any, home: Path) -> Any:
    """Return a settings object with relative paths, and those that begin with `~`, made absolute."""
    if isinstance(value, Path):
        return home / os.path.expanduser(value)
    if isinstance(value, tuple):
        return tuple(_placed(item, home) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _placed(getattr(value, f.name), home) for f in fields(value)})
    return value
