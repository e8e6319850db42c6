"""`c3s3-seg prepare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c3s3_seg.commands.console import Bar, say, show, shown
from c3s3_seg.errors import listed, public
from c3s3_seg.system.choices import UncorrectedUse

if TYPE_CHECKING:
    from rich.table import Table

    from c3s3_seg.dataset.prepare.pipeline import PreparedDataSet

SPLITS = ("labelled", "unlabelled", "validation", "test")
MOST = 8  # cases that a line lists


def prepare(
    source: Annotated[Path, typer.Argument(help="A folder with scans and masks, in whatever order.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the data set.")],
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE,...", help="The labels; two names of one value are one label."),
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="The patient in a scan's path: its first group, or all of it. Default: DICOM's PatientID; of"
            " image files BIDS subjects, the folder of each subject, or names without visit and frame.",
        ),
    ] = None,
    validation: Annotated[
        int | None, typer.Option(min=0, help="Patients that are not in training. Default: about 1 in 10.")
    ] = None,
    seed: Annotated[int, typer.Option(help="What draws them.")] = 0,
    modality: Annotated[
        str | None, typer.Option(help="Take this one alone (MR, CT, PT); of image files: what they are.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Take DICOM series alone that are described so.")
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Pass over files with such a path. May be repeated."),
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option(help="As for predict: gaps, tilt, orthonormal. May be repeated.")
    ] = None,
    empty_masks: Annotated[
        bool, typer.Option("--empty-masks", help="Learn from masks that hold nothing but background.")
    ] = False,
    predictions: Annotated[
        UncorrectedUse,
        typer.Option(
            help="What masks of predict become that were not corrected: labels of their scans, or nothing.",
        ),
    ] = "labels",
    name: Annotated[str | None, typer.Option(help="Of the data set. Default: its folder's name.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and write.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The table as JSON.")] = False,
) -> None:
    """Make a data set to train on from a folder of scans, some of them with masks."""
    from c3s3_seg.dataset.labels import Labels
    from c3s3_seg.dataset.prepare.assemble import PrepareSettings
    from c3s3_seg.dataset.prepare.discover import Search
    from c3s3_seg.dataset.prepare.pipeline import prepare as run
    from c3s3_seg.io.reading import fixes

    search = Search(
        _rule(modality, series),
        fixes(fix or []),
        tuple(leave_out or ()),
        workers,
        predictions=predictions,
    )
    known = Labels.parse(labels) if labels is not None else None
    kind = (modality or "").upper()
    settings = PrepareSettings(search, known, patient, validation, seed, name or "", kind, empty_masks)
    with Bar() as bar:
        result = run(source, out, settings, bar, dry=dry_run)
    if as_json:
        from json import dumps

        for line in dumps(_facts(result), indent=1).splitlines():
            say(line)
    else:
        for table in _tables(result):
            show(table)
        for line in _remarks(result, dry_run):
            say(line)
    if not result.patients:
        raise typer.Exit(2)
    if result.refused:
        raise typer.Exit(1)


def _rule(modality: str | None, series: str | None) -> Any:
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.reading import SeriesRule

    try:
        return SeriesRule(modality, series) if modality or series else None
    except ValueError as error:
        raise InputError(f"--series is not {error}") from None


def _tables(result: PreparedDataSet) -> list[Table]:
    """Cases and patients of each split; then what is refused, with its reason."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from c3s3_seg.report.terminal import cell

    facts = _facts(result)
    table = Table("For", "Cases", "Patients", box=SIMPLE_HEAD, pad_edge=False)
    for split in SPLITS:
        if facts[split]["cases"] or split != "test":
            table.add_row(split, str(facts[split]["cases"]), str(facts[split]["patients"]))
    if not result.refused:
        return [table]
    refused = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in (f"Refused ({len(result.refused)})", "Reason"):
        refused.add_column(header, overflow="fold")
    for item in result.refused:
        refused.add_row(*(cell(shown(text, sys.stdout)) for text in (item.place, item.reason)))
    return [table, refused]


