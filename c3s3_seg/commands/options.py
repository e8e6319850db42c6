"""Options that several commands share, and the headings under which `--help` shows them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from c3s3_seg.system import choices
from c3s3_seg.system.choices import BackendName, Precision

INPUT, OUTPUT, NETWORK, HARDWARE = "Input", "Output", "Inference", "Hardware"
BATCH, MESSAGES, CONNECTION, SETTINGS = "Batch", "Messages", "Connection", "Settings"


def one_of(words: Any) -> str:
    """Return the words of a `Literal` as the help shows them: `auto|cpu|cuda`."""
    return "|".join(get_args(words))


def model_names(incomplete: str) -> list[str]:
    """Return, for shell completion, the shipped models that begin with `incomplete`."""
    from c3s3_seg.bundle import shipped_bundles

    return [name for name in shipped_bundles() if name.startswith(incomplete)]


def one_word(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a shell completion of these words. Typer itself completes options typed as a `Literal`."""
    known = tuple(words)
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def some_words(words: Iterable[str], alone: str) -> Callable[[str], list[str]]:
    """Return a shell completion of several of these words with commas between them, or of one word alone."""
    known = tuple(words)

    def complete(incomplete: str) -> list[str]:
        given = incomplete.split(",")[:-1]
        more = [",".join((*given, word)) for word in known if word not in given]
        return [text for text in (*more, *(() if given else (alone,))) if text.startswith(incomplete)]

    return complete


def rare_keys(incomplete: str) -> list[str]:
    """Return, for shell completion, the keys of `predict --set`."""
    from c3s3_seg.batch.overrides import PredictKeys

    keys = [f"{table}.{key}=" for table, held in vars(PredictKeys()).items() for key in vars(held)]
    return [key for key in keys if key.startswith(incomplete)]


def config_names(incomplete: str) -> list[str]:
    """Return, for shell completion, shipped configurations and TOML files beginning with `incomplete`."""
    shipped = Path(__file__).parents[1] / "training" / "configs"
    names = sorted(path.stem for path in shipped.glob("*.toml"))
    found = sorted(glob.glob(f"{glob.escape(incomplete)}*.toml"))
    return [name for name in names if name.startswith(incomplete)] + found


MODEL_HELP = "Name of a shipped model (see c3s3-seg models), or the folder of a bundle."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=model_names)]
Backend = Annotated[
    BackendName,
    typer.Option(
        metavar=one_of(BackendName),
        help="Runtime. auto takes the fastest that is installed.",
        rich_help_panel=HARDWARE,
    ),
]
NetworkPrecision = Annotated[
    Precision,
    typer.Option(
        metavar=one_of(Precision),
        help="Precision of the network. auto: float32 on a CPU, float16 in torch on CUDA.",
        rich_help_panel=HARDWARE,
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What the process (or the GPU) may use, such as 8GB. Default: what is free.",
        rich_help_panel=HARDWARE,
    ),
]
Repair = Annotated[
    list[str] | None,
    typer.Option(
        metavar=one_of(choices.Repair),
        help="Repair a fault of the scan that is refused otherwise. May be repeated.",
        rich_help_panel=INPUT,
        autocompletion=one_word(get_args(choices.Repair)),
    ),
]
Series = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|UID|RULE",
        help="DICOM series: its number in c3s3-seg inspect, its UID, or a rule that it must fit, such as"
        " 'modality=MR,description~lge' (docs/inputs.md).",
        rich_help_panel=INPUT,
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, metavar="NUMBER", help="Processes to use.", rich_help_panel=BATCH)
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON on stdout in place of tables.", rich_help_panel=MESSAGES),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Append each event to this file as a JSON line, with its time.",
        rich_help_panel=MESSAGES,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors.", rich_help_panel=MESSAGES)]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Report each step and its time on stderr.", rich_help_panel=MESSAGES),
]
Html = Annotated[
    bool,
    typer.Option(
        "--html", help="Write an HTML report too: one file, no network access.", rich_help_panel=OUTPUT
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the configuration, such as run.iterations=100. May be repeated.",
        rich_help_panel=SETTINGS,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Model whose networks the training starts from.",
        rich_help_panel=SETTINGS,
        autocompletion=model_names,
    ),
]


def out(help: str, metavar: str = "FOLDER") -> Any:
    """Return the option `-o`, the output path."""
    return typer.Option("-o", "--out", metavar=metavar, help=help, rich_help_panel=OUTPUT)
