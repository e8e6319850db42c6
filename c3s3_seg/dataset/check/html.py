"""Write the findings of a data set check to files: JSON for programs, one HTML file for people."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np

from c3s3_seg.dataset.check.check import DataSetCheck
from c3s3_seg.dataset.index import DataSet
from c3s3_seg.errors import C3S3Error
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.report.figures import Dot, spread
from c3s3_seg.report.findings import Finding, Severity, summary
from c3s3_seg.report.outlines import COLOURS, LabelOutline
from c3s3_seg.report.overlay import planes_webp
from c3s3_seg.report.page import image, key, page
from c3s3_seg.report.tables import software_version
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.names import printable
from c3s3_seg.system.progress import Progress

PICTURES = 40  # findings with pictures; the page lists all
LABELS = 4  # labels with a diagram of volumes

MEANINGS: dict[Severity, str] = {
    "error": "Nothing sound can be trained on these as they are.",
    "warning": "Look at each of these: the case may be correct.",
    "info": "Good to know.",
}
HEADINGS: dict[Severity, str] = {"error": "Errors", "warning": "Warnings", "info": "Notes"}


def write_check_json(path: Path, found: DataSetCheck) -> None:
    """Write all findings, and the measurements of each case.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    cases = []
    for case in found.cases:
        row: dict[str, object] = {"case": case.name, "kind": case.kind, "read": case.summary is not None}
        if case.summary is not None:
            row |= {
                "shape": list(case.summary.shape),
                "spacing_mm": case.summary.spacing_mm.round(5).tolist(),
            }
            row |= {"axes": case.summary.axes}
        if case.mask is not None:
            row["volumes_ml"] = {name: round(ml, 4) for name, ml in case.mask.volumes_ml.items()}
        cases.append(row)
    content = {
        "software": {"name": "c3s3-seg", "version": software_version()},
        "data_set": found.data.name,
        "findings": [asdict(finding) for finding in found.findings],
        "cases": cases,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode("utf-8", "backslashreplace"))  # file names need not be Unicode


