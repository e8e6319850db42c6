"""Simulated scans of the heart with a known answer. A seed alone decides every byte."""

from c3s3_seg.phantom.simulate import Modality, Phantom, Simulator, rotation, simulate
from c3s3_seg.phantom.truth import TruthFormat
from c3s3_seg.phantom.write import FileFormat, parse_cohort, save, write_cohort

__all__ = [
    "FileFormat",
    "Modality",
    "Phantom",
    "Simulator",
    "TruthFormat",
    "parse_cohort",
    "rotation",
    "save",
    "simulate",
    "write_cohort",
]
