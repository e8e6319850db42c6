"""A case on its way: what each step hands to the next."""

from __future__ import annotations

from dataclasses import dataclass

from c3s3_seg.batch.job import CaseTask
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.inference.predictor import CheckedScan, PreparedScan


@dataclass(frozen=True)
class Loaded:
    """A scan that was read and found fit, with its truth and the hashes of both."""

    task: CaseTask
    scan: Volume
    truth: Volume | None
    inputs: dict[str, str]
    seconds: dict[str, float]
    checked: CheckedScan | None = None
    prepared: PreparedScan | None = None


@dataclass(frozen=True)
class Predicted:
    """A scan with its mask."""

    loaded: Loaded
    prediction: Prediction
    seconds: dict[str, float]
