"""Shared by tests: CASE."""

import numpy as np

from c3s3_seg.report.prediction_page import PredictedCase
from helpers.reports import GRID, ball

NOISE = np.random.default_rng(0).normal(100, 10, GRID.shape).astype(np.float32)


CASE = PredictedCase(
    name="case <1>",
    scan=GRID.volume(NOISE),
    mask=GRID.volume(ball(8) + 2 * ball(3, (33, 18, 12))),
    labels={"atrium": 1, "wall": 2, "scar": 3},
    volumes_ml={"atrium": 3.21, "wall": 0.1, "scar": 0.0},
    facts={
        "scan": {"path": "/somewhere/doe/a.nii.gz", "spacing_mm": [1.0, 1.0, 1.5]},
        "tiles": 3,
        "none": None,
    },
)
