"""Errors that a run would end with at its start, found from its configuration and the data set's index."""

from __future__ import annotations

from pathlib import Path

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.dataset.check.case_faults import values_in
from c3s3_seg.errors import C3S3Error, ConfigError, InputError
from c3s3_seg.io import load_mask
from c3s3_seg.training.bundles.initialize import members_for
from c3s3_seg.training.checks import check_index, check_task, check_values
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.data import require_unlabelled
from c3s3_seg.training.distributed import ProcessGroup, check_gpu
from c3s3_seg.training.teacher import only_mask


def check_start(
    config: TrainConfig, data: DataSet, splits: Splits, start: ModelBundle | None, *, resume: bool = False
) -> None:
    """Raise the errors of a run that can be known before its scans are read; a study checks all its runs.

    Parameters
    ----------
    config
        Configuration of the run.
    data, splits
        Cases of the run.
    start
        Bundle that the run begins from; None: random weights.
    resume
        Whether the run continues from a checkpoint, which may have begun from a bundle.

    Raises
    ------
    InputError
        If data, bundle or teacher do not match the configuration, or cases or masks are missing that it
        needs.
    ConfigError
        If `run.blend` has no bundle to blend with.
    MissingError
        If CUDA is configured and torch finds no CUDA device.
    """
    check_index(config, data)
    _check_validation(config, data, splits)
    if config.run.blend < 1 and start is None and not resume:
        what = f"run.blend = {config.run.blend:g} needs a bundle to begin from"
        raise ConfigError(what, todo="Give one with --from, or set run.blend = 1")
    if config.run.device == "cuda":
        check_gpu(ProcessGroup.of_environment())
    require_unlabelled(config, data, splits)
    _check_teacher(config, splits)
    if start is not None:
        members_for(config, start)
    _check_masks(config, data, splits)


def _check_validation(config: TrainConfig, data: DataSet, splits: Splits) -> None:
    wants = {"run.keep = 'best'": config.run.keep == "best", "run.patience": config.run.patience > 0}
    for key in (key for key, wanted in wants.items() if wanted and not splits.validation):
        todo = "Name validation cases in the index, or set data.fold or data.validation_from_unlabelled"
        raise InputError(f"{key} needs validation cases, and there are none", where=data.folder, todo=todo)


def _check_teacher(config: TrainConfig, splits: Splits) -> None:
    if config.teacher.bundle:
        check_task(config.task, ModelBundle.find(config.teacher.bundle))
    if config.teacher.masks:
        for case in splits.unlabelled:
            only_mask(Path(config.teacher.masks), case)


def _check_masks(config: TrainConfig, data: DataSet, splits: Splits) -> None:
    """Raise an error if the index has no labels, and a value of the configuration occurs in no mask.

    Masks are read until all values were found, which is usually the first one. A mask that cannot be read is
    reported where all cases are read.
    """
    if data.labels:
        return
    missing, there = set(config.task.label_values.values()), set[int]()
    for name in splits.labelled + splits.validation:
        try:
            there |= set(values_in(load_mask(data.mask(name)).array))
        except C3S3Error:
            return
        if missing <= there:
            return
    check_values(config, data, there)
