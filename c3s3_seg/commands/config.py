"""`c3s3-seg config`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from c3s3_seg.commands import option_defaults, options
from c3s3_seg.commands.console import say, say_json, show
from c3s3_seg.system.config_keys import ANY_SERVER, KEYS, ConfigKey

if TYPE_CHECKING:
    from c3s3_seg.system.config_values import ConfigValues

Action = Literal["show", "example"]
HEAD = """\
# Defaults for the options of c3s3-seg. The command line comes first, then the environment variable, then this
# file, then the default of the program. Remove the mark # before the keys that you set.
"""


class Setting(NamedTuple):
    """A key, its value in effect, and the source of the value.

    Parameters
    ----------
    key
        Full name: `workers`, `pacs.archive.title`.
    value
        Value as in JSON; None if it is not set and the program decides.
    source
        `environment`, `file` or `default`.
    where
        Variable, or path of the file; empty for a default.
    """

    key: str
    value: Any
    source: str
    where: str


def config(
    ctx: typer.Context,
    action: Annotated[
        Action,
        typer.Argument(
            metavar=options.one_of(Action),
            help="show: every key, its value and its source. example: a configuration file in which every key"
            " is a comment.",
        ),
    ] = "show",
    as_json: options.Json = False,
) -> None:
    """Show the defaults in effect and where each comes from, or print an example file."""
    if action == "example":
        option_defaults.refuse_beside(ctx, "example", ("as_json",))
        for line in example().splitlines():
            say(line)
        return
    found = option_defaults.load(ctx)
    rows = settings(ctx, found)
    if as_json:
        file = None if found is None else {"path": str(found.found.path), "origin": found.found.origin}
        say_json({"file": file, "keys": [row._asdict() for row in rows]})
        return
    _show(rows)
    say(_file_line(found))


def settings(ctx: typer.Context, found: ConfigValues | None) -> list[Setting]:
    """Return the value in effect of every key, decided by the options of the commands as in a run.

    Parameters
    ----------
    ctx
        Context of this command.
    found
        Values of the configuration file, if any.

    Raises
    ------
    typer.BadParameter
        If the value of an environment variable cannot be used.
    """
    rows = [_setting(ctx, key, found, None) for key in KEYS if not key.of_a_server]
    for server in (found.servers if found is not None else None) or [None]:
        rows += [_setting(ctx, key, found, server) for key in KEYS if key.of_a_server]
    return [row for row in rows if row is not None]


def _setting(ctx: Any, key: ConfigKey, found: ConfigValues | None, server: str | None) -> Setting | None:
    name = key.name if server is None else key.name.replace(ANY_SERVER, server)
    file = "" if found is None else str(found.found.path)
    if not key.commands:
        if found is None or server is None:
            return None
        return Setting(name, found.servers[server][key.option], "file", file)
    root = ctx.find_root()
    command = root.command.get_command(root, key.commands[0])
    param = next((param for param in command.params if param.name == key.option), None)
    if param is None:
        return None
    run = typer.Context(command, info_name=command.name, parent=root)
    run.default_map = {} if found is None else found.defaults_of(command.name, server)
    try:
        value, _ = param.handle_parse_result(run, {}, [])
    except typer.BadParameter as error:
        option_defaults.clarify(error, run)
        raise
    source = option_defaults.source_of(run, param.name)
    where = {"ENVIRONMENT": ("environment", str(param.envvar)), "DEFAULT_MAP": ("file", file)}
    return Setting(name, _plain(value), *where.get(source, ("default", "")))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) or None if isinstance(value, list | tuple) else value


def _show(rows: list[Setting]) -> None:
    from c3s3_seg.report.terminal import text_table

    texts = [
        (
            row.key,
            "-" if row.value is None else json.dumps(row.value, ensure_ascii=False),
            f"{row.source} {row.where}" if row.where else row.source,
        )
        for row in rows
    ]
    show(text_table(("Key", "Value", "Source"), texts))


def _file_line(config: ConfigValues | None) -> str:
    from c3s3_seg.system.config_file import FILE_NAME, user_folder

    if config is not None:
        return f"Configuration file: {config.found.path} ({config.found.origin})."
    folder = user_folder(os.environ)
    places = f"{FILE_NAME} of the working folder" + (f" and {folder / FILE_NAME}" if folder else "")
    return f"No configuration file is used. Without --config, these are looked for: {places}."


def example() -> str:
    """Return a configuration file in which every key is a comment, with its effect and its variable."""
    lines, table = [HEAD.rstrip()], ""
    for key in KEYS:
        if key.table != table:
            table = key.table
            lines += ["", f"# [{table[:-1].replace(ANY_SERVER, 'archive')}]"]
            if key.of_a_server:
                lines += ["# A server that fetch and send know by the name of this table, here archive."]
        lines += ["", f"# {key.about}{_named(key)}.", f"# {key.option} = {json.dumps(key.example)}"]
    return "\n".join(lines) + "\n"


def _named(key: ConfigKey) -> str:
    return f" ({', '.join(key.commands)}; {key.variable})" if key.variable else ""
