"""Small copies of cases along the patient's axes, by which a case is compared with the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.geometry.resample import orient
from c3s3_seg.geometry.volume import Volume

Floats = NDArray[np.float32]
VOXELS = 32_000  # voxels of a small copy: 64 KB, so that a thousand cases fit into memory
REACH = 3.0  # standard deviations at which intensities are clipped: metal, vessels


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small copy of a case.

    Parameters
    ----------
    grey
        Intensities (x, y, z) float16, LPS: zero mean and unit variance.
    labels
        Values (x, y, z) of the mask, or None.
    spacing_mm
        Spacing (3,) of these voxels.
    """

    grey: NDArray[np.float16]
    labels: NDArray[np.int32] | None
    spacing_mm: NDArray[np.float64]

    @property
    def fov_mm(self) -> NDArray[np.float64]:
        """The field of view (3,) from edge to edge."""
        return np.asarray(self.spacing_mm * self.grey.shape, dtype=np.float64)

    def blurred(self, sigma_mm: float) -> Floats:
        """Return the intensities (x, y, z), clipped to `REACH` and blurred by a Gaussian."""
        from scipy import ndimage

        grey = np.clip(self.grey.astype(np.float32), -REACH, REACH)
        return np.asarray(ndimage.gaussian_filter(grey, sigma_mm / self.spacing_mm), dtype=np.float32)


def make_thumbnail(scan: Volume, mask: Volume | None) -> Thumbnail:
    """Return the small copy of a scan and its mask, which are on one grid."""
    geometry = scan.geometry
    fov = geometry.spacing_mm * geometry.shape
    side = float((np.prod(fov) / VOXELS) ** (1 / 3))
    small = Recipe((side, side, side)).to_model(scan)
    labels = None
    if mask is not None:
        turned = orient(mask.array, geometry)
        places = [
            ((np.arange(n) + 0.5) * size / n).astype(int)
            for n, size in zip(small.array.shape, turned.shape, strict=True)
        ]
        labels = turned[np.ix_(*places)].astype(np.int32)
    return Thumbnail(small.array.astype(np.float16), labels, small.geometry.spacing_mm)