def _remarks(result: PreparedDataSet, dry: bool) -> list[str]:
    """What the table does not say."""
    data = result.data
    labels = ", ".join(f"{name} = {value}" for name, value in data.labels.items()) or "none"
    lines = [
        f"{result.found} scans found; {len(result.patients)} taken, {result.masks} of them with masks, of"
        f" {len(set(result.patients.values()))} patients. Labels: {labels}."
    ]
    if result.kept or result.again:
        lines.append(
            f"{result.kept} cases were there already; {len(result.again)} had changed and were made again."
        )
    lines += _corrections(result) + _assumptions(result)
    lines += [f"Passed over: {count} {reason}." for reason, count in result.passed.items()]
    if result.gone:
        gone = listed(result.gone, MOST)
        lines.append(f"No longer in the source, and left out of the index; their files are kept: {gone}.")
    if not result.patients:
        lines.append("There is nothing here to make a data set of.")
    elif not data.splits.labelled:
        lines.append("No case has a mask to learn from.")
    elif not data.splits.validation:
        lines.append("No case is for validation. --validation N draws N patients with masks for it.")
    if dry:
        lines.append("Nothing was written.")
    elif result.patients:
        lines.append(f"The data set is {data.folder}. Next: c3s3-seg doctor {data.folder}")
    return lines


def _corrections(result: PreparedDataSet) -> list[str]:
    """Which masks come from `predict`."""
    lines = []
    if result.corrected:
        cases = listed(result.corrected, MOST)
        lines.append(f"{len(result.corrected)} masks are corrections of predictions ({cases}).")
    if result.uncorrected:
        cases = listed(result.uncorrected, MOST)
        lines.append(
            f"{len(result.uncorrected)} masks are predictions that were not corrected ({cases}): they are"
            " trained on as they are, and never used for validation. --predictions unlabelled leaves the"
            " masks out."
        )
    return lines


def _assumptions(result: PreparedDataSet) -> list[str]:
    """Of whom the scans are, and what else was taken for granted."""
    from c3s3_seg.dataset.patients import BIDS, COPY, FOLDER, OWN, SERIAL, STEM

    lines = [
        f"Patients: {scans} scans of {patients} patients, by {rule}."
        for rule, (scans, patients) in result.patients_by.items()
    ]
    if set(result.patients_by) & {FOLDER, STEM, COPY, SERIAL, OWN, BIDS}:
        lines.append("--patient REGEX says otherwise of whom a scan is.")
    lines += [f"Assumed: {sentence}." for sentence in result.assumed]
    if result.overlaps:
        lines.append(
            f"In {len(result.overlaps)} cases structures overlap ({listed(result.overlaps, MOST)}): such"
            " voxels have the label that --labels names later; the notes in dataset.json count them."
        )
    if result.empty and not result.data.empty_masks:
        lines.append(
            f"{len(result.empty)} cases have a mask of background alone ({listed(result.empty, MOST)}),"
            " which train refuses to learn from. --empty-masks learns from them; --leave-out PATTERN leaves"
            " them out."
        )
    return lines


def _facts(result: PreparedDataSet) -> dict[str, Any]:
    """The table as JSON."""
    data = result.data
    facts: dict[str, Any] = {"found": result.found, "labels": dict(data.labels), "modality": data.modality}
    for split in SPLITS:
        cases = getattr(data.splits, split)
        facts[split] = {"cases": len(cases), "patients": len({result.patients[case] for case in cases})}
    facts["with_masks"] = result.masks
    facts["refused"] = [
        {"place": public(item.place), "reason": public(item.reason)} for item in result.refused
    ]
    facts["passed_over"] = dict(result.passed)
    facts["patients_by"] = {rule: {"scans": n, "patients": m} for rule, (n, m) in result.patients_by.items()}
    facts |= {"assumed": list(result.assumed), "overlaps": list(result.overlaps), "empty": list(result.empty)}
    facts |= {"corrected": list(result.corrected), "uncorrected": list(result.uncorrected)}
    return {**facts, "kept": result.kept, "again": sorted(result.again), "gone": list(result.gone)}
