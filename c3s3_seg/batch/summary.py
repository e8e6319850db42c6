"""Build summary.csv: one line per case and label, and the cases that failed with their reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.system.csv_table import csv_bytes
from c3s3_seg.system.shard import Shard

# docs/operations.md describes each column. `system.ownership` knows the file by columns 1 to 4 and the last.
RESULT = (
    "case",
    "label",
    "volume_ml",
    "seconds",
    "verdict",
    "warnings",
    "forced",
    "empty",
    "uncertainty_mm",
    "uncertainty_limit_mm",
    "uncertain",
    "model",
    "version",
)
# Columns of `metrics.scoring.Score.flat` except the volume. Without a truth they are present and empty, so
# that the tables of many runs have the same columns.
SCORES = (
    "dice",
    "jaccard",
    "hd95_mm",
    "hd95_max_mm",
    "hd_mm",
    "asd_mm",
    "assd_mm",
    "masd_mm",
    "nsd_1mm",
    "nsd_2mm",
    "truth_ml",
    "volume_error_ml",
)
HEADER = (*RESULT, *SCORES, "error")
YES_NO = {True: "yes", False: "no", None: ""}


def table_name(shard: Shard | None) -> str:
    """Return the name of the table of a run, or of one share of its cases."""
    return "summary.csv" if shard is None else f"summary.{shard}.csv"


def summary(rows: Sequence[PredictionRow], failures: Sequence[Failure], *, times: bool = True) -> bytes:
    """Return the file's content, UTF-8. Its header is the same for every request.

    Parameters
    ----------
    rows
        Results of the predicted cases.
    failures
        Failed cases with their reasons.
    times
        Whether seconds are written; without them a second run gives the same bytes.
    """
    lines: list[Sequence[object]] = [HEADER]
    lines += [line for row in rows for line in _lines(row, times)]
    for failure in failures:
        known = {"case": failure.case, "verdict": failure.verdict, "error": failure.reason}
        lines.append([known.get(name, "") for name in HEADER])
    return csv_bytes(lines)


def _lines(row: PredictionRow, times: bool) -> Iterator[Sequence[object]]:
    scores = {score.label: score.score.flat() for score in row.scores}
    uncertainty_mm = dict(row.uncertainty_mm)
    limit_mm = row.uncertainty_limit_mm
    for label, volume_ml in row.volumes_ml:
        measured = scores.get(label, {})
        yield (
            row.case,
            label,
            f"{volume_ml:.3f}",
            f"{row.seconds_s:.2f}" if times else "",
            row.verdict,
            " | ".join(row.warnings),
            YES_NO[row.forced],
            YES_NO[row.empty],
            f"{uncertainty_mm[label]:.3f}" if label in uncertainty_mm else "",
            "" if limit_mm is None else f"{limit_mm:.3f}",
            YES_NO[row.uncertain],
            row.model,
            row.version,
            *(measured.get(name, "") for name in SCORES),
            "nothing found" if row.empty else "",
        )
