"""Check, before anything is predicted, that the given truths are masks of the model's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from c3s3_seg.batch.job import Model
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.predictor import Predictor

TODO = "Give truths with the values of the model"


def check_truths(truths: Sequence[Path], model: Predictor | Model) -> None:
    """Raise if no truth can be compared with the model's labels.

    A truth that cannot be read fails only its own case, and a case whose truth has other labels is a miss:
    whether the values are mixed up can only be decided from all truths.

    Raises
    ------
    InputError
        If the truths look like scans, or none of them holds a label of the model.
    """
    if not truths:
        return
    from c3s3_seg.io.mask_pair import load_labels
    from c3s3_seg.io.scan_like import refuse_scans
    from c3s3_seg.metrics.scoring import labels_in
    from c3s3_seg.report.label_values import listed_values

    refuse_scans(list(truths))
    task = ModelBundle.load(model.bundle).task if isinstance(model, Model) else model.task
    known = task.label_values
    held: set[int] = set()
    for path in truths:
        try:
            values = labels_in(load_labels(path))
        except C3S3Error:  # reported when its case is read
            continue
        if set(values) & set(known.values()):
            return
        held.update(values)
    if held:
        found = listed_values(held, {})
        names = {value: name for name, value in known.items()}
        what = f"no truth holds a label of the model, {listed_values(known.values(), names)}: found {found}"
        raise InputError(what, where=truths[0], todo=TODO)


def refuse_0_and_255(truth: Volume, labels: Mapping[str, int]) -> None:
    """Raise, before the network runs, if the only value of a truth is 255 and that is no label.

    Raises
    ------
    InputError
        If so; the error names the file.
    """
    from c3s3_seg.metrics.scoring import labels_in
    from c3s3_seg.report.label_values import listed_values

    if 255 not in labels.values() and labels_in(truth) == (255,):
        names = {value: name for name, value in labels.items()}
        what = f"the truth holds 0 and 255; wanted {listed_values(labels.values(), names)}"
        raise InputError(what, where=truth.source.path, todo=TODO)
