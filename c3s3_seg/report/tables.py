"""Write `cases.csv` and `report.json`: to a temporary file, synced and only then moved into place."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from c3s3_seg.metrics.paired_tests import Paired
from c3s3_seg.metrics.results import CaseScore, PaperScore
from c3s3_seg.metrics.statistics import Cohort, cohorts
from c3s3_seg.report.rows import Failure
from c3s3_seg.system.choices import ScoreProtocol
from c3s3_seg.system.csv_table import csv_bytes
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.schema import plain

PROTOCOLS = {
    "clinical": "Distances in mm; a missed label costs an infinite distance, never dropped uncounted.",
    "paper": "Voxel units as in the published evaluations; an empty prediction counts as 0 in every column.",
}

DEFINITIONS = {
    "surface": "A mask minus its erosion by the 6-neighbour cross, outside of the image being background; "
    "distances run between voxel centres.",
    "dice": "Twice the common volume divided by the sum of both volumes; 1 where both masks are empty.",
    "jaccard": "The common volume divided by the volume of the union; 1 where both masks are empty.",
    "hd95_mm": "95th percentile (linear interpolation) of the surface distances both ways pooled, in mm.",
    "hd95_max_mm": "Larger of the 95th percentiles of the two directions, in mm.",
    "hd_mm": "Largest surface distance of both directions (Hausdorff distance), in mm.",
    "asd_mm": "Mean distance from the prediction's surface to the truth's, one direction, in mm.",
    "assd_mm": "Mean surface distance of both directions pooled, in mm.",
    "masd_mm": "Mean of the mean surface distances of the two directions, in mm.",
    "nsd": "Share of the surface voxels of both masks within the tolerance of the other surface; "
    "nsd_1mm is for 1 mm.",
    "nsd_area": "As nsd, but the share of the area of both surfaces, with elements at the corners of voxels "
    "(Nikolov et al. 2021, the package surface-distance).",
    "volume_ml": "Volume of the prediction in ml.",
    "truth_ml": "Volume of the truth in ml.",
    "volume_error_ml": "Volume of the prediction minus that of the truth, in ml.",
    "absolute_error_ml": "In comparisons: the size of volume_error_ml, without its sign, in ml.",
    "hd95_vox": "95th percentile of the surface distances of both directions pooled, in voxels.",
    "asd_vox": "Mean distance from the prediction's surface to the truth's, one direction, in voxels.",
    "optimistic": "1 where the prediction was empty, the truth was not, and the distances count as 0.",
}

# Definitions that differ in the published evaluations.
PAPER_DEFINITIONS = {
    "dice": "Twice the common volume divided by the sum of both volumes; 0 where the prediction is empty, "
    "even where the truth is empty too.",
    "jaccard": "The common volume divided by the volume of the union; 0 where the prediction is empty, even "
    "where the truth is empty too.",
    "hd95_vox": f"{DEFINITIONS['hd95_vox'][:-1]}; 0 where the prediction is empty.",
    "asd_vox": f"{DEFINITIONS['asd_vox'][:-1]}; 0 where the prediction is empty.",
}

CONVENTIONS = {
    "inf": 'An infinite number (one of two masks is empty) is the string "inf".',
    "nan": "A number that is not defined (both masks empty, too few cases) is null; in cases.csv it is nan.",
    "statistics": "mean, sd, median, q1 and q3 are of the finite values; n counts all cases, infinite and "
    "undefined those left out; mean_penalised counts the image diagonal for each infinite distance, and for "
    "each miss that the protocol paper counts as 0.",
    "both_empty": "cases in which both masks are empty: in the protocol paper they are in every mean as 0, "
    "in clinical as a Dice and Jaccard of 1, without distances.",
    "comparison": "paired by case: difference is this set minus the other, with its interval; p is of the "
    "Wilcoxon signed-rank test, two-sided; n counts the pairs of finite values, and cases without one in "
    "both are left out; missed and against_missed count empty predictions of either set where the truth is "
    "not: their distances are 0 in the protocol paper, and left out in clinical; "
    "both_empty and against_both_empty count those that are empty like the truth.",
    "p": "differences below a millionth of the value are 0 and left out; differences equal to a billionth of "
    "the largest share their mean rank; exact distribution up to 50 differing cases, ties included, then the "
    "normal approximation with continuity correction; not corrected for the number of metrics and labels.",
    "percentiles": "every percentile (95HD, quartiles, bootstrap) interpolates linearly between values.",
    "notes": "what was found when the masks of a case were read, and what was done to them: rounding; on "
    "request resampling to the truth's grid.",
    "remarks": "labels that predictions hold and no truth does, and labels that no mask holds; the model, "
    "where all predictions are those of one; labels that only one of two compared sets has.",
    "interval": "low and high are the 95% interval of the mean: null below 5 finite values, Student t from 5 "
    "to 29, percentile bootstrap (2,000 resamples, fixed seed) from 30 on. Its ends are not beyond the "
    "values that the metric can have, such as 0 to 1; those of a difference are not cut.",
}


def write_cases_csv(path: Path, rows: Sequence[CaseScore]) -> None:
    """Write one line for each case and label: `case`, `label`, then the columns of its score.

    Parameters
    ----------
    path
        File to write or replace: UTF-8, comma-separated, decimal point, infinite `inf`, undefined `nan`.
    rows
        Scores, all of one protocol. If empty, the file has the first two column names alone.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row.score.flat()))
    lines: list[list[object]] = [["case", "label", *columns]]
    for row in rows:
        values = row.score.flat()
        lines.append([row.case, row.label, *(values.get(name, math.nan) for name in columns)])
    write_whole(path, csv_bytes(lines))


