"""Shared by tests: sampler."""

from copy import copy
from functools import cache
from pathlib import Path

from c3s3_seg.training.cases import read_case
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Sampler
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.settings import AugmentConfig


def sampler(config_path: Path, **changes: object) -> Sampler:
    """Return a sampler of the configuration's cases, read once; its draws depend only on the iteration."""
    return copy(_sampler(config_path, tuple(sorted(changes.items()))))


@cache
def _sampler(config_path: Path, given: tuple[tuple[str, object], ...]) -> Sampler:
    changes = dict(given)
    config = load_config(config_path)
    data, splits = read_splits(config.data)
    labelled = [read_case(data, name, config.task, labelled=True) for name in splits.labelled]
    unlabelled = [read_case(data, name, config.task, labelled=False) for name in splits.unlabelled]
    augment = AugmentConfig(**changes) if changes else config.augment  # type: ignore[arg-type]
    return Sampler(labelled, unlabelled, task=config.task, data=config.data, augment=augment, seed=3)
