"""`c3s3-seg prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import Bar, command_of, if_stopped, report_failures, say, say_json, show
from c3s3_seg.errors import listed, public, quantity
from c3s3_seg.system.choices import UncorrectedUse

if TYPE_CHECKING:
    from rich.table import Table

    from c3s3_seg.dataset.prepare.result import PreparedDataSet
    from c3s3_seg.io.reading import SeriesRule

PATIENTS = "Patients"  # a heading of the help
MOST = 8  # cases that a line lists


def prepare(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with scans and masks, in any layout.")
    ],
    out: Annotated[Path, options.out("Folder of the data set.")],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Labels of the masks. Several names may have one value.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="MR|CT|PT",
            help="Take only DICOM series of this modality. For image files: their modality. MRI is MR.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Take only DICOM series that fit a rule, such as 'description~lge' (docs/inputs.md).",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out files that match: a path relative to FOLDER, or the name of a file or folder; *"
            " matches any text. May be repeated.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    repair: options.Repair = None,
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Finds the patient in a scan's path: the first group, or the whole match. Default: the DICOM"
            " PatientID; of image files the BIDS subject, the subject's folder, or the file name without"
            " visit and frame.",
            rich_help_panel=PATIENTS,
        ),
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Patients held out for validation. Default: about 1 in 10.",
            rich_help_panel=PATIENTS,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="NUMBER", help="Seed of the random choice of these patients.", rich_help_panel=PATIENTS
        ),
    ] = 0,
    empty_masks: Annotated[
        bool | None,
        typer.Option(
            "--empty-masks/--no-empty-masks",
            help="Train on masks that hold only background too. Default: as dataset.json has it, or not.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    predictions: Annotated[
        UncorrectedUse,
        typer.Option(
            metavar=options.one_of(UncorrectedUse),
            help="Use masks of predict that were not corrected as labels, or take their scans as unlabelled.",
            rich_help_panel=options.INPUT,
        ),
    ] = "labels",
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the data set. Default: as dataset.json has it, or that of its folder.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    workers: options.Workers = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Report what would be done; write nothing.", rich_help_panel=options.BATCH
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Make a training data set from a folder of scans, some of them with masks."""
    from c3s3_seg.dataset.labels import Labels
    from c3s3_seg.dataset.prepare.assemble import PrepareSettings
    from c3s3_seg.dataset.prepare.discover import Search
    from c3s3_seg.dataset.prepare.pipeline import prepare as run
    from c3s3_seg.io.reading import repairs
    from c3s3_seg.report.rows import Failure

    kind = _code(modality) if modality is not None else ""
    search = Search(
        _rule(kind, series),
        repairs(repair or []),
        tuple(leave_out or ()),
        workers,
        predictions=predictions,
    )
    known = Labels.parse(labels) if labels is not None else None
    settings = PrepareSettings(search, known, patient, validation, seed, name or "", kind, empty_masks)
    with if_stopped(), Bar() as bar:
        result = run(source, out, settings, bar, dry=dry_run)
    if as_json:
        say_json(_as_json(result))
    else:
        show(_table(result))
        report_failures([Failure(item.place, item.reason) for item in result.refused], "refused")
        for line in _remarks(result, dry_run):
            say(line)
    if not result.patients:
        raise typer.Exit(2)
    if result.refused:
        raise typer.Exit(1)


def _code(modality: str) -> str:
    """Return a modality as DICOM has it: predict looks for series by this code.

    Raises
    ------
    InputError
        If the text can be no modality.
    """
    from c3s3_seg.bundle.manifest import MODALITY
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.modality import SPELLINGS

    word = modality.strip().upper()
    if MODALITY.fullmatch(word) is None:
        raise InputError(f"--modality is '{modality}'; wanted a DICOM modality such as MR, CT or PT")
    return SPELLINGS.get(word, word)


def _rule(modality: str, series: str | None) -> SeriesRule | None:
    """Return both options as one rule; refuse a number or UID, which folders of an archive do not share."""
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.reading import FORM, SeriesRule, parse_series

    wanted = [f"modality={modality}"] if modality else []
    if series is not None:
        rule = parse_series(series)
        if not isinstance(rule, SeriesRule):
            raise InputError(
                f"--series is '{series}'; of a folder of many scans, wanted a rule such as {FORM}"
            )
        wanted.append(rule.text)
    parsed = parse_series(",".join(wanted)) if wanted else None
    return parsed if isinstance(parsed, SeriesRule) else None


