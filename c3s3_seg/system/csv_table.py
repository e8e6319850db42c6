"""Write tables as CSV, with text from outside: file names, labels, errors."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from c3s3_seg.system.names import printable

# Cells that begin with one of these are formulas for a spreadsheet (OWASP, "CSV injection"); the last four
# are the same signs in full width, which some programs accept too.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan")


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Return a table as CSV: UTF-8, comma, decimal point; text that a spreadsheet would run is escaped.

    Parameters
    ----------
    rows
        Rows of cells. Numbers, and text that is a number, such as "-1.5", stay as they are. Other text is
        written with control characters escaped, and an apostrophe before a sign that begins a formula.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    # A file name need not be Unicode; a table must be.
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: object) -> object:
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
