"""c3s3-seg: 3D medical image segmentation with sharp boundaries.

    import c3s3_seg
    bundle = c3s3_seg.ModelBundle.find("left-atrium")
    predictor = c3s3_seg.open_predictor(bundle)
    prediction = predictor("scan.nii.gz")
    c3s3_seg.save(prediction.mask, "mask.nii.gz")

Every error that a caller can cause is a `C3S3Error`, with `what`, `where` and `todo`:

    DomainError         the model was not trained for such a scan
    InputError          a file or an argument cannot be used as it is
    GeometryError       an InputError: two grids differ, or a grid is invalid
    StorageError        an InputError: nothing can be written to the folder any more
    MemoryLimitError    more memory is needed than is available or allowed
    MissingError        a package or a device was requested and is missing

The names below are loaded at their first use, so that `import c3s3_seg` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from c3s3_seg.version import __version__

if TYPE_CHECKING:
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.errors import (
        C3S3Error,
        GeometryError,
        InputError,
        MemoryLimitError,
        MissingError,
        StorageError,
    )
    from c3s3_seg.geometry.volume import Geometry, Volume
    from c3s3_seg.inference import BackendRequest, open_predictor
    from c3s3_seg.inference.domain_check import DomainError
    from c3s3_seg.inference.prediction import Prediction
    from c3s3_seg.inference.predictor import Predictor
    from c3s3_seg.inference.settings import Settings
    from c3s3_seg.io import load, load_mask, save
    from c3s3_seg.metrics.scoring import score

_HOMES = {
    "BackendRequest": "inference",
    "C3S3Error": "errors",
    "DomainError": "inference.domain_check",
    "Geometry": "geometry.volume",
    "GeometryError": "errors",
    "InputError": "errors",
    "MemoryLimitError": "errors",
    "MissingError": "errors",
    "ModelBundle": "bundle",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "Settings": "inference.settings",
    "StorageError": "errors",
    "Volume": "geometry.volume",
    "load": "io",
    "load_mask": "io",
    "open_predictor": "inference",
    "save": "io",
    "score": "metrics.scoring",
}

__all__ = [
    "BackendRequest",
    "C3S3Error",
    "DomainError",
    "Geometry",
    "GeometryError",
    "InputError",
    "MemoryLimitError",
    "MissingError",
    "ModelBundle",
    "Prediction",
    "Predictor",
    "Settings",
    "StorageError",
    "Volume",
    "__version__",
    "load",
    "load_mask",
    "open_predictor",
    "save",
    "score",
]


if not TYPE_CHECKING:  # a type checker sees the imports above, and reports a wrong name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            known = ", ".join(sorted(_HOMES))
            raise AttributeError(f"module 'c3s3_seg' has no attribute '{name}'; it has: {known}")
        return getattr(import_module(f"c3s3_seg.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
