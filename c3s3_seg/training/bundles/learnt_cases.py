"""The cases that the networks of a bundle have learnt from, by the hashes of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

from c3s3_seg.bundle import ModelBundle

TRAINED, INHERITED = "training_case_hashes", "inherited_case_hashes"  # keys of a training record


def name_hash(case: str) -> str:
    """Return 16 digits of the SHA-256 of a case's name, by which a bundle knows the cases it learnt from."""
    return hashlib.sha256(case.encode()).hexdigest()[:16]


def training_records(bundle: ModelBundle) -> list[dict[str, Any]]:
    """Return the training records of all networks of a bundle: with those of a linked bundle and of members.

    Raises
    ------
    InputError
        If the linked bundle is missing, damaged, or for another task.
    """
    homes = {home.folder: home.manifest.training for home, _ in bundle.members()}
    return [
        record
        for own in homes.values()
        for record in (own, *(member.get("training", {}) for member in own.get("ensemble", ())))
    ]


def learnt_hashes(bundle: ModelBundle) -> set[str]:
    """Return the `name_hash` of the cases that some network of a bundle has learnt from.

    With those of the bundles that the runs began from, and of their teachers. Older bundles record no cases.

    Raises
    ------
    InputError
        Same as in `training_records`.
    """
    records = training_records(bundle)
    return {digest for record in records for key in (TRAINED, INHERITED) for digest in record.get(key, ())}


def among(cases: Iterable[str], hashes: Collection[str]) -> list[str]:
    """Return the cases whose names have one of the hashes."""
    return [case for case in cases if name_hash(case) in hashes]