def write_check_page(path: Path, found: DataSetCheck, *, progress: Progress | None = None) -> None:
    """Write the page.

    Parameters
    ----------
    path
        HTML file; an existing one is replaced. The same data set gives the same bytes.
    found
        Result to show. Scans are read again for the pictures, one at a time.
    progress
        Called after each picture.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    drawn = [f for f in found.findings if f.shown][:PICTURES]
    pictures = {}
    for number, finding in enumerate(drawn):
        pictures[id(finding)] = _figures(found.data, finding)
        if progress:
            progress(f"picture of {finding.cases[0]}", number + 1, len(drawn))
    title = printable(f"{found.data.name or found.data.folder.resolve().name}: data set check")
    parts = [_head(title, found), _diagrams(found)]
    for severity, heading in HEADINGS.items():
        rows = [f for f in found.findings if f.severity == severity]
        if rows:
            parts.append(f'<h2>{heading}</h2><p class="lead">{MEANINGS[severity]}</p>')
            parts += [_finding(f, pictures.get(id(f), "")) for f in rows]
    write_whole(path, page(title, f"<main>{''.join(parts)}</main>"))


def _head(title: str, found: DataSetCheck) -> str:
    splits = found.data.splits
    errors, warnings = (sum(f.severity == s for f in found.findings) for s in ("error", "warning"))
    numbers = [
        (len(found.cases), "cases examined"),
        (len(splits.labelled), "labelled"),
        (len(splits.unlabelled), "unlabelled"),
        (len(splits.validation), "for validation"),
        *([(len(splits.test), "for the test")] if splits.test else []),
        (errors, "error" if errors == 1 else "errors"),
        (warnings, "warning" if warnings == 1 else "warnings"),
    ]
    tiles = "".join(f'<div class="tile"><b>{n}</b><span>{word}</span></div>' for n, word in numbers)
    said = escape(summary(len(found.cases), found.findings))
    return (
        f'<header><h1>{escape(title)}</h1><p class="lead">{said}. '
        f"c3s3-seg {escape(software_version())}; what each check looks for is in docs/data-doctor.md.</p>"
        f'</header><div class="tiles">{tiles}</div>'
    )


def _diagrams(found: DataSetCheck) -> str:
    """Return diagrams of label volumes, with each case as a dot that links to its first finding."""
    links: dict[str, str] = {}
    for finding in reversed(found.findings):
        links |= dict.fromkeys(finding.cases, _anchor(finding))
    masks = [(case.name, case.mask) for case in found.cases if case.mask is not None]
    labels = list(dict.fromkeys(label for _, mask in masks for label in mask.volumes_ml))[:LABELS]
    drawn = []
    for label in labels:
        dots = [
            Dot(0.0, mask.volumes_ml[label], printable(name), links.get(name, ""))
            for name, mask in masks
            if mask.volumes_ml.get(label)
        ]
        drawn.append(spread(dots, f"{printable(label)} (ml)"))
    return f'<h2>Volumes</h2><div class="diagrams few">{"".join(drawn)}</div>' if drawn else ""


def _finding(finding: Finding, pictures: str) -> str:
    names = ", ".join(finding.cases[:12]) or "the data set"
    more = f" and {len(finding.cases) - 12} more" if len(finding.cases) > 12 else ""
    rows = (("Found", finding.found), ("Wanted", finding.wanted), ("What to do", finding.todo))
    listed = "".join(f"<dt>{name}</dt><dd>{_text(text)}</dd>" for name, text in rows if text)
    opened = "" if finding.severity == "info" else " open"
    return (
        f'<details class="case" id="{_anchor(finding)}"{opened}><summary>'
        f'<span class="badge {finding.severity}">{escape(finding.check)}</span><b>{_text(names + more)}</b>'
        f'</summary><div class="finding"><dl>{listed}</dl>{pictures}</div></details>'
    )


def _text(words: str) -> str:
    """Return text from a data set in a form for HTML: without markup and control characters."""
    return escape(printable(words))


def _anchor(finding: Finding) -> str:
    """Return an HTML id that is the same for the same finding, whatever the files are called."""
    text = json.dumps([finding.check, finding.cases, finding.found])
    return "f-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _figures(data: DataSet, finding: Finding) -> str:
    drawn = [
        _figure(data, name, finding.at if n == 0 else None, usual=name not in finding.cases)
        for n, name in enumerate(finding.shown)
    ]
    return f'<div class="shown">{"".join(drawn)}</div>'


def _figure(data: DataSet, name: str, at: tuple[int, int, int] | None, *, usual: bool) -> str:
    """Return three planes of a case with its mask; empty if the scan cannot be read."""
    try:
        scan = load(data.scan(name))
    except C3S3Error:
        return ""
    masks = _masks(data, name, scan)
    keys = "".join(key(printable(outline.name), outline.colour) for outline in masks)
    through = at if masks else None
    nothing = LabelOutline("", np.zeros(scan.geometry.shape, dtype=bool), COLOURS[0])
    picture = planes_webp(scan, masks or [nothing], through)
    words = f"{name}{', a usual case to compare with' if usual else ''}. L is the patient's left."
    shown = image(picture, f"Three planes of {printable(name)}")
    return f'<figure class="planes">{shown}<figcaption>{keys}{_text(words)}</figcaption></figure>'


def _masks(data: DataSet, name: str, scan: Volume) -> list[LabelOutline]:
    """Return the outline of each label; values without a name are shown by number."""
    try:
        mask = load_mask(data.mask(name), grid=scan.geometry)
    except C3S3Error:
        return []
    names = {value: label for label, value in data.labels.items()}
    values = [int(value) for value in np.unique(mask.array) if value]
    return [
        LabelOutline(names.get(value, f"value {value}"), mask.array, colour, value)
        for value, colour in zip(values, COLOURS, strict=False)
    ]
