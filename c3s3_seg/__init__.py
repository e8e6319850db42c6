"""c3s3-seg: 3D medical image segmentation with sharp boundaries.

    import c3s3_seg
    bundle = c3s3_seg.ModelBundle.find("left-atrium")
    predictor = c3s3_seg.open_predictor(bundle)
    prediction = predictor("scan.nii.gz")
    c3s3_seg.save(prediction.mask, "mask.nii.gz")

The names below are loaded at their first use, so that `import c3s3_seg` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from c3s3_seg.version import __version__

if TYPE_CHECKING:
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.geometry.volume import Geometry, Volume
    from c3s3_seg.inference import open_predictor
    from c3s3_seg.inference.prediction import Prediction
    from c3s3_seg.inference.predictor import Predictor
    from c3s3_seg.inference.settings import Settings
    from c3s3_seg.io import load, load_mask, save
    from c3s3_seg.metrics.scoring import score

_HOMES = {
    "Geometry": "geometry.volume",
    "ModelBundle": "bundle",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "Settings": "inference.settings",
    "Volume": "geometry.volume",
    "load": "io",
    "load_mask": "io",
    "open_predictor": "inference",
    "save": "io",
    "score": "metrics.scoring",
}

__all__ = [
    "Geometry",
    "ModelBundle",
    "Prediction",
    "Predictor",
    "Settings",
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