def write_report_json(
    path: Path,
    rows: Sequence[CaseScore],
    failures: Sequence[Failure],
    *,
    protocol: ScoreProtocol,
    comparison: Sequence[Paired] = (),
    remarks: Sequence[str] = (),
) -> None:
    """Write the whole evaluation with the definition of each number, for a program or a later reader.

    Parameters
    ----------
    path
        File to write or replace. The same rows give the same bytes.
    rows, failures
        Scores, and cases that could not be measured; either may be empty and is then an empty list.
    protocol
        Protocol by which the rows were measured.
    comparison
        Comparison with another set of predictions, if there is one.
    remarks
        Remarks on the labels of the whole set.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    report = {
        "software": {"name": "c3s3-seg", "version": software_version()},
        "protocol": {"name": protocol, "meaning": PROTOCOLS[protocol]},
        "definitions": definitions_of(rows, comparison),
        "conventions": CONVENTIONS,
        "cohorts": [_cohort_entry(cohort) for cohort in cohorts(rows)],
        "cases": [{"case": row.case, "label": row.label, **row.score.flat()} for row in rows],
        "comparison": [asdict(paired) for paired in comparison],
        "remarks": list(remarks),
        "notes": [{"case": case, "note": note} for case, note in notes_of(rows)],
        "failures": [{"case": failure.case, "reason": failure.reason} for failure in failures],
    }
    text = json.dumps(plain(report), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text + "\n").encode("utf-8", "backslashreplace"))  # file names need not be Unicode


def definitions_of(rows: Sequence[CaseScore], comparison: Sequence[Paired] = ()) -> dict[str, str]:
    """Return the definitions of the columns of rows and of a comparison, and the definition of a surface."""
    columns = [name for row in rows for name in row.score.flat()]
    used = dict.fromkeys(_definition(name) for name in (*columns, *(pair.metric for pair in comparison)))
    paper = any(isinstance(row.score, PaperScore) for row in rows)
    defined = DEFINITIONS | (PAPER_DEFINITIONS if paper else {})
    return {name: defined[name] for name in ("surface", *used)}


def notes_of(rows: Sequence[CaseScore]) -> list[tuple[str, str]]:
    """Return pairs (case, note on its masks), each pair once."""
    return list(dict.fromkeys((row.case, note) for row in rows for note in row.notes))


def _cohort_entry(cohort: Cohort) -> dict[str, Any]:
    entry = asdict(cohort)
    return entry | {"metrics": {name: asdict(numbers) for name, numbers in cohort.metrics}}


def _definition(column: str) -> str:
    if column.startswith("nsd_area_"):
        return "nsd_area"
    return "nsd" if column.startswith("nsd_") else column


def today() -> str:
    """Return the date in UTC, YYYY-MM-DD."""
    return datetime.now(UTC).date().isoformat()


def software_version() -> str:
    """Return the installed version of this package; "unknown" if it is not installed."""
    try:
        return version("c3s3-seg")
    except PackageNotFoundError:
        return "unknown"