def _table(result: PreparedDataSet) -> Table:
    """Return a table of the cases and patients of each split."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from c3s3_seg.dataset.index import SPLITS

    content = _as_json(result)
    table = Table("For", "Cases", "Patients", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for split in SPLITS:
        if content[split]["cases"] or split != "test":
            table.add_row(split, str(content[split]["cases"]), str(content[split]["patients"]))
    return table


def _remarks(result: PreparedDataSet, dry: bool) -> list[str]:
    """Return the lines below the table: counts, assumptions and the next step."""
    data = result.data
    labels = ", ".join(f"{name} = {value}" for name, value in data.labels.items()) or "none"
    lines = [
        f"{quantity(result.found, 'scan')} found; {len(result.patients)} taken, {result.masks} of them with"
        f" masks, of {quantity(len(set(result.patients.values())), 'patient')}. Labels: {labels}."
    ]
    if result.kept or result.again:
        lines.append(
            f"Already there: {quantity(result.kept, 'case')}; changed and made again: {len(result.again)}."
        )
    lines += _corrections(result) + _assumptions(result)
    if result.moved:
        lines.append(
            f"Labelled before, now for validation: {listed(result.moved, MOST)}. A model that was trained on"
            " the earlier data set has seen them."
        )
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
        lines.append(f"The data set is {data.folder}. Next: {command_of('check', data.folder)}")
    return lines


def _corrections(result: PreparedDataSet) -> list[str]:
    """Return lines on the masks that come from `predict`."""
    lines = []
    if result.corrected:
        cases = listed(result.corrected, MOST)
        lines.append(f"Corrections of predictions: {quantity(len(result.corrected), 'mask')} ({cases}).")
    if result.uncorrected:
        cases = listed(result.uncorrected, MOST)
        lines.append(
            f"Predictions that were not corrected: {quantity(len(result.uncorrected), 'mask')} ({cases})."
            " They are trained on as they are, and never used for validation. --predictions unlabelled leaves"
            " the masks out."
        )
    return lines


def _assumptions(result: PreparedDataSet) -> list[str]:
    """Return lines on the patients of the scans, other assumptions, overlaps and empty masks."""
    from c3s3_seg.dataset.patients import BIDS, COPY, FOLDER, OWN, SERIAL, STEM

    lines = [
        f"Patients: {quantity(scans, 'scan')} of {quantity(patients, 'patient')}, by {rule}."
        for rule, (scans, patients) in result.patients_by.items()
    ]
    if set(result.patients_by) & {FOLDER, STEM, COPY, SERIAL, OWN, BIDS}:
        lines.append("--patient REGEX says otherwise of whom a scan is.")
    lines += [f"Assumed: {sentence}." for sentence in result.assumed]
    if result.overlaps:
        lines.append(
            f"Structures overlap: {quantity(len(result.overlaps), 'case')} ({listed(result.overlaps, MOST)});"
            " such voxels have the label that --labels names later; the notes in dataset.json count them."
        )
    if result.empty and not result.data.empty_masks:
        lines.append(
            f"Mask of background alone: {quantity(len(result.empty), 'case')} ({listed(result.empty, MOST)}),"
            " which train refuses to learn from. --empty-masks learns from them; --leave-out PATTERN leaves"
            " them out."
        )
    return lines


def _as_json(result: PreparedDataSet) -> dict[str, Any]:
    """Return the table and the remarks as JSON."""
    from c3s3_seg.dataset.index import SPLITS

    data = result.data
    content: dict[str, Any] = {"found": result.found, "labels": dict(data.labels), "modality": data.modality}
    for split in SPLITS:
        cases = getattr(data.splits, split)
        content[split] = {"cases": len(cases), "patients": len({result.patients[case] for case in cases})}
    content["with_masks"] = result.masks
    content["refused"] = [
        {"place": public(item.place), "reason": public(item.reason)} for item in result.refused
    ]
    content["passed_over"] = dict(result.passed)
    content["patients_by"] = {
        rule: {"scans": n, "patients": m} for rule, (n, m) in result.patients_by.items()
    }
    content |= {
        "assumed": list(result.assumed),
        "overlaps": list(result.overlaps),
        "empty": list(result.empty),
    }
    content |= {"corrected": list(result.corrected), "uncorrected": list(result.uncorrected)}
    return {
        **content,
        "kept": result.kept,
        "again": sorted(result.again),
        "gone": list(result.gone),
        "moved": list(result.moved),
    }
