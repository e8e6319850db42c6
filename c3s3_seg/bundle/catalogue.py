"""List the available models, each with its requirements and its scores: `c3s3-seg models`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.bundle.manifest_file import MANIFEST, MANIFEST_BYTES
from c3s3_seg.bundle.store import ModelBundle, shipped_bundles
from c3s3_seg.errors import InputError
from c3s3_seg.system.reading import read_json

Range = tuple[float, float]


@dataclass(frozen=True)
class ModelSummary:
    """The summary of a model.

    Parameters
    ----------
    name
        Value for `--model`: the name of a shipped model, or the folder of another one.
    modality, labels
        Modality of its scans, and names of the labels that it segments.
    grid_mm
        Spacing (x, y, z) of the model's grid.
    spacing_mm, fov_mm
        Smallest and largest spacing and field of view (x, y, z) of the training scans; None if the domain
        was not measured.
    networks
        Number of networks, without those of a linked bundle.
    linked
        Name of the linked bundle, or None.
    dice, hd95_vox, cases
        Means of the primary network over labels and validation cases, and the number of cases; None if the
        bundle does not record them. 95HD is in voxels of the scans' own grids, as training measures it; a
        missed organ makes it infinite.
    scores_of
        Name of the model with these scores, if this model was also trained on the validation cases: that
        model was trained in the same way without them. None: the scores are of this model.
    size_bytes
        Size of its files, manifest included.
    """

    name: str
    modality: str
    labels: tuple[str, ...]
    grid_mm: tuple[float, ...]
    spacing_mm: tuple[Range, ...] | None
    fov_mm: tuple[Range, ...] | None
    networks: int
    linked: str | None
    dice: float | None
    hd95_vox: float | None
    cases: int | None
    scores_of: str | None
    size_bytes: int


def find_models(folders: Iterable[Path] = ()) -> list[str]:
    """Return the values for `--model`: the shipped models, then each bundle at or below the folders.

    A manifest without weights beside it, or a task and networks in it, is of another program and skipped.

    Raises
    ------
    InputError
        If one of `folders` is not a folder.
    """
    found = shipped_bundles()
    for folder in folders:
        if not folder.is_dir():
            known = str(folder) in found
            todo = f"For the card of a shipped model: c3s3-seg models --card {folder}" if known else None
            raise InputError("there is no such folder", where=folder, todo=todo)
        found += [_as_folder(path.parent) for path in sorted(folder.rglob(MANIFEST)) if _is_ours(path)]
    return found


def _is_ours(manifest: Path) -> bool:
    """Return whether a manifest is that of a bundle: other programs have files of this name too."""
    if any(manifest.parent.glob("*.safetensors")):
        return True
    try:
        data = read_json(manifest, MANIFEST_BYTES)
    except InputError:
        return False
    return isinstance(data, dict) and {"task", "networks"} <= set(data)


def _as_folder(place: Path) -> str:
    """Return the path of a folder, with `./` if it is also the name of a shipped model."""
    return os.path.join(".", place) if str(place) in shipped_bundles() else str(place)


def summarize(name: str) -> ModelSummary:
    """Return the summary of a model.

    Raises
    ------
    InputError
        If there is no such model, or its bundle is damaged.
    """
    bundle = ModelBundle.find(name)
    task, domain = bundle.task, bundle.task.domain
    grid_mm = tuple(task.recipe.spacing_mm)
    score = _validation(bundle)
    files = (MANIFEST, *bundle.manifest.files)
    return ModelSummary(
        name,
        task.modality,
        tuple(label.name for label in task.labels),
        grid_mm,
        None if domain is None else tuple(domain.spacing_mm),
        None if domain is None else tuple(domain.fov_mm),
        len(bundle.networks),
        bundle.manifest.linked_bundle,
        _number(score.get("dice")),
        _number(score.get("hd95_vox")),
        _count(score.get("validation", bundle.manifest.training.get("cases", {}).get("validation"))),
        score.get("of"),
        sum((bundle.folder / file).stat().st_size for file in files),
    )


def _validation(bundle: ModelBundle) -> dict[str, Any]:
    """Return the primary network's record: with the bundle's own tiles if measured, else of training."""
    training = bundle.manifest.training
    found = (training.get(f"validation_{of}") for of in ("default", "kept", "last"))
    records: list[dict[str, Any]] = next(filter(None, found), [])
    own = [r for r in records if r.get("candidate") == bundle.networks[0].candidate]
    return dict((own or records or [{}])[0])


def _count(value: Any) -> int | None:
    """Return a number of cases from JSON; None for any other value, such as a table of that name."""
    return value if isinstance(value, int) else None


def _number(value: Any) -> float | None:
    """Return a score from JSON, to which `schema.plain` writes infinity as "inf" and NaN as null."""
    if value in ("inf", "-inf"):
        return float(value)
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # an integer with hundreds of digits is not a score
        return None
