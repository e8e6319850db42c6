"""Merge scans that occur twice, in any format, into one case, and their patients into one."""

from __future__ import annotations

from collections.abc import Mapping

from c3s3_seg.dataset.prepare.convert import Made
from c3s3_seg.dataset.prepare.inventory import Split


def find_copies(made: Mapping[str, Made], splits: Mapping[str, Split]) -> dict[str, str]:
    """Return case -> the case it copies: the first with these voxels.

    Test and validation cases with a mask, by the splits of the source, come before other cases with a mask,
    and these before cases without: a model must not learn from the copy of a scan that it is scored on.
    """
    first: dict[str, str] = {}
    copies = {}

    def rank(case: str) -> tuple[bool, bool]:
        masked = "label" in made[case].record.sha256
        return not (masked and splits.get(case) in ("test", "validation")), not masked

    for case in sorted(made, key=rank):
        content = made[case].record.voxels_sha256
        if first.setdefault(content, case) != case:
            copies[case] = first[content]
    return copies


def copy_reason(copy: Made, place: str) -> str:
    """Return why a copy of the scan at a place is refused; the copy may have a mask of its own."""
    unused = ", whose mask is taken in place of its own" if "label" in copy.record.sha256 else ""
    return f"it is a copy of {place}{unused}"


def one_patient(made: Mapping[str, Made], copies: Mapping[str, str]) -> dict[str, str]:
    """Return pseudonym -> pseudonym to keep: patients with the same scan are one person."""
    same: dict[str, str] = {}

    def first(patient: str) -> str:
        while patient in same:
            patient = same[patient]
        return patient

    for copy, case in copies.items():
        kept, other = sorted(first(made[name].record.patient) for name in (case, copy))
        if kept != other:
            same[other] = kept
    return {patient: first(patient) for patient in same}
