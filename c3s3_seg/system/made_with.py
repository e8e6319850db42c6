"""Compare two provenances of masks: `made_with` in the JSON of a case, and in the runs of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys that decide a mask. The runtime is not one of them: machines that share a folder may differ in it.
DECIDING = (
    "bundle",
    "weights_sha256",
    "task_sha256",
    "networks",
    "overlap",
    "stride",
    "weighting",
    "mirroring",
    "keep_largest",
    "min_volume_ml",
    "fill_holes",
)


def deciding(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights and settings of a provenance alone: where they are equal, so is the model."""
    return {key: made_with.get(key) for key in DECIDING}
