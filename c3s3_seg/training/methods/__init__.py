"""The training methods behind one interface."""

from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.methods.base import Adam, Method, Phase, Stepper
from c3s3_seg.training.methods.bcp import BidirectionalCopyPaste
from c3s3_seg.training.methods.c3s3 import C3S3
from c3s3_seg.training.methods.caml import CorrelationAware
from c3s3_seg.training.methods.caussl import WeightIndependence
from c3s3_seg.training.methods.dtc import DualTaskConsistency
from c3s3_seg.training.methods.mcf import MutualCorrection
from c3s3_seg.training.methods.sassnet import ShapeAware
from c3s3_seg.training.methods.sdcl import DiscrepancyCorrection
from c3s3_seg.training.methods.ssnet import SmoothSeparable
from c3s3_seg.training.methods.supervised import Supervised
from c3s3_seg.training.methods.tracoco import TranslationConsistency
from c3s3_seg.training.methods.uamt import UncertaintyAwareMeanTeacher

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "c3s3": C3S3,
    "mcf": MutualCorrection,
    "uamt": UncertaintyAwareMeanTeacher,
    "dtc": DualTaskConsistency,
    "bcp": BidirectionalCopyPaste,
    "sdcl": DiscrepancyCorrection,
    "sassnet": ShapeAware,
    "tracoco": TranslationConsistency,
    "caussl": WeightIndependence,
    "caml": CorrelationAware,
    "ssnet": SmoothSeparable,
}


def build_method(config: TrainConfig) -> Method:
    """Return the method that the configuration names, freshly initialised."""
    return METHODS[config.method](config)


__all__ = ["C3S3", "METHODS", "Adam", "Method", "Phase", "Stepper", "build_method"]
