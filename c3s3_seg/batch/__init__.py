"""Batch runs over many scans: journal, resume, workers, provenance.

`predict_cases` runs a batch; `case.Steps` processes one case, from its file to its mask; `verify` re-checks
an output folder.
"""

from typing import TYPE_CHECKING

from c3s3_seg.batch.case import predict_case
from c3s3_seg.batch.case_files import PROBABILITIES
from c3s3_seg.batch.job import BatchPlan, Job, Model, origin
from c3s3_seg.batch.predict import predict_cases
from c3s3_seg.batch.result import BatchProgress, BatchResult
from c3s3_seg.system.ownership import MARK

if TYPE_CHECKING:
    from c3s3_seg.batch.verification import verify

__all__ = [
    "MARK",
    "PROBABILITIES",
    "BatchPlan",
    "BatchProgress",
    "BatchResult",
    "Job",
    "Model",
    "origin",
    "predict_case",
    "predict_cases",
    "verify",
]


if not TYPE_CHECKING:  # a type checker sees the import above

    def __getattr__(name: str) -> object:
        """Return `verify`, imported on first use because `predict` does not need its module."""
        if name != "verify":
            raise AttributeError(f"module 'c3s3_seg.batch' has no attribute '{name}'")
        from c3s3_seg.batch.verification import verify

        return verify
