"""Measure the data set that a bundle was trained on: its scans, and the volumes in its labelled cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.dataset import INDEX, DataSet
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
    index = DataSet.load(data)
    aside = bundle.manifest.training.get("config", {}).get("data", {}).get("validation_from_unlabelled", 0)
    splits = index.splits.put_aside(aside)
    if not splits.labelled:
        raise InputError("names no labelled case", where=data / INDEX)
    volumes: dict[str, list[float]] = {name: [] for name in bundle.task.label_values}

    def scans() -> Iterator[Volume]:
        for name in splits.labelled + splits.unlabelled:
            if tell is not None:
                tell(name)
            scan = load(index.scan(name))
            yield scan
            if name in splits.labelled:
                mask = load_mask(index.mask(name), grid=scan.geometry)
                counts = np.bincount(mask.array.ravel(), minlength=256)
                for label, value in bundle.task.label_values.items():
                    volumes[label].append(float(counts[value]) * scan.geometry.voxel_ml)

    rule = bundle.task.recipe.intensity.rule
    found = measure(scans(), "absolute" if rule == "window" else "scaled")
    ranges = {name: (round(min(v), 3), round(max(v), 3)) for name, v in volumes.items()}
    return replace(found, volume_ml=ranges)
