"""The words allowed for options, arguments and keys; each list is defined once, here."""

from typing import Any, Literal, get_args

from c3s3_seg.errors import InputError

BackendName = Literal["auto", "openvino", "onnx", "torch", "tensorrt"]
CpuRuntime = Literal["openvino", "onnx", "torch"]  # fastest on a CPU first, as measured
DEVICES = "auto|cpu|cuda|cuda:N"  # N: which GPU; see `hardware.check_device`
Precision = Literal["auto", "float32", "float16", "bfloat16"]
Weighting = Literal["constant", "gaussian"]  # weights of overlapping tiles
TilingPreset = Literal["default", "accurate", "whole", "paper"]
ReportFile = Literal["png", "html", "sc"]  # files beside the mask of a case
MaskFormat = Literal["nii.gz", "nrrd", "mha", "dicom-seg", "dicom-labelmap", "rtstruct"]
Repair = Literal["gaps", "tilt", "orthonormal"]
UncorrectedUse = Literal["labels", "unlabelled"]  # use of uncorrected predictions in a data set
ScoreProtocol = Literal["clinical", "paper"]
ExportTarget = Literal["onnx", "openvino", "tensorrt", "monai-bundle"]
ExportPrecision = Literal["float32", "float16"]
PhantomFormat = Literal["dicom", "nii.gz"]
TruthFormat = Literal["nii.gz", "dicom-seg", "rtstruct", "none"]
PhantomModality = Literal["MR", "CT"]
Intensities = Literal["scaled", "absolute"]
Storage = Literal["half", "int8"]  # data type of large kernels in a bundle


def check_word(what: str, word: object, words: Any) -> None:
    """Check that a word is in one of the lists above.

    Raises
    ------
    InputError
        If the word is not in the list; the message has all words.
    """
    if word not in get_args(words):
        raise InputError(f"there is no {what} {word!r}; wanted {', '.join(get_args(words))}")
