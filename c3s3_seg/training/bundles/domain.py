"""Measure the domain of a bundle: its training scans, and the volumes in their masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from c3s3_seg.bundle import ModelBundle, Task
from c3s3_seg.bundle.domain import Domain, measure
from c3s3_seg.dataset import INDEX, DataSet, Splits
from c3s3_seg.dataset.check.case_faults import refuse_scaled
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.system.progress import Progress
from c3s3_seg.system.schema import parse
from c3s3_seg.training.bundles.learnt_cases import TRAINED, among
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.settings import DataConfig

AS_THEN = "Give the data set as it was then: no case that was trained on may decide on the limit"


def measure_domain(task: Task, data: DataSet, splits: Splits, report: Progress | None = None) -> Domain:
    """Measure the labelled and unlabelled cases of a data set; validation cases are left out.

    Parameters
    ----------
    task
        Task that names the labels; intensities have a unit if its recipe has a window.
    data
        Data set of the cases.
    splits
        Names of the cases that were trained on.
    report
        Called with each case before it is read.

    Raises
    ------
    InputError
        If no case is labelled, there are fewer than two cases, one cannot be read, or a mask holds 255 in
        place of a label.
    """
    if not splits.labelled:
        raise InputError("names no labelled case", where=data.folder / INDEX)
    volumes: dict[str, list[float]] = {name: [] for name in task.label_values}

    def scans() -> Iterator[Volume]:
        for name in splits.labelled + splits.unlabelled:
            if report is not None:
                report(name)
            scan = load(data.scan(name))
            yield scan
            if name in splits.labelled:
                mask = load_mask(data.mask(name), grid=scan.geometry)
                refuse_scaled(mask, task, data)  # its volume would be 0
                counts = np.bincount(mask.array.ravel(), minlength=256)
                for label, value in task.label_values.items():
                    volumes[label].append(float(counts[value]) * scan.geometry.voxel_ml)

    rule = task.recipe.intensity.rule
    found = measure(scans(), "absolute" if rule == "window" else "scaled")
    ranges = {name: (round(min(v), 3), round(max(v), 3)) for name, v in volumes.items()}
    return replace(found, volume_ml=ranges)


def trained_splits(bundle: ModelBundle, folder: Path) -> tuple[DataSet, Splits]:
    """Return a data set, and the cases that a bundle was trained on, from its recorded configuration.

    For an ensemble: the cases that some member was trained on, and the validation cases of the index.

    Parameters
    ----------
    bundle
        Bundle; if it does not record its configuration, the index alone decides.
    folder
        Folder of the data set.

    Raises
    ------
    InputError, ConfigError
        Same as in `read_splits`; also if a validation case was trained on, or the data set has the cases that
        the bundle was validated on, but is no longer divided as it was.
    """
    record = bundle.manifest.training
    splits_of = _splits_of_ensemble if "ensemble" in record else _splits_of_run
    return splits_of(record, folder, bundle.folder)


def _splits_of_ensemble(record: dict[str, Any], folder: Path, where: Path) -> tuple[DataSet, Splits]:
    recorded = {**record.get("config", {}).get("data", {}), "fold": None}
    members = [member.get("training", {}) for member in record["ensemble"]]
    learnt = [digest for member in members for digest in member.get(TRAINED, ())]
    together = {"config": {"data": recorded}, TRAINED: learnt}
    data, whole = _splits_of_run(together, folder, where)
    runs = [_splits_of_run(member, folder, where)[1] for member in members] or [whole]
    labelled = dict.fromkeys(case for run in runs for case in run.labelled)
    others = dict.fromkeys(case for run in runs for case in run.unlabelled if case not in labelled)
    return data, replace(whole, labelled=tuple(labelled), unlabelled=tuple(others))


def _splits_of_run(record: dict[str, Any], folder: Path, where: Path) -> tuple[DataSet, Splits]:
    """Return the splits of the run with this training record; no unlabelled case if it used labels alone."""
    known = {field.name for field in fields(DataConfig)}
    recorded = record.get("config", {}).get("data", {})
    wanted = {key: value for key, value in recorded.items() if key in known} | {"folder": str(folder)}
    data, splits = read_splits(parse(DataConfig, wanted, where))
    _check_division(record, data, splits)
    if record.get("cases", {}).get("unlabelled") == 0:
        splits = replace(splits, unlabelled=())
    return data, splits


def _check_division(record: dict[str, Any], data: DataSet, splits: Splits) -> None:
    """Raise an InputError if the run's data set has other training and validation cases than then.

    A limit would be measured on cases that were trained on. Another data set is accepted. Bundles without the
    names' hashes are older; without validation cases, only the number of their labelled cases is compared.
    """
    hashes = set(record.get(TRAINED, ()))
    for case in among(splits.validation, hashes):
        what = f"has {case!r} among the validation cases, and the model was trained on it"
        raise InputError(what, where=data.folder / INDEX, todo=AS_THEN)
    validated = {case for cases in record.get("validation_cases", {}).values() for case in cases}
    if (validated or hashes) and validated.isdisjoint(data.splits.cases):
        return
    labelled = record.get("cases", {}).get("labelled", len(splits.labelled))
    if validated in (set(), {*splits.validation}) and labelled == len(splits.labelled):
        return
    raise InputError(
        f"divides into {len(splits.labelled)} labelled and {len(splits.validation)} validation cases; the"
        f" model was trained on {labelled} and validated on {len(validated)}, some of them others",
        where=data.folder / INDEX,
        todo=AS_THEN,
    )


def merge_domains(domains: Sequence[Domain | None]) -> Domain | None:
    """Return the domain of an ensemble: ranges span those of the members, quantiles are their mean.

    Return None if a member has no domain. `scans` is the largest, since folds share most; so is `spread`.
    """
    known = [domain for domain in domains if domain is not None]
    if len(known) < len(domains) or not known:
        return None
    quantiles = np.mean([domain.quantiles for domain in known], axis=0)
    names = {name for domain in known for name in domain.volume_ml or {}}
    volumes = {
        name: _span([d.volume_ml[name] for d in known if d.volume_ml and name in d.volume_ml])
        for name in sorted(names)
    }
    return replace(
        known[0],
        scans=max(domain.scans for domain in known),
        spacing_mm=_spans([domain.spacing_mm for domain in known]),
        fov_mm=_spans([domain.fov_mm for domain in known]),
        shape=_spans([domain.shape for domain in known]),
        quantiles=tuple(round(float(q), 5) for q in quantiles),
        spread=max(domain.spread for domain in known),
        volume_ml=volumes or None,
    )


N = TypeVar("N", int, float)


def _span(ranges: Sequence[tuple[N, N]]) -> tuple[N, N]:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _spans(
    ranges: Sequence[tuple[tuple[N, N], tuple[N, N], tuple[N, N]]],
) -> tuple[tuple[N, N], tuple[N, N], tuple[N, N]]:
    x, y, z = (_span([axes[n] for axes in ranges]) for n in range(3))
    return x, y, z
