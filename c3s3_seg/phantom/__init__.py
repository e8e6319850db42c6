"""Simulated scans of the heart with ground truth. A seed alone determines every byte."""

from c3s3_seg.phantom.simulate import Phantom, Simulator, rotation, simulate
from c3s3_seg.phantom.write import parse_cohort, save, write_cohort
from c3s3_seg.system.choices import PhantomFormat, PhantomModality, TruthFormat

__all__ = [
    "Phantom",
    "PhantomFormat",
    "PhantomModality",
    "Simulator",
    "TruthFormat",
    "parse_cohort",
    "rotation",
    "save",
    "simulate",
    "write_cohort",
]
