"""The command line: its commands, and the handling of errors."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from c3s3_seg.commands.console import Stopped, say, shown
from c3s3_seg.commands.help_text import LazyGroup
from c3s3_seg.commands.program_help import COMMANDS, EXIT_CODES, OPTIONS, PURPOSE, WIDEST
from c3s3_seg.errors import C3S3Error, DefectError, as_c3s3_error, refused_by_system
from c3s3_seg.system.config_file import VARIABLE
from c3s3_seg.system.libraries import leave_out_unused
from c3s3_seg.system.process import import_nothing_from_working_folder, quiet_libraries
from c3s3_seg.version import __version__

TRACEBACK = "C3S3_SEG_TRACEBACK"  # if set, a defect prints its traceback
COMPLETION = "_C3S3_SEG_COMPLETE"  # set by the completion script of a shell


class _Commands(LazyGroup):
    """The commands of this program."""

    panels = COMMANDS
    text_options = ("config",)


app = typer.Typer(
    name="c3s3-seg",
    cls=_Commands,
    help=PURPOSE,
    epilog=EXIT_CODES,
    context_settings={"max_content_width": WIDEST},
    no_args_is_help=True,
    add_completion=False,  # its options make Typer import pydantic; those of `_root` do not
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _stop(number: int, frame: object) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
    raise Stopped(number)


def _version(wanted: bool) -> None:
    if wanted:
        from c3s3_seg.system.hardware import runtime_versions

        say(f"c3s3-seg {__version__}")
        for name, found in runtime_versions().items():
            say(f"{name} {found}")
        raise typer.Exit


def _install_completion(ctx: typer.Context, param: typer.CallbackParam, wanted: bool) -> None:
    from typer.completion import install_callback

    install_callback(ctx, param, wanted)


def _show_completion(ctx: typer.Context, param: typer.CallbackParam, wanted: bool) -> None:
    from typer.completion import show_callback

    show_callback(ctx, param, wanted)


@app.callback()
def _root(
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            envvar=VARIABLE,
            show_envvar=False,
            help=OPTIONS["--config FILE"],
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help=OPTIONS["--version"],
        ),
    ] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            callback=_install_completion,
            is_eager=True,
            help=OPTIONS["--install-completion"],
        ),
    ] = False,
    show_completion: Annotated[
        bool,
        typer.Option(
            "--show-completion",
            callback=_show_completion,
            is_eager=True,
            help=OPTIONS["--show-completion"],
        ),
    ] = False,
) -> None:
    """See `app`."""


def _wait_briefly() -> None:
    """Let torch's threads (GNU OpenMP) release the processor soon when they wait for each other.

    By default waiting threads spin for milliseconds. If another program has one of two processors, a training
    step then takes 10 to 50 times as long, with this limit twice; on an idle machine it makes no difference.
    The variable is read when torch is loaded. A setting of the user is kept.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "2000"


def main() -> None:
    """Run the command line; print an error that a user can correct as one line, without traceback."""
    _wait_briefly()
    quiet_libraries()
    leave_out_unused()
    import_nothing_from_working_folder()
    if COMPLETION in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
        # Typer folds the descriptions at this width, and fish would offer each further line as a word.
        os.environ["COLUMNS"] = "10000"
    # typer would end silently on a KeyboardInterrupt.
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        app(prog_name="c3s3-seg")  # with `python -m c3s3_seg` too
    except C3S3Error as error:
        _fail(error)
    except Stopped as stopped:
        _complain(f"{stopped}: {stopped.todo}")
        _leave_stuck(128 + stopped.number)
        sys.exit(128 + stopped.number)
    except Exception as error:
        _fail(refused_by_system(error) or _defect(error))


def program() -> None:
    """Run `main` as a process, and end it without the interpreter's shutdown.

    The shutdown takes 0.14 s with OpenVINO and SimpleITK loaded, and only frees memory that the system frees
    anyway. Threads are joined, and callbacks of libraries run, before the end: atexit calls callbacks in
    reverse order, and `_end` is registered first.
    """
    code: list[int] = [1]  # if `main` raises anything but SystemExit
    atexit.register(_end, code)
    try:
        main()
    except SystemExit as leaving:
        code[0] = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise
    code[0] = 0


def _end(code: list[int]) -> None:
    """End the process at once with this code, or 120 for 0 if a stream cannot be flushed, as Python does."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                code[0] = code[0] or 120
    os._exit(code[0])


def _leave_stuck(code: int) -> None:
    """End at once if a thread is still in a library, which may crash while the interpreter shuts down.

    Nothing is imported here: numpy, interrupted during its own import, cannot be imported again.
    """
    stuck = getattr(sys.modules.get("c3s3_seg.batch.pipeline"), "STUCK", None)
    if any(thread.name == stuck for thread in threading.enumerate()):
        os._exit(code)


def _defect(error: Exception) -> C3S3Error:
    """Return the error for a defect, with its place for a report; print the traceback if requested."""
    import traceback

    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}" if frames else None
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"
    todo = f"This is a defect of the program: please report it, with what {TRACEBACK}=1 shows"
    return DefectError(what, where=where, todo=todo)


def _fail(error: C3S3Error) -> NoReturn:
    error = as_c3s3_error(error)
    _complain(f"error: {shown(error.told, sys.stderr)}")
    sys.exit(error.exit_code)


def _complain(line: str) -> None:
    with suppress(OSError, ValueError):  # no reader
        say(line, err=True)


if __name__ == "__main__":
    program()
