"""Many scans: journal, resume, workers, provenance.

`predict_cases` does them; `case.Steps` is one case, from its file to its mask; `verify` re-checks a folder.
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
        """`verify`, whose module `predict` does without, when it is first used."""
        if name != "verify":
            raise AttributeError(f"module 'c3s3_seg.batch' has no attribute '{name}'")
        from c3s3_seg.batch.verification import verify

        return verify
