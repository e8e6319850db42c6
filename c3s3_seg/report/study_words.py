"""Write the rows of a study in words: as a Markdown table, and the cells that all its tables share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from c3s3_seg.metrics.paired_tests import Paired
from c3s3_seg.report.numbers import probability
from c3s3_seg.report.study_table import StudyRow

MIXED = (
    "The runs were not made under the same conditions, so their minutes and scores are not fully comparable:"
)
SHOWN = (("dice", 3), ("hd95_vox", 2), ("asd_vox", 2))  # metrics and their decimals


def study_markdown(rows_of: Mapping[str, Sequence[StudyRow]], mixed: Sequence[str] = ()) -> str:
    """Return the tables as Markdown for a README or a log.

    Parameters
    ----------
    rows_of
        Reference -> rows with the differences from it, one reference at least. The table of the scores has
        the differences from the first one; each further reference has a table of its own.
    mixed
        Lines of `mixture`, to follow the table of the scores.
    """
    (reference, rows), *further = rows_of.items()
    head = ["method", "net", "seeds", "iterations", "min a run", "Dice", "95HD (voxel)", "ASD (voxel)"]
    head += ["cases", "empty", "infinite", *_difference_heads(reference)]
    text = _markdown(head, [[*_score_cells(row), *_difference_cells(row)] for row in rows])
    text += "".join(f"\n{line}\n" for line in study_remarks(rows))
    if mixed:
        text += "\n".join([f"\n{MIXED}\n", *(f"- {line}" for line in mixed), ""])
    for other, compared in further:
        head = ["method", "net", *_difference_heads(other)]
        cells = [[row.entry, row.net, *_difference_cells(row)] for row in compared if row.against]
        text += f"\nDifferences from {other}:\n\n{_markdown(head, cells)}"
    return text


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""])


def _score_cells(row: StudyRow) -> list[str]:
    cells = [row.entry, row.net, str(row.seeds), str(row.iterations), f"{row.seconds / 60:.0f}"]
    cells += [spread_words(row, metric, decimals) for metric, decimals in SHOWN]
    return [*cells, cases_words(row), str(row.missed), str(row.infinite)]


def _difference_heads(reference: str) -> list[str]:
    return [f"{name} minus {reference} [95 %], p, cases" for name in ("Dice", "95HD")]


def _difference_cells(row: StudyRow) -> list[str]:
    return [difference_words(row, "dice", 3), difference_words(row, "hd95_vox", 2)]


OVER_CASES = (
    "Differences pair the cases, each averaged over the seeds. Intervals and p are over cases: they say"
    " nothing of other seeds or other labelled cases. No p is corrected for the number of tests."
)


def study_remarks(rows: Sequence[StudyRow]) -> list[str]:
    """Return a sentence each on the unit of the tests, and on predictions in the means as 0 and in none."""
    missed, infinite = (sum(getattr(row, key) for row in rows) for key in ("missed", "infinite"))
    lines = [OVER_CASES] if any(row.against for row in rows) else []
    if missed:
        lines.append(
            f"{missed} predictions were empty; this protocol counts them as (0, 0, 0, 0): they make the Dice"
            " of their row worse and its distances better."
        )
    if infinite:
        lines.append(
            f"{infinite} infinite distances (a label that the truth does not have) are in no mean; where a"
            " case has other values it is averaged over these."
        )
    if nothing := sum(row.left_out["dice"] for row in rows):
        lines.append(f"{nothing} predictions were empty like the truth and are in no mean.")
    return lines


def spread_words(row: StudyRow, metric: str, decimals: int) -> str:
    """Return the mean and, for several seeds, its standard deviation over them."""
    text = f"{row.mean[metric]:.{decimals}f}"
    return text if math.isnan(row.spread[metric]) else f"{text} ± {row.spread[metric]:.{decimals}f}"


def cases_words(row: StudyRow) -> str:
    """Return the number of cases in the means, and the number of distances left out if any."""
    n, distances, left_out = row.n["dice"], row.n["hd95_vox"], row.left_out["hd95_vox"]
    return f"{n} (distances: {distances}, {left_out} values left out)" if left_out else str(n)


def difference_words(row: StudyRow, metric: str, decimals: int) -> str:
    """Return the difference from the reference with interval, p and number of cases; "" if there is none."""
    pair = row.against.get(metric)
    if pair is None:
        return ""
    if math.isnan(pair.difference):
        return f"no finite pair, {difference_cases(row, pair)}"
    ends = "no interval" if math.isnan(pair.low) else f"{pair.low:+.{decimals}f}, {pair.high:+.{decimals}f}"
    return f"{pair.difference:+.{decimals}f} [{ends}], {probability(pair.p)}, {difference_cases(row, pair)}"


def difference_cases(row: StudyRow, pair: Paired) -> str:
    """Return the cases of a difference, values left out, and the number of common seeds if not all are."""
    values = f" ({pair.left_out} values left out)" if pair.left_out else ""
    return f"{pair.n}{values}" + (f" ({row.common} common seeds)" if row.common < row.seeds else "")
