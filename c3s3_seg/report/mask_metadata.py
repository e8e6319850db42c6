"""What the JSON files that `predict` writes beside masks state: names and values of labels, the model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import scan_stem
from c3s3_seg.io.image.files import image_stem, image_suffix
from c3s3_seg.report.label_values import Labels
from c3s3_seg.report.rows import CaseFiles
from c3s3_seg.system.made_with import deciding
from c3s3_seg.system.ownership import read_case


def stated_values(masks: Iterable[Path]) -> dict[str, int]:
    """Return the values of the labels in image files.

    Parameters
    ----------
    masks
        Masks of both sides. DICOM SEG and RTSTRUCT are left out, because they name their labels themselves.

    Returns
    -------
    dict
        Name -> value, as the JSON beside each image file states. Empty if there is none.

    Raises
    ------
    InputError
        If a name has two values: masks whose values mean different labels cannot be compared.
    """
    values: dict[str, int] = {}
    known: dict[str, tuple[int, Path]] = {}
    for mask in dict.fromkeys(mask for mask in masks if image_suffix(mask)):
        for name, value in (case_metadata(mask) or {}).get("labels", {}).items():
            other, where = known.setdefault(name.casefold(), (value, mask))
            if other != value:
                raise InputError(
                    f"'{name}' has the value {value} here and {other} in {where}, by the JSON beside each",
                    where=mask,
                    todo="Give both the same values, or compare by values alone: --labels NAME=VALUE,...",
                )
            values[name] = value
    return values


def named_beside(labels: Labels, files: Sequence[CaseFiles]) -> Labels:
    """Return labels with names, from the JSON that `predict` writes beside each mask.

    Names take the place of `label_1` and the like if all such files agree on them.
    """
    names: dict[int, set[str]] = {}
    for case in files:
        metadata = case_metadata(case.prediction) or {}
        for name, value in metadata.get("labels", {}).items():
            names.setdefault(value, set()).add(name)
    agreed = {value: next(iter(found)) for value, found in names.items() if len(found) == 1}
    named = tuple((agreed.get(v, n) if n == f"label_{v}" else n, v) for n, v in labels)
    unique = len({name for name, _ in named}) == len(named)
    return named if unique else labels


def origin_remarks(files: Sequence[CaseFiles], *, references: bool) -> tuple[str, ...]:
    """Return remarks on the models that made the masks, as the JSON that `predict` writes beside each says.

    Means over the masks of several models say little about any of them; and references that a model made
    are often predictions in the wrong place.
    """
    made, total = _models([f.prediction for f in files]), len(files)
    wanted = _models([f.truth for f in files] if references else [])
    remarks: tuple[str, ...] = (
        (f"{_share(made, total)} predictions are those of {_named(made)}",) if made else ()
    )
    if wanted:
        asked = "" if made else "; predictions are given first, references second"
        whose = f"predictions of {_named(wanted)}, or corrections of them"
        remarks += (f"{_share(wanted, total)} references are {whose}{asked}",)
    return remarks


def _models(masks: Sequence[Path]) -> list[tuple[str, int]]:
    """Return name and number of masks of each model; with other weights or settings it is another one."""
    found = [metadata.get("made_with", {}) for mask in masks if (metadata := case_metadata(mask)) is not None]
    models = Counter(
        (str(made.get("bundle", "")), json.dumps(deciding(made), sort_keys=True)) for made in found
    )
    return [(name, count) for (name, _), count in models.most_common() if name]


def _share(models: Sequence[tuple[str, int]], total: int) -> str:
    known = sum(count for _, count in models)
    return "the" if known == total else f"{known} of the {total}"


def _named(models: Sequence[tuple[str, int]]) -> str:
    if len(models) == 1:
        return f"the model {models[0][0]}"
    counts = ", ".join(f"{name} ({count})" for name, count in models)
    return f"several models, or of one with several settings: {counts}"


def case_metadata(mask: Path) -> dict[str, Any] | None:
    """Return the case's JSON beside a mask; None if there is no readable one of this package."""
    from c3s3_seg.io.mask_files import mask_stem

    stem = scan_stem(image_stem(mask)) if image_suffix(mask) else mask_stem(mask)
    path = mask.with_name(f"{stem}.json")
    metadata = read_case(path)
    if metadata is None:
        return None
    labels, made_with = metadata.get("labels", {}), metadata.get("made_with", {})
    whole = isinstance(labels, dict) and isinstance(made_with, dict)
    return metadata if whole and all(isinstance(value, int) for value in labels.values()) else None
