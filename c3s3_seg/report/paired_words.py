"""Word the remarks on a comparison: the number of cases in it, and of empty masks."""

from __future__ import annotations

from collections.abc import Sequence

from c3s3_seg.metrics.paired_tests import Paired


def counted(pair: Paired) -> str:
    """Return the number of cases compared, and of those left out if any."""
    return f"{pair.n} ({pair.left_out} left out)" if pair.left_out else str(pair.n)


def empty_of_both(pairs: Sequence[Paired]) -> str | None:
    """Return a sentence for each label on empty predictions that count as 0; None if there are none."""
    found = dict.fromkeys((p.label, p.missed, p.against_missed) for p in pairs)
    lines = [
        f"{label}: {missed} of these predictions and {against} of the others were empty and count as a"
        " distance of 0, which makes a mean distance better."
        for label, missed, against in found
        if missed or against
    ]
    return " ".join(lines) or None
