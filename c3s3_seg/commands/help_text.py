"""The layout of `--help`: commands and options under headings, as plain text of the terminal's width.

Typer's own headings need rich, whose import takes longer than all the rest of `--help`.
"""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from c3s3_seg.commands.program_help import FIRST

ARGUMENTS, OTHERS, OPTIONS = "Arguments", "Other", "Options"
FILES = {"fetch": "pacs", "send": "pacs"}  # commands that share a file
# Limits that Typer adds to the help of an option: the error message states them, too.
_LIMITS = re.compile(r"; x>=?[-\d.]+(?=[;\]])|  \[x>=?[-\d.]+\]$")
_WHOLE = re.compile(r"(?<=\d)\.0(?=[;\]])")
_RANGE = re.compile(r"([-\d.]+)<=x<=([-\d.]+)(?=[;\]])")


class PanelCommand(TyperCommand):
    """A command whose options stand under the headings that `rich_help_panel` names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does, with defaults from the configuration file, except for help and completion."""
        from c3s3_seg.commands import option_defaults

        reads = not ctx.resilient_parsing and "--help" not in args
        defaults = option_defaults.Defaults(self, ctx, args) if reads else None
        try:
            rest = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            option_defaults.clarify(error, ctx)
            raise
        if defaults is not None:
            defaults.after_parsing()
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Invoke as Typer does; an error about an option that the user did not give names its origin."""
        from c3s3_seg.errors import C3S3Error

        try:
            return super().invoke(ctx)
        except C3S3Error as error:
            from c3s3_seg.commands import option_defaults

            option_defaults.name_origin(error, ctx)
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage: `[OPTIONS] INPUT...`."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(_usage(argument) for argument in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each heading in the order of its first option."""
        _write(_panels(self, ctx, OTHERS), formatter)


class LazyGroup(TyperGroup):
    """The commands of `panels` under their headings; the module of a command is imported when requested."""

    panels: ClassVar[dict[str, dict[str, str]]] = {}  # heading -> command -> its summary
    text_options: ClassVar[tuple[str, ...]] = ()  # options of the program that are not converted

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for option in self.params:
            if option.name in self.text_options:
                # Typer would import pydantic for the conversion, even if the option is not given.
                option.process_value = lambda ctx, value: value  # type: ignore[method-assign]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of commands in the order of the headings."""
        del ctx
        named = [name for commands in self.panels.values() for name in commands]
        return [*named, *(name for name in self.commands if name not in named)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load the command; for an unknown name all of them, so that the message suggests one."""
        known = self.list_commands(ctx)
        for name in [cmd_name] if cmd_name in known else known:
            if name not in self.commands:
                self.commands[name] = _load(name)
        return super().get_command(ctx, cmd_name)

    def get_help_option(self, ctx: Any) -> Any:
        """Return `--help` with a default that needs no conversion, for which Typer would import pydantic."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with their whole summaries, then the options of the program."""
        _write({heading: list(rows.items()) for heading, rows in self.panels.items()}, formatter)
        _write(_panels(self, ctx, OPTIONS), formatter)


def spare_conversions(command: Any) -> Any:
    """Let Typer convert only values that need it: Typer builds a pydantic adapter for each option."""
    for param in command.params:
        param.process_value = partial(_converted, param, param.process_value)
    return command


def _converted(param: Any, convert: Any, ctx: Any, value: Any) -> Any:
    """Return the converted value, without `convert` for missing values, texts, allowed words, defaults."""
    _refuse_empty_path(param, ctx, value)
    if param.required or param.callback is not None or param.multiple or param.nargs != 1:
        return convert(ctx, value)
    annotation, is_text = param.type_descriptor.annotation, type(value) is str
    if value is None or (is_text and annotation is str) or (is_text and value in get_args(annotation)):
        return value
    is_default = type(value) is type(param.default) and value == param.default
    return value if is_default and type(value) is annotation else convert(ctx, value)


def _refuse_empty_path(param: Any, ctx: Any, value: Any) -> None:
    """Refuse an empty path, such as an unset variable of a script: it would be the working folder."""
    kinds = {param.type_descriptor.annotation} | set(get_args(param.type_descriptor.annotation))
    texts = value if isinstance(value, list | tuple) else [value]
    if "" in texts and any(isinstance(kind, type) and issubclass(kind, Path) for kind in kinds):
        raise typer.BadParameter("found an empty path; write . for the working folder", ctx=ctx, param=param)


def _load(name: str) -> Any:
    module = import_module(f"c3s3_seg.commands.{FILES.get(name, name)}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=PanelCommand)(getattr(module, name))
    from c3s3_seg.commands import option_defaults

    return spare_conversions(option_defaults.name_variables(typer.main.get_command(app)))


def _panels(command: Any, ctx: Any, others: str) -> dict[str, list[tuple[str, str]]]:
    """Return heading -> its entries (name, help). `others`: the last heading, for options without one."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None:
            continue
        if param.param_type_name == "argument":
            panels.setdefault(ARGUMENTS, []).append((_name(param), record[1].removesuffix("  [required]")))
        else:
            panel = getattr(param, "rich_help_panel", None) or others
            panels.setdefault(panel, []).append((record[0], _readable(record[1])))
    return {**panels, others: panels.pop(others, [])}


def _write(panels: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    """Write all panels with one width of the first column."""
    names = [len(name) for rows in panels.values() for name, _ in rows]
    width = max((length for length in names if length <= FIRST), default=FIRST)
    for heading, rows in panels.items():
        with formatter.section(heading):
            formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=width)


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _usage(argument: Any) -> str:
    name = _name(argument) + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _readable(text: str) -> str:
    """Return help without open limits, with `1 to 64` for `1<=x<=64`, and `30` for `30.0`."""
    return _WHOLE.sub("", _RANGE.sub(r"\1 to \2", _LIMITS.sub("", text)))
