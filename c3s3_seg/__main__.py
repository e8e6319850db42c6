"""Entry point of `python -m c3s3_seg`, same as `c3s3-seg`."""

import signal
import sys


def program() -> None:
    """Run the command line as a process; answer `--help` alone without the imports of commands."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until `main` handles Ctrl-C, it ends the process: the traceback of an import helps nobody.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:] == ["--help"] and _helped():
        return
    from c3s3_seg import cli

    cli.program()


def _helped() -> bool:
    """Print the page; return False if that fails, or a shell requests completion."""
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
    except (OSError, AttributeError):  # a full disk, a closed pipe or no stdout: `cli` reports it
        return False
    return True


if __name__ == "__main__":
    program()
