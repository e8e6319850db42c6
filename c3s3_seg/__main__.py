"""`python -m c3s3_seg` is `c3s3-seg`."""

import signal
import sys


def program() -> None:
    """The command line as a process of its own; `--help` alone is answered without what commands need."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until `main` answers Ctrl-C it ends the process: the traceback of an import helps nobody.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:] == ["--help"] and _helped():
        return
    from c3s3_seg import cli

    cli.program()


def _helped() -> bool:
    """Print the page; False where it cannot be printed, or a shell asks for completion."""
    import os

    from c3s3_seg.commands.program_help import page

    if "_C3S3_SEG_COMPLETE" in os.environ:
        return False
    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns or 80
    except (OSError, ValueError):
        columns = 80
    try:
        sys.stdout.write(page(columns))
        sys.stdout.flush()
    except (OSError, AttributeError):  # a full disk, a closed pipe or no stdout: the command line says so
        return False
    return True


if __name__ == "__main__":
    program()
