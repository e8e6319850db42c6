"""The text of `c3s3-seg --help`, and its page without Typer, whose import takes most of the time.

A test compares the page with the one that Typer makes of the same words.
"""

from __future__ import annotations

import textwrap

WIDEST = 120  # columns; longer lines are hard to read
NARROWEST = 50
FIRST = 26  # columns of the names; a longer one has a line of its own
PURPOSE = "3D medical image segmentation with sharp boundaries. Research use only; not a medical device."
EXIT_CODES = (
    "Exit codes: 0 success; 1 some cases failed, or a check found errors; 2 bad input; 3 not"
    " installed; 4 a defect of the program; 130 and 143 interrupted."
)
OPTIONS = {
    "--config FILE": "Configuration file with defaults of options; none: no file. Default: c3s3-seg.toml of"
    " the working folder, else of the user.",
    "--version": "Show the versions of this program and of the installed runtimes.",
    "--install-completion": "Install completion for the current shell (bash, zsh, fish, PowerShell).",
    "--show-completion": "Print the completion script of the current shell.",
}
HELP = {"--help": "Show this message and exit."}

# The summaries are those of the functions (tests compare them): `--help` imports no command.
COMMANDS = {
    "Segment": {
        "predict": "Segment scans. Each mask lies on the grid of its scan.",
        "evaluate": "Score masks against reference masks: Dice, 95HD, ASD and more.",
        "verify": "Compare masks, scans and weights with the SHA-256 recorded by predict.",
    },
    "Train": {
        "prepare": "Make a training data set from a folder of scans, some of them with masks.",
        "plan": "Propose a training configuration for a data set, with a reason for every value.",
        "train": "Train a model from a configuration. The result is the bundle OUT/bundle.",
        "study": "Train and score several methods and seeds. The same command resumes.",
    },
    "Models": {
        "models": "List the models: what each needs, its labels and its scores on validation.",
        "export": "Export a model to run without torch, and compare its masks with those of torch.",
        "ensemble": "Combine the primary networks of several models, which predict --ensemble averages.",
        "calibrate": "Measure the domain and the uncertainty limit of a model on its training data.",
        "benchmark": "Measure runtimes, threads and tile sizes on this machine.",
    },
    "PACS": {
        "fetch": "Fetch a study from a PACS by DIMSE or DICOMweb, all of it or nothing.",
        "send": "Send DICOM files to a PACS by DIMSE or DICOMweb; sending them again is safe.",
        "serve": "Segment studies from a folder or a PACS and store the results, until it is stopped.",
    },
    "Check": {
        "inspect": "List the series at a path, and why some of them cannot be read.",
        "check": "Check a data set before training: files, grids, masks, intensities, duplicates.",
        "config": "Show the defaults in effect and where each comes from, or print an example file.",
        "doctor": "Check this installation: versions, devices, models, and a phantom from end to end.",
    },
    "Demo": {"phantom": "Simulate a scan of the heart with a known left atrium."},
}


def page(columns: int) -> str:
    """Return the page of `c3s3-seg --help` for a terminal of this width."""
    width = max(min(columns, WIDEST) - 2, NARROWEST)
    parts = ["Usage: c3s3-seg [OPTIONS] COMMAND [ARGS]...", _paragraph(PURPOSE, width)]
    # The commands have one width of the first column, the options another.
    parts += _sections(COMMANDS, width) + _sections({"Options": OPTIONS | HELP}, width)
    return "\n\n".join((*parts, _paragraph(EXIT_CODES, width))) + "\n"


def _paragraph(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ")


def _sections(panels: dict[str, dict[str, str]], width: int) -> list[str]:
    """Return each heading, with its names and their texts below it."""
    names = [name for rows in panels.values() for name in rows]
    first = max(len(name) for name in names if len(name) <= FIRST)
    made = []
    for heading, rows in panels.items():
        lines = [f"{heading}:"]
        for name, text in rows.items():
            folded = textwrap.wrap(text, max(width - first - 4, 10))
            lines += [
                f"  {name.ljust(first)}  {folded[0]}",
                *(" " * (first + 4) + line for line in folded[1:]),
            ]
        made.append("\n".join(lines))
    return made
