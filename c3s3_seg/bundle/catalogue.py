"""The models that are there, each with what it needs and how good it was: `c3s3-seg models`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.bundle.store import MANIFEST, ModelBundle, shipped_bundles
from c3s3_seg.errors import InputError
from c3s3_seg.system.reading import read_json

Range = tuple[float, float]


@dataclass(frozen=True)
class ModelSummary:
    """One model.

    Parameters
    ----------
    name
        What `--model` takes: of a shipped model its name, of another its folder.
    modality, labels
        What it segments.
    grid_mm
        Spacing (i, j, k) of the grid on which the network works.
    spacing_mm, fov_mm
        Smallest and largest spacing and field of view (i, j, k) of the training scans; None where the domain
        was not measured.
    networks
        How many there are, those of a linked bundle left out.
    linked
        The linked bundle, or None.
    dice, hd95_vox, cases
        Means of the primary network over labels and cases of validation, and the number of cases; None where
        the bundle does not know. 95HD is in voxels of the scans' own grids, as training measures it; a
        missed organ makes it infinite.
    scores_of
        The model that these were measured with, where this one was trained on the validation cases
        too: that one was trained in the same way without them. None: this one.
    size_bytes
        Of its files.
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
    """What `--model` takes: the shipped models, then each bundle at or below the folders.

    A manifest of another program is passed over: one without weights beside it or a task in it.

    Raises
    ------
    InputError
        If one of them is no folder.
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
    """Whether a bundle was meant: other programs have files of this name too."""
    if any(manifest.parent.glob("*.safetensors")):
        return True
    try:
        data = read_json(manifest)
    except InputError:
        return False
    return isinstance(data, dict) and {"task", "networks"} <= set(data)


def _as_folder(place: Path) -> str:
    """Its path, so that it is not taken for the shipped model of the same name."""
    return os.path.join(".", place) if str(place) in shipped_bundles() else str(place)


def summarize(name: str) -> ModelSummary:
    """What is to be known of a model.

    Raises
    ------
    InputError
        If its bundle is damaged.
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
        score.get("validation", bundle.manifest.training.get("cases", {}).get("validation")),
        score.get("of"),
        sum((bundle.folder / file).stat().st_size for file in files),
    )


def _validation(bundle: ModelBundle) -> dict[str, Any]:
    """The record of the primary network: in the bundle's own tiles if that was measured, else of training."""
    training = bundle.manifest.training
    found = (training.get(f"validation_{of}") for of in ("default", "kept", "last"))
    records: list[dict[str, Any]] = next(filter(None, found), [])
    own = [r for r in records if r.get("candidate") == bundle.networks[0].candidate]
    return dict((own or records or [{}])[0])


def _number(value: Any) -> float | None:
    """A score as JSON has it: `schema.plain` writes infinity as "inf", and what is no number as null."""
    if value in ("inf", "-inf"):
        return float(value)
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # a whole number of hundreds of digits is no score
        return None
