"""The cases that a run has learnt from through bundles: the one that it began from, and its teacher."""

from __future__ import annotations

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.dataset import Splits
from c3s3_seg.errors import quantity
from c3s3_seg.training.bundles.learnt_cases import among, learnt_hashes
from c3s3_seg.training.run import Run


def note_inherited(run: Run, start: ModelBundle | None) -> None:
    """Note the cases that the bundles of a fresh run were trained on in the history.

    Parameters
    ----------
    run
        The run; one that is resumed has the note already.
    start
        Bundle that the run begins from; None: random weights.

    Raises
    ------
    C3S3Error
        If the bundle of the teacher, or one that is linked, cannot be loaded.
    """
    if run.iteration > 0 or run.history.first("inherited") is not None:
        return
    teacher = ModelBundle.find(run.config.teacher.bundle) if run.config.teacher.bundle else None
    bundles = [bundle for bundle in (start, teacher) if bundle is not None]
    if hashes := {digest for bundle in bundles for digest in learnt_hashes(bundle)}:
        run.history.note(0, inherited=sorted(hashes))


def inherited_hashes(run: Run) -> list[str]:
    """Return the `name_hash` of these cases; empty without bundles, or if they do not record their cases."""
    return list(run.history.first("inherited") or ())


def seen_before(run: Run, splits: Splits) -> list[str]:
    """Return the card's warning of validation cases that these bundles were trained on, by their names."""
    seen = len(among(splits.validation, inherited_hashes(run)))
    if not seen:
        return []
    of = quantity(len(splits.validation), "validation case")
    have = "has the name" if seen == 1 else "have the names"
    return [
        f"{seen} of {of} {have} of cases that the teacher, or"
        " the bundle that the run began from, was trained on: the validation scores are optimistic"
    ]
