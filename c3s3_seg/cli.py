"""The command line: its verbs, and what becomes of an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from c3s3_seg import __version__
from c3s3_seg.errors import C3S3Error
from c3s3_seg.verbs.benchmark import benchmark
from c3s3_seg.verbs.evaluate import evaluate
from c3s3_seg.verbs.export import export
from c3s3_seg.verbs.phantom import phantom
from c3s3_seg.verbs.predict import predict
from c3s3_seg.verbs.train import train

app = typer.Typer(
    name="c3s3-seg",
    help="3D medical image segmentation with sharp boundaries. Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (predict, evaluate, train, export, phantom, benchmark):
    app.command()(verb)


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
    """Exit codes: 0 all went well; 1 some cases failed or a check said no; 2 bad input; 3 not installed."""


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr, never a traceback."""
    import warnings

    # pydicom warns of what a damaged file holds before we refuse it in our own words.
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        app()
    except C3S3Error as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; what was finished is kept", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
