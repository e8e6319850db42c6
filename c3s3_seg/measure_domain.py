"""Measure the data set that a bundle was trained on: its scans, and the volumes in its labelled cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.domain import Domain, measure
from c3s3_seg.errors import InputError
from c3s3_seg.io import load, load_mask
from c3s3_seg.volume import Volume


def measure_data(bundle: ModelBundle, data: Path, tell: Callable[[str], None] | None = None) -> Domain:
    """Measure the labelled and unlabelled cases of a data set; validation cases are left out.

    Parameters
    ----------
    bundle
        Says which labels there are, whether grey values have a unit, and how many unlabelled cases
        were put aside for validation.
    data
        A folder with `dataset.json`, `imagesTr` and `labelsTr`.
    tell
        Called with each case before it is read.

    Raises
    ------
    InputError
        If there is no data set, or a case cannot be read.
    """
    path = data / "dataset.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", where=path) from error
    labelled, unlabelled = list(index.get("labelled", [])), list(index.get("unlabelled", []))
    aside = bundle.manifest.training.get("config", {}).get("data", {}).get("validation_from_unlabelled", 0)
    if not index.get("validation") and aside:
        unlabelled = unlabelled[:-aside]
    if not labelled:
        raise InputError("names no labelled case", where=path)
    volumes: dict[str, list[float]] = {name: [] for name in bundle.task.label_values}

    def scans() -> Iterator[Volume]:
        for name in [*labelled, *unlabelled]:
            if tell is not None:
                tell(name)
            scan = load(_file(data / "imagesTr", name))
            yield scan
            if name in labelled:
                mask = load_mask(_file(data / "labelsTr", name), grid=scan.geometry)
                counts = np.bincount(mask.array.ravel(), minlength=256)
                for label, value in bundle.task.label_values.items():
                    volumes[label].append(float(counts[value]) * scan.geometry.voxel_ml)

    rule = bundle.task.recipe.intensity.rule
    found = measure(scans(), "absolute" if rule == "window" else "scaled")
    ranges = {name: (round(min(v), 3), round(max(v), 3)) for name, v in volumes.items()}
    return replace(found, volume_ml=ranges)


def _file(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}.*"))
    if len(found) != 1:
        raise InputError(f"found {len(found)} files named '{name}', wanted one", where=folder)
    return found[0]
