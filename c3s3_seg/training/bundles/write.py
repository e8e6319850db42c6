"""Write the bundle of a finished run: weights, training record, card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from c3s3_seg.bundle import CARD, ModelBundle, Network
from c3s3_seg.bundle.domain import Domain
from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.errors import C3S3Error
from c3s3_seg.models.weights_format import to_bytes
from c3s3_seg.system.schema import dump, plain
from c3s3_seg.training.bundles.card import model_card
from c3s3_seg.training.bundles.domain import measure_domain
from c3s3_seg.training.bundles.inherited import inherited_hashes
from c3s3_seg.training.bundles.learnt_cases import INHERITED, TRAINED, name_hash
from c3s3_seg.training.data import uses_unlabelled
from c3s3_seg.training.folds import cases_sha256
from c3s3_seg.training.history import scored
from c3s3_seg.training.run import Run
from c3s3_seg.training.validation import Validation


def write_bundle(
    run: Run, data: DataSet, splits: Splits, results: list[Validation], warned: Callable[[str], None]
) -> ModelBundle:
    """Choose the candidate with the best mean Dice on validation and write `folder/bundle`.

    Without validation cases the first candidate is the primary network. The other one ships as the secondary
    network, unless `networks.ship` names only one. With `run.keep` = best each net ships with its weights at
    its best validation. `warned` is called with a text if the domain cannot be measured.
    """
    domain = _domain(run, data, splits, warned)
    kept = run.kept(results)
    scores = {record["candidate"]: record["dice"] for record in kept if isfinite(record["dice"])}
    candidates, shipped = run.method.candidates(), run.config.networks.shipped(run.config.method)
    order = sorted(shipped, key=lambda name: -scores.get(name, 0.0))
    networks: list[Network] = []
    files: dict[str, bytes] = {}
    for stem, name in zip(("model", "secondary"), order, strict=False):
        network = replace(candidates[name][1], stem=stem)
        networks.append(network)
        net = run.evaluated(name)
        if name in run.best:
            net.load_state_dict(run.best[name])
        files[network.weights] = to_bytes(net, run.config.networks.storage)
    training_record = _training_record(run, data, splits, results) | {
        "kept": run.config.run.keep,
        "validation_kept": kept,
        "validation_kept_cases": run.best_cases,
    }
    files[CARD] = model_card(run.config, networks, training_record).encode()
    task = replace(run.config.task, domain=domain)
    # JSON cannot hold infinity or NaN, which a distance may be.
    return ModelBundle.create(run.folder / "bundle", task, files, tuple(networks), plain(training_record))


def _domain(run: Run, data: DataSet, splits: Splits, warned: Callable[[str], None]) -> Domain | None:
    """Return the domain of the scans that were trained on.

    None, with a warning on the card, for one scan, which has no spread, and if a scan has no usable
    intensities or can no longer be read: a run of hours must not end without a bundle, and `calibrate` can
    add a domain later.
    """
    used = splits if _used(run, splits) else replace(splits, unlabelled=())
    try:
        if len(used.labelled) + len(used.unlabelled) > 1:
            return measure_domain(run.config.task, data, used)
        why = "one scan has no spread"
    except C3S3Error as error:
        why = f"{error.where.name}: {error.what}" if isinstance(error.where, Path) else error.what
    text = f"the bundle has no domain, so predict compares no scan with its training scans: {why}"
    run.warn(text)
    warned(text)
    return None


def _training_record(run: Run, data: DataSet, splits: Splits, results: list[Validation]) -> dict[str, Any]:
    return {
        "method": run.config.method,
        "precision": run.precision.name,
        "precision_why": run.precision.why,
        "warnings": run.history.warnings,
        "config": dump(run.config),
        "cases": {
            "labelled": len(splits.labelled),
            "unlabelled": _used(run, splits),
            "validation": len(splits.validation),
        },
        "divided_sha256": cases_sha256(data.splits) if run.config.data.fold else None,
        "cases_sha256": (run.history.first("cases") or {}).get("sha256", ""),
        TRAINED: [name_hash(case) for case in _names(run, splits)],
        INHERITED: inherited_hashes(run),
        "fold": run.config.data.fold,
        "iterations": run.iteration,
        "seconds": round(run.seconds),
        "torch": str(torch.__version__),
        "validation_last": [scored(result, run.iteration) for result in results],
        "validation_best": run.history.best(),
        "initialized_from": run.history.first("initialized_from"),
        "teacher": run.history.first("teacher"),
        "changed_on_resume": run.history.kind("changed"),
        "validation_cases": {result.candidate: result.per_case for result in results},
    }


def _names(run: Run, splits: Splits) -> tuple[str, ...]:
    """Return the names of the cases that the run was trained on, with labels or without."""
    return splits.labelled + (splits.unlabelled if uses_unlabelled(run.config) else ())


def _used(run: Run, splits: Splits) -> int:
    if not uses_unlabelled(run.config):
        return 0
    both = run.config.data.unlabelled_stream == "all"
    return len(splits.unlabelled) + (len(splits.labelled) if both else 0)
