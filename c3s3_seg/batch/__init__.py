"""Many scans: journal, resume, workers, provenance.

`predict_cases` does them; `case.Steps` is one case, from its file to its mask; `verify` re-checks a folder.
"""

from c3s3_seg.batch.case import predict_case
from c3s3_seg.batch.claims import PROBABILITIES
from c3s3_seg.batch.job import BatchPlan, Job, Model, Suffix, origin
from c3s3_seg.batch.predict import BatchProgress, BatchResult, predict_cases
from c3s3_seg.batch.verification import verify
from c3s3_seg.system.ownership import MARK

__all__ = [
    "MARK",
    "PROBABILITIES",
    "BatchPlan",
    "BatchProgress",
    "BatchResult",
    "Job",
    "Model",
    "Suffix",
    "origin",
    "predict_case",
    "predict_cases",
    "verify",
]
