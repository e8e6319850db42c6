"""The verbs: parse, call, show. No logic; every heavy import is inside the verb that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from c3s3_seg import __version__
from c3s3_seg.errors import C3S3Error

app = typer.Typer(
    name="c3s3-seg",
    help="3D medical image segmentation with sharp boundaries. Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


BackendName = Literal["auto", "openvino", "onnx", "torch"]
ImageFormat = Literal["nii.gz", "nrrd", "mha"]
ProtocolName = Literal["clinical", "paper"]
PhantomFormat = Literal["dicom", "nii.gz"]
ExportTarget = Literal["onnx"]


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


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Image files, DICOM folders, or folders of cases.", metavar="INPUT..."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for masks, JSON files and summary.csv.")],
    model: Annotated[
        str, typer.Option(help="A shipped bundle's name, or a bundle's folder.")
    ] = "left-atrium",
    backend: Annotated[BackendName, typer.Option(help="Runtime; auto takes the fastest installed.")] = "auto",
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.95,
            help="Tiles of the training size that share this part of a side. Default: as the bundle says.",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="A mask, or a folder of masks, to score against.")
    ] = None,
    format: Annotated[ImageFormat, typer.Option(help="File format of the masks.")] = "nii.gz",
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write each label's probability too, to OUT/probabilities."),
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average both networks of the bundle.")
    ] = False,
    picture: Annotated[
        bool, typer.Option("--picture", help="Draw each case with its contour as PNG.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")] = None,
) -> None:
    """Segment scans: each becomes a mask in its own geometry, and a line in the table."""
    from c3s3_seg.batch import Job, origin, predict_cases
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.inference import Settings, open_predictor
    from c3s3_seg.report.terminal import prediction_table

    bundle = ModelBundle.find(model)
    settings = Settings(overlap, probabilities)
    predictor = open_predictor(bundle, backend=backend, settings=settings, ensemble=ensemble, threads=threads)
    job = Job(out, format, truth, picture, origin(bundle, predictor))
    with _status() as tell:
        result = predict_cases(
            inputs, predictor, job, lambda case, n, total: tell(f"{case} ({n} of {total})")
        )
    _show(prediction_table(result.rows, result.failures))
    typer.echo(f"Masks, JSON and summary.csv are in {out}. Research use only.")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A mask, or a folder of masks.")],
    truth: Annotated[Path, typer.Argument(help="The truth: a mask, or a folder of masks of the same names.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for report.json and cases.csv.")],
    protocol: Annotated[
        ProtocolName, typer.Option(help="clinical: mm. paper: voxels, as published evaluations count.")
    ] = "clinical",
    against: Annotated[
        Path | None, typer.Option(help="Other masks of the same cases, compared case by case.")
    ] = None,
) -> None:
    """Score masks against the truth: Dice, Jaccard, 95HD, ASD and more."""
    from c3s3_seg.evaluate import evaluate as run
    from c3s3_seg.report.terminal import comparison_table, evaluation_table

    with _status() as tell:
        result = run(predictions, truth, out, protocol=protocol, against=against, progress=tell)
    _show(evaluation_table(result.rows, result.failures))
    if result.comparison:
        _show(comparison_table(result.comparison))
    typer.echo(f"report.json and cases.csv are in {out}.")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A TOML file, or the name of a shipped configuration.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run: checkpoint, scalars, bundle.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: --set run.iterations=100", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
) -> None:
    """Train as a configuration says; the result is a bundle in OUT/bundle."""
    _need("torch", "safetensors", "tensorboard")
    from c3s3_seg.training.config import load_config
    from c3s3_seg.training.listeners import open_listener
    from c3s3_seg.training.train import train as run

    settings = load_config(config, set_ or [])
    with open_listener(out) as listener:
        bundle = run(settings, out, listener, resume=resume)
    typer.echo(f"The bundle is {bundle.folder}. Next: c3s3-seg export {bundle.folder} --to onnx")


@app.command()
def export(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder.")],
    to: Annotated[ExportTarget, typer.Option("--to", help="The format.")] = "onnx",
    check: Annotated[
        list[Path] | None,
        typer.Option(
            help="Scans to compare on. Default: a validation case of the training data, else a phantom."
        ),
    ] = None,
) -> None:
    """Write the networks as graphs that run without torch, after comparing them with torch."""
    _need("torch", "onnx", "onnxscript")
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.export.parity import check_scans, export_onnx

    found = ModelBundle.find(bundle)
    scans, what = check_scans(found, check or [])
    exported, proofs = export_onnx(found, scans)
    for name, proof in proofs.items():
        typer.echo(f"{exported.folder / name}: agrees with torch on {what}: {proof}.")


@app.command()
def phantom(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")],
    format: Annotated[PhantomFormat, typer.Option(help="File format of the scan.")] = "dicom",
    seed: Annotated[int, typer.Option(min=0, help="Another number is another patient.")] = 0,
    cohort: Annotated[
        str | None,
        typer.Option(help="Write a training set instead: LABELLED,UNLABELLED,VALIDATION cases."),
    ] = None,
) -> None:
    """Simulate a late-gadolinium MRI of the heart with a known left atrium."""
    from c3s3_seg.phantom import parse_cohort, save, simulate, write_cohort

    if cohort is not None:
        labelled, unlabelled, validation = parse_cohort(cohort)
        index = write_cohort(out, labelled=labelled, unlabelled=unlabelled, validation=validation, seed=seed)
        typer.echo(f"data set: {index}")
        return
    scan, truth = save(simulate(seed), out, seed=seed, file_format=format)
    typer.echo(f"scan: {scan}\ntruth: {truth}")


def _need(*packages: str) -> None:
    """Say what to install before anything is imported that would not be found."""
    import importlib.util

    from c3s3_seg.errors import MissingError

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        todo = "pip install 'c3s3-seg[train]'"
        raise MissingError(
            f"this needs {', '.join(missing)}, which the base installation leaves out", todo=todo
        )


class _status:  # noqa: N801
    """A line on stderr that says which case is at work; silent where stderr is no terminal."""

    def __enter__(self) -> _status:
        from rich.console import Console

        self._status = Console(stderr=True).status("starting")
        self._status.start()
        return self

    def __call__(self, what: str) -> None:
        from rich.markup import escape

        self._status.update(escape(what))

    def __exit__(self, *_: object) -> None:
        self._status.stop()


def _show(table: object) -> None:
    from rich.console import Console

    if sys.stdout is None:  # closed by whoever started us: the files are what counts
        return
    # In a pipe or a log file there is no width to keep to.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


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
