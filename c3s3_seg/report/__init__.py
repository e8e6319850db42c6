"""What was measured, for people and for programs: tables on disk and on screen, statistics, pictures."""

from __future__ import annotations

from c3s3_seg.report.cohort import Cohort, Statistics, cohorts, statistics
from c3s3_seg.report.compare import Paired, compare
from c3s3_seg.report.picture import overlay_png
from c3s3_seg.report.rows import CaseScore, Failure, PredictionRow, Protocol
from c3s3_seg.report.tables import write_cases_csv, write_report_json
from c3s3_seg.report.terminal import comparison_table, evaluation_table, prediction_table

__all__ = [
    "CaseScore",
    "Cohort",
    "Failure",
    "Paired",
    "PredictionRow",
    "Protocol",
    "Statistics",
    "cohorts",
    "compare",
    "comparison_table",
    "evaluation_table",
    "overlay_png",
    "prediction_table",
    "statistics",
    "write_cases_csv",
    "write_report_json",
]
