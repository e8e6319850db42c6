"""The section `c3s3` of a configuration: the numbers of the paper and the optional additions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from c3s3_seg.system.schema import closed
from c3s3_seg.training.settings import Count, NotNegative, Positive, PositiveShare, Share


@closed
@dataclass(frozen=True)
class C3S3Config:
    """The method's own numbers; equations and rows refer to the paper and its difference table.

    Additions to the paper are off by default: `confidence`, `mix_weight`, `correction_weight` and
    `entropy_weight`.

    Parameters
    ----------
    alpha
        Eq. 4: weight of the cross entropy in the competition.
    competition_memory
        Row 7: share of the past in the compared values; 0: this step alone, as in the paper.
    sharpening
        Eq. 5: the temperature T.
    cp_weight, cp_schedule
        Row 6: peak weight of L_cp, reached by the ramp exp(-5 (1 - progress)^2). The paper: 1, `constant`.
    cosine_weight
        Weight of L_cos, eq. 6; 0 leaves it out.
    cosine
        Row 4. `cross`: eq. 6, across networks and views, on probabilities. `published`: within a
        network, on logits, along the last axis.
    contrast_weight, contrast_schedule
        Row 3: peak of lambda, eq. 3, reached by the same ramp; 0 leaves the contrast out. The published
        code has no lambda: 1, `constant`.
    contrast
        Row 1. `intersection-union`: eq. 7-10, masks choose anchors and negatives. `published`: one
        cosine a voxel, masked voxels count as e^0; its optimum is orthogonal where the nets agree.
    contrast_crops
        Row 2: crops with a contrast term: `unlabelled`, or `all` as published.
    contrast_backwards
        Row 8: number of times that the contrast's gradient counts. The published code has two losses with a
        backward each and counts it twice; one backward of the sum, with 2 here, is the same.
    views
        Row 5. `independent`: two intensity changes of each crop. `identical`: one view, decoded twice, so
        that only dropout differs; the encoder runs once.
    temperature
        tau of the contrast, eq. 7-9.
    anchors, negatives
        Largest numbers of voxels drawn for each contrast term.
    warm_up
        Number of first iterations in which both nets learn from labels only, and from a teacher if any. The
        ramps begin after it: their progress is that of the other iterations.
    confidence
        Probability of the winner's likeliest class from which a voxel teaches the loser (eq. 5); 0: all
        voxels, as in the paper.
    mix_weight
        Weight of BCP's loss of both nets on crops pasted into each other, labelled and unlabelled ones; the
        moving average of the step's winner gives the pseudo-labels. 0 leaves it out; published for BCP: 1.
    mix_box
        Sides of the pasted box, as a share of the crop's sides.
    correction_weight, entropy_weight
        Weights of SDCL's two terms where the nets differ, see `SDCLConfig`; on the mixed crops if there are
        any, else on the labelled crops and on the unlabelled ones with pseudo-labels. 0 leaves a term out;
        published for SDCL: 0.5 and 0.05.
    pseudo_weight
        Weight of regions with pseudo-labels in these terms; regions with labels have weight 1.
    teacher_decay
        Share of the moving averages, which give the pseudo-labels, that is kept in a step.
    largest_component
        Keep only the largest component of each class of a pseudo-label.
    """

    alpha: Share = 0.8
    competition_memory: Annotated[float, Ge(0), Lt(1)] = 0.0
    sharpening: Positive = 0.1
    cp_weight: NotNegative = 0.1
    cp_schedule: Literal["ramp", "constant"] = "ramp"
    cosine_weight: NotNegative = 1.0
    cosine: Literal["cross", "published"] = "cross"
    contrast_weight: NotNegative = 0.1
    contrast_schedule: Literal["ramp", "constant"] = "ramp"
    contrast: Literal["intersection-union", "published"] = "intersection-union"
    contrast_crops: Literal["unlabelled", "all"] = "unlabelled"
    contrast_backwards: Literal[1, 2] = 1
    views: Literal["independent", "identical"] = "independent"
    temperature: Positive = 0.1
    anchors: Count = 4096
    negatives: Count = 256
    warm_up: Annotated[int, Ge(0)] = 0
    confidence: Share = 0.0
    mix_weight: NotNegative = 0.0
    mix_box: PositiveShare = 2 / 3
    correction_weight: NotNegative = 0.0
    entropy_weight: NotNegative = 0.0
    pseudo_weight: NotNegative = 0.5
    teacher_decay: Share = 0.99
    largest_component: bool = True

    @property
    def pseudo_labels(self) -> bool:
        """Whether moving averages of both nets are kept, to give pseudo-labels."""
        return max(self.mix_weight, self.correction_weight, self.entropy_weight) > 0
