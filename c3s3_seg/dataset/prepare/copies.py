"""Scans that are there twice, in whatever format: one case, and its patients are one."""

from __future__ import annotations

from collections.abc import Mapping

from c3s3_seg.dataset.prepare.convert import Made


def find_copies(made: Mapping[str, Made]) -> dict[str, str]:
    """Case -> the case that it is a copy of: the first with these voxels, one with a mask before others."""
    first: dict[str, str] = {}
    copies = {}
    with_masks_first = sorted(made, key=lambda case: "label" not in made[case].record.sha256)
    for case in with_masks_first:
        content = made[case].record.voxels_sha256
        if first.setdefault(content, case) != case:
            copies[case] = first[content]
    return copies


def copy_reason(copy: Made, place: str) -> str:
    """What becomes of a copy of the scan at a place; its mask may be another one."""
    unused = ", whose mask is taken in place of its own" if "label" in copy.record.sha256 else ""
    return f"it is a copy of {place}{unused}"


def one_patient(made: Mapping[str, Made], copies: Mapping[str, str]) -> dict[str, str]:
    """Pseudonym -> that of the same person: whoever is in the same scan is one patient."""
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
