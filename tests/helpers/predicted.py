"""Shared by tests: CASE, a predicted case, and SCORED, a case with a truth whose largest error is known."""

from dataclasses import replace

import numpy as np

from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.scoring import scores
from c3s3_seg.report.prediction_page import PredictedCase
from helpers.reports import GRID, ball

NOISE = np.random.default_rng(0).normal(100, 10, GRID.shape).astype(np.float32)


CASE = PredictedCase(
    name="case <1>",
    scan=GRID.volume(NOISE),
    mask=GRID.volume(ball(8) + 2 * ball(3, (33, 18, 12))),
    labels={"atrium": 1, "wall": 2, "scar": 3},
    volumes_ml={"atrium": 3.21, "wall": 0.1, "scar": 0.0},
    metadata={
        "scan": {"path": "/somewhere/doe/a.nii.gz", "spacing_mm": [1.0, 1.0, 1.5]},
        "tiles": 3,
        "none": None,
    },
)

# A bar sticks out of the truth, along x, at y = 18 and z = 12: the atrium's largest error is at its end.
_TRUTH = ball(8)
_TRUTH[20:36, 18, 12] = 1
WORST = (35, 18, 12)
_LABELS = {"atrium": 1}
_HEAD_IS_BRIGHT = NOISE + np.float32(150) * (np.arange(GRID.shape[2]) >= 18)
SCORED = replace(
    CASE,
    scan=GRID.volume(_HEAD_IS_BRIGHT),
    mask=GRID.volume(ball(8)),
    labels=_LABELS,
    volumes_ml={"atrium": 3.21},
    truth=GRID.volume(_TRUTH),
    scores=(CaseScore("case", "atrium", scores(GRID.volume(ball(8)), GRID.volume(_TRUTH), [1])[1]),),
)
