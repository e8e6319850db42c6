"""Every method behind one interface."""

from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.methods.base import Method, Phase
from c3s3_seg.training.methods.c3s3 import C3S3
from c3s3_seg.training.methods.supervised import Supervised


def build_method(config: TrainConfig) -> Method:
    """The method that the configuration names, freshly initialised."""
    return {"supervised": Supervised, "c3s3": C3S3}[config.method](config)


__all__ = ["C3S3", "Method", "Phase", "Supervised", "build_method"]
