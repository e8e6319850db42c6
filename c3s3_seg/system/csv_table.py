"""Tables as CSV, with text that comes from outside: file names, labels, errors."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from c3s3_seg.system.names import printable

# Cells that begin with one of these are formulas for a spreadsheet (OWASP, "CSV injection"); the last four
# are the same signs in full width, which some take for them.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan")


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows of a table as CSV: UTF-8, comma, point; text that a spreadsheet would run is made plain.

    Parameters
    ----------
    rows
        Numbers stay as they are, and so does text that is a number, such as "-1.5". Other text is written
        without control characters, and with an apostrophe before a sign that begins a formula.
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
