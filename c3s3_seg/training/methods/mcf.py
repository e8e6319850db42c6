"""MCF (Wang et al., CVPR 2023) as C3S3 builds on it: two nets compete, without cosine and contrast."""

from dataclasses import replace

from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.methods.c3s3 import C3S3


class MutualCorrection(C3S3):
    """C3S3 with L_seg and L_cp only: the better net of a step teaches the other."""

    def __init__(self, config: TrainConfig) -> None:
        plain = replace(config.c3s3, cosine_weight=0.0, contrast_weight=0.0)
        super().__init__(replace(config, c3s3=plain))
