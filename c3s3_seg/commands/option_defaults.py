"""Defaults of options from the environment, then from `c3s3-seg.toml`, with click's own mechanisms.

Each option that `system/config_keys.py` names gets its variable when its command is loaded, and the values of
the file are the `default_map` of the command's context. So click decides the precedence: command line,
environment, file, the default of the function.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import typer

from c3s3_seg.system.config_keys import keys_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3s3_seg.errors import C3S3Error
    from c3s3_seg.system.config_file import FoundConfig
    from c3s3_seg.system.config_values import ConfigValues

STORED = "c3s3_seg.config_values"  # key in the context's `meta`, so that the file is read once
SERVER = "server"


def load(ctx: Any) -> ConfigValues | None:
    """Return the configuration file of this run, found, read and checked once; None without one.

    Raises
    ------
    InputError
        If the file cannot be used, or a key or a value is wrong.
    """
    if STORED not in ctx.meta:
        from c3s3_seg.system.config_file import find

        found = find(ctx.find_root().params.get("config"), os.environ)
        ctx.meta[STORED] = None if found is None else _read(found)
    stored: ConfigValues | None = ctx.meta[STORED]
    return stored


def _read(found: FoundConfig) -> ConfigValues:
    from c3s3_seg.system.config_values import ConfigValues

    return ConfigValues.load(found)


def name_variables(command: Any) -> Any:
    """Give the options of a command the environment variables of their keys."""
    variables = {key.option: key.variable for key in keys_of(command.name)}
    for param in command.params:
        if variables.get(param.name) is not None:
            param.envvar, param.show_envvar = variables[param.name], False
    return command


class Defaults:
    """The defaults of a command from the configuration file, set before its command line is parsed.

    Parameters
    ----------
    command
        The command.
    ctx
        Context of the command, whose `default_map` is set.
    args
        Words of the command line.
    """

    def __init__(self, command: Any, ctx: Any, args: list[str]) -> None:
        self._ctx, self._server = ctx, None
        given = ctx.find_root().params.get("config") is not None
        self._config = config = load(ctx) if keys_of(command.name) or given else None
        if config is None:
            return
        if config.servers and any(param.name == SERVER for param in command.params):
            self._server = _named(command, ctx, args, config)
        ctx.default_map = config.defaults_of(command.name, self._server)

    def after_parsing(self) -> None:
        """Replace the name of a server by its address, and report on stderr which keys were used."""
        from c3s3_seg.commands.console import say

        if self._config is None:
            return
        found, params = self._config.found, self._ctx.params
        if self._server is not None:
            params[SERVER] = self._config.servers[self._server][SERVER]
            say(f"{self._server} is {params[SERVER]} ({found.path})", err=True)
        used = [name for name in params if source_of(self._ctx, name) == "DEFAULT_MAP"]
        if used and found.origin == "working folder" and not params.get("quiet"):
            names = ", ".join(sorted(used))
            say(f"{found.path} in the working folder sets {names} (--config none ignores it)", err=True)


def source_of(ctx: Any, name: str) -> str:
    """Return click's source of a parameter's value: COMMANDLINE, ENVIRONMENT, DEFAULT_MAP or DEFAULT."""
    source = ctx.get_parameter_source(name)
    return "" if source is None else str(source.name)


def refuse_beside(ctx: Any, given: str, others: Sequence[str]) -> None:
    """Refuse options of the command line that another option makes meaningless; defaults are accepted.

    Raises
    ------
    InputError
        If the user gave one of `others`; the message names the first.
    """
    from c3s3_seg.errors import InputError

    for param in ctx.command.params:
        if param.name in others and source_of(ctx, param.name) == "COMMANDLINE":
            what = f"found {param.opts[-1]} with {given}, which does not use it"
            raise InputError(what, todo="Leave one of them out")


def _named(command: Any, ctx: Any, args: list[str], config: ConfigValues) -> str | None:
    """Return the name of the server on the command line; None for an address or no server."""
    from c3s3_seg.errors import InputError

    text = command.make_parser(ctx).parse_args(args=list(args))[0].get(SERVER)
    if not text or "@" in text or ":" in text:
        return None
    if text not in config.servers:
        names = ", ".join(sorted(config.servers))
        raise InputError(
            f"there is no server {text!r}",
            where=config.found.path,
            todo=f"Give TITLE@host:port or one of: {names}",
        )
    return str(text)


def clarify(error: Any, ctx: Any) -> None:
    """Let a message about a bad value name the environment variable of the value, in plain words.

    Typer's messages begin with words of pydantic, which checks the values.
    """
    error.message = error.message.removeprefix("Value error, ").removeprefix("Input ")
    param = getattr(error, "param", None)
    if param is not None and param.envvar and source_of(ctx, param.name) == "ENVIRONMENT":
        error.param_hint = f"{param.envvar} in the environment"


def name_origin(error: C3S3Error, ctx: Any) -> None:
    """Let an error about an option, or its value, state that the environment or the file set the option."""
    config, told = ctx.meta.get(STORED), error.told
    for param in ctx.command.params:
        value, source = ctx.params.get(param.name), source_of(ctx, param.name)
        if source not in ("ENVIRONMENT", "DEFAULT_MAP"):
            continue
        is_value = isinstance(value, str) and len(value) > 2 and value in told
        if is_value or re.search(rf"--{param.name.replace('_', '-')}\b", told):
            where = param.envvar if config is None or source == "ENVIRONMENT" else config.found.path
            note = f"{param.name} is set by {where}"
            error.todo = f"{error.todo}; {note}" if error.todo else f"Here {note}"


def command_line(ctx: Any) -> tuple[str, ...]:
    """Return the words of this run, with the options that the environment and the configuration file set.

    So the provenance is complete, whatever becomes of the file.
    """
    words = []
    for param in ctx.command.params:
        if source_of(ctx, param.name) in ("ENVIRONMENT", "DEFAULT_MAP") and param.param_type_name == "option":
            words += _words(param, ctx.params[param.name])
    return (*sys.argv, *words)


def _words(param: Any, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [(param.opts if value else param.secondary_opts)[-1]]
    values = value if isinstance(value, list | tuple) else [value]
    return [f"{param.opts[-1]}={item}" for item in values]


def server_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return, for shell completion, servers of the configuration file beginning with `incomplete`."""
    from c3s3_seg.errors import C3S3Error

    try:
        config = load(ctx)
    except C3S3Error:
        return []
    servers = [] if config is None else sorted(config.servers)
    return [name for name in servers if name.startswith(incomplete)]
