"""Word the remarks on a comparison: the number of cases in it, and of empty masks."""

from __future__ import annotations

from collections.abc import Sequence

from c3s3_seg.metrics.paired_tests import Paired


def counted(pair: Paired) -> str:
    """Return the number of cases compared, and of those left out if any."""
    return f"{pair.n} ({pair.left_out} left out)" if pair.left_out else str(pair.n)


def empty_of_both(pairs: Sequence[Paired]) -> str | None:
    """Return sentences on the empty predictions of each label; None if there are none.

    The protocol `paper`, which alone has distances in voxels, counts them as 0; `clinical` leaves them out.
    """
    lines = [
        f"{pair.label}: {pair.missed} of these predictions and {pair.against_missed} of the others were empty"
        " where the truth is not. They have no distance, so these cases are left out of all distances of both"
        " sets, which makes those of the set that missed more look better."
        for pair in {pair.label: pair for pair in pairs if pair.metric == "hd95_mm"}.values()
        if pair.missed or pair.against_missed
    ]
    for pair in {pair.label: pair for pair in pairs if pair.metric == "hd95_vox"}.values():
        if pair.missed or pair.against_missed:
            lines.append(
                f"{pair.label}: {pair.missed} of these predictions and {pair.against_missed} of the others"
                " were empty and count as a distance of 0, which makes a mean distance better."
            )
        if pair.both_empty or pair.against_both_empty:
            lines.append(
                f"{pair.label}: {pair.both_empty} of these predictions and {pair.against_both_empty} of the"
                " others are empty like the truth and count as 0 in every column, which makes a mean Dice"
                " worse and a mean distance better."
            )
    return " ".join(lines) or None
