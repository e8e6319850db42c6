"""Model bundles: the manifest, the files with their hashes, the domain, the preprocessing."""

from c3s3_seg.bundle.manifest import Calibration, Code, Label, Manifest, Network, ReadTask, Task
from c3s3_seg.bundle.manifest_file import MANIFEST
from c3s3_seg.bundle.store import CARD, WEIGHTS, ModelBundle, shipped_bundles

__all__ = [
    "CARD",
    "MANIFEST",
    "WEIGHTS",
    "Calibration",
    "Code",
    "Label",
    "Manifest",
    "ModelBundle",
    "Network",
    "ReadTask",
    "Task",
    "shipped_bundles",
]
