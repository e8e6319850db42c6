"""Write many predicted cases on one HTML page, the most doubtful first; each links to its own page."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from c3s3_seg.report.numbers import column, in_page
from c3s3_seg.report.outlines import TRUTH, label_colours
from c3s3_seg.report.page import FOLDER_PAGE, failed, image, key, number_cell, page, table, text_cell
from c3s3_seg.report.prediction_page import still_of
from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.names import printable

THUMBNAIL = 600  # pixels of width
# Cases with a picture, from the top of the page. A picture takes some 0.1 s and 36 kB: those of 10,000 cases
# took 20 minutes, and a page of 360 MB.
PICTURES = 200


@dataclass(frozen=True)
class FolderCase:
    """One predicted case of many.

    Parameters
    ----------
    row
        Name, volumes, uncertainty and notes of the case.
    page
        The case's own page, in the folder of the page of all cases; None if there is none. It is linked, and
        read for the picture.
    """

    row: PredictionRow
    page: Path | None = None

    @property
    def most_mm(self) -> float:
        """The 95HD of the least sure label; inf if one network alone found it, -inf without a number."""
        values = [mm for _, mm in self.row.uncertainty_mm if not math.isnan(mm)]
        return max(values, default=-math.inf)

    @property
    def flagged(self) -> bool:
        """Whether the least sure label is beyond the limit."""
        return bool(self.row.uncertain)


def least_sure_first(cases: Iterable[FolderCase]) -> list[FolderCase]:
    """Return empty masks first, then forced cases, then by falling uncertainty, more notes, and name."""

    def place(case: FolderCase) -> tuple[bool, bool, float, int, str]:
        row = case.row
        return not row.empty, not row.forced, -case.most_mm, -len(row.cautions), row.case

    return sorted(cases, key=place)


def write_folder_page(
    path: Path, title: str, cases: Sequence[FolderCase], failures: Sequence[Failure], made: str = ""
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        HTML file to write or replace. The same cases give the same bytes.
    title
        Title of the page, written unchanged: no patient's name.
    cases
        Predicted cases, in any order.
    failures
        Cases without a mask, with reasons.
    made
        Model, version and date.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    ordered = least_sure_first(cases)
    measured = any(case.row.uncertainty_mm for case in ordered)
    order = f"Empty masks first, then forced cases, then by {'falling uncertainty' if measured else 'notes'}"
    limits = (case.row.uncertainty_limit_mm for case in ordered)
    limit = next((limit_mm for limit_mm in limits if limit_mm is not None), None)
    numbers = [(len(ordered), "predicted"), (sum(c.row.empty for c in ordered), "empty")]
    numbers.append((sum(c.row.forced for c in ordered), "forced: refused by the domain check"))
    if limit is not None:
        flagged = sum(case.flagged for case in ordered)
        numbers.append((flagged, f"less sure than the limit of {in_page(limit, 'uncertainty_mm')} mm"))
    numbers += [(sum(bool(c.row.cautions) for c in ordered), "with notes"), (len(failures), "failed")]
    tiles = "".join(f'<div class="tile"><b>{n}</b><span>{words}</span></div>' for n, words in numbers)
    body = (
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(made)}</p><p class="research">Research use '
        "only. Not a medical device. Made by a program; nobody has checked it.</p></header>"
        f'<div class="tiles row">{tiles}</div>{failed(failures, "failed") if failures else ""}'
        f'<h2>Cases</h2><p class="lead">{order}; a click on a header sorts. A picture leads to the case\'s '
        f"page.{_without_picture(len(ordered))}</p>{_key(ordered)}{_table(ordered, measured)}"
    )
    write_whole(path, page(title, f"<main>{body}</main>", FOLDER_PAGE))


def _without_picture(cases: int) -> str:
    """Return the sentence on the cases that have no picture; empty if there are none."""
    if cases <= PICTURES:
        return ""
    return f" Only the first {PICTURES} of the {cases} cases have one; of the others the name leads there."


def _key(cases: Sequence[FolderCase]) -> str:
    """Return the key of the outlines in the pictures; empty if no case has a page."""
    drawn = [case.row for case in cases if case.page]
    if not drawn:
        return ""
    colours = label_colours({label: 0 for label, _ in drawn[0].volumes_ml})
    truth = key("truth", TRUTH) if any(row.scores for row in drawn) else ""
    return f'<p class="lead">{"".join(key(name, colours[name]) for name in colours)} {truth}</p>'


def _table(cases: Sequence[FolderCase], measured: bool) -> str:
    labels = list(dict.fromkeys(label for case in cases for label, _ in case.row.volumes_ml))
    headers = ["Case", *([column("uncertainty_mm")[0]] if measured else []), *(f"{x} (ml)" for x in labels)]
    rows = []
    for n, case in enumerate(cases):
        volumes = dict(case.row.volumes_ml)
        cells = [_uncertainty(case)] if measured else []
        cells += [number_cell(volumes.get(label, math.nan), "volume_ml") for label in labels]
        cells = [*cells, _notes(case)]
        named = zip([*headers[1:], "Notes"], cells, strict=True)
        rows.append([_name(case, drawn=n < PICTURES), *(_named(name, cell) for name, cell in named)])
    return table([*headers, "Notes"], rows, sortable=True, kind="results") if rows else ""


def _named(header: str, cell: str) -> str:
    """Return a cell with its header in it, which a narrow window shows before the cell."""
    return cell.replace("<td", f'<td data-h="{escape(header, quote=True)}"', 1)


def _name(case: FolderCase, *, drawn: bool) -> str:
    name = printable(case.row.case)
    planes = _planes(case) if drawn else None
    picture = image(_thumbnail(planes), f"Three planes of {name}") if planes else ""
    inner = f"{picture}<span>{escape(name)}</span>"
    return f'<a href="{quote(os.fsencode(case.page.name))}">{inner}</a>' if case.page else inner


def _planes(case: FolderCase) -> bytes | None:
    """Return the WebP of three planes; None if the case's page has none or cannot be read."""
    with suppress(OSError):
        return still_of(case.page) if case.page else None
    return None


def _uncertainty(case: FolderCase) -> str:
    known = case.most_mm > -math.inf
    bad = ' class="bad"' if case.flagged or case.most_mm == math.inf else ""
    plain = case.most_mm if math.isfinite(case.most_mm) else "Infinity" if case.most_mm > 0 else "nan"
    shown = in_page(case.most_mm, "uncertainty_mm") if known else "–"
    return f'<td data-v="{plain}"{bad}>{shown}</td>'


def _notes(case: FolderCase) -> str:
    notes = case.row.cautions
    return text_cell("".join(f"<p>{escape(note)}</p>" for note in notes), order=len(notes))


def _thumbnail(planes: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(planes)) as whole:
        small = whole.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, format="WEBP", quality=75)
    return data.getvalue()
