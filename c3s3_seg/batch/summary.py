"""summary.csv: one line a case and label, and the cases that failed with their reasons."""

from __future__ import annotations

from collections.abc import Sequence

from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.system.files import csv_bytes


def summary(rows: Sequence[PredictionRow], failures: Sequence[Failure], *, times: bool = True) -> bytes:
    """The file's content, UTF-8.

    Parameters
    ----------
    rows
        What was predicted.
    failures
        What was not, and why.
    times
        Whether seconds are written; without them a second run gives the same bytes.
    """
    scored = [score.score.flat() for row in rows for score in row.scores]
    columns = list(scored[0]) if scored else []
    rest = [c for c in columns if c != "volume_ml"]
    lines: list[list[object]] = [["case", "label", "volume_ml", "seconds", *rest, "error"]]
    for row in rows:
        values = {score.label: score.score.flat() for score in row.scores}
        spent = f"{row.seconds_s:.2f}" if times else ""
        error = "nothing found" if row.empty else ""
        for label, volume in row.volumes_ml:
            numbers = [values[label][c] if label in values else "" for c in rest]
            lines.append([row.case, label, f"{volume:.3f}", spent, *numbers, error])
    for failure in failures:
        lines.append([failure.case, "", "", "", *[""] * len(rest), failure.reason])
    return csv_bytes(lines)
