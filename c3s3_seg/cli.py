"""The command line: its commands, and what becomes of an error."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from c3s3_seg import __version__
from c3s3_seg.commands.benchmark import benchmark
from c3s3_seg.commands.calibrate import calibrate
from c3s3_seg.commands.console import Stopped, say, shown
from c3s3_seg.commands.doctor import doctor
from c3s3_seg.commands.ensemble import ensemble
from c3s3_seg.commands.evaluate import evaluate
from c3s3_seg.commands.export import export
from c3s3_seg.commands.inspect import inspect
from c3s3_seg.commands.pacs import fetch, send
from c3s3_seg.commands.phantom import phantom
from c3s3_seg.commands.plan import plan
from c3s3_seg.commands.predict import predict
from c3s3_seg.commands.prepare import prepare
from c3s3_seg.commands.study import study
from c3s3_seg.commands.train import train
from c3s3_seg.commands.verify import verify
from c3s3_seg.errors import C3S3Error, DefectError, InputError, foreseen, is_out_of_memory, unforeseen
from c3s3_seg.system.process import quiet_libraries

TRACEBACK = "C3S3_SEG_TRACEBACK"  # set: a defect shows where it was raised

app = typer.Typer(
    name="c3s3-seg",
    help="3D medical image segmentation with sharp boundaries. Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    predict, evaluate, inspect, prepare, plan, train, ensemble, study, export, calibrate, fetch, send,
    phantom, verify, doctor, benchmark,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)


def _stop(number: int, frame: object) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)  # whoever says it twice means it
    raise Stopped(number)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"c3s3-seg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Exit codes: 0 all went well; 1 some cases failed or a check said no; 2 bad input; 3 not installed;

    4 a defect of the program; 130, 143 interrupted.
    """


def _wait_briefly() -> None:
    """Let torch's threads (GNU OpenMP) give up the processor soon when they wait for each other.

    By default they wait at work for milliseconds. Where another program has one of two processors, a training
    step then takes 10 to 50 times as long, with this twice; on a quiet machine it makes no difference.
    Read when torch is loaded. Whoever has set how threads wait is left alone.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "2000"


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr, never a traceback."""
    _wait_briefly()
    quiet_libraries()
    # typer would turn a KeyboardInterrupt into silence.
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except C3S3Error as error:
        _fail(error)
    except Stopped as stopped:
        _complain(f"{stopped}: {stopped.todo}")
        _leave_stuck(128 + stopped.number)
        sys.exit(128 + stopped.number)
    except Exception as error:
        _fail(_foreseen(error) or _defect(error))


def _leave_stuck(code: int) -> None:
    """End at once if a thread is still in a library: what that does while Python is taken down is open."""
    from c3s3_seg.batch.pipeline import STUCK

    if any(thread.name == STUCK for thread in threading.enumerate()):
        os._exit(code)


def _foreseen(error: Exception) -> C3S3Error | None:
    """What the system or the memory refused, wherever it was: nothing that a user should report."""
    if is_out_of_memory(error):
        return unforeseen(error)
    if isinstance(error, OSError) and error.strerror:
        return InputError(error.strerror, where=error.filename)
    return None


def _defect(error: Exception) -> C3S3Error:
    """A line that says where, so that it can be reported; the traceback on request."""
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
    error = foreseen(error)
    _complain(f"error: {shown(error.told, sys.stderr)}")
    sys.exit(error.exit_code)


def _complain(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads it
        say(line, err=True)


if __name__ == "__main__":
    main()
