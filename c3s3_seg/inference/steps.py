"""What one step of `Predictor` hands to the next."""

from __future__ import annotations

from dataclasses import dataclass

from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.inference.domain_check import DomainCheck
from c3s3_seg.inference.place import Prepared
from c3s3_seg.inference.tiling import Shape


@dataclass(frozen=True)
class CheckedScan:
    """A scan that may be segmented, as far as that is known.

    Parameters
    ----------
    scan
        On its own grid.
    check
        What the domain check found.
    search
        Whether its field of view is larger than in training: `Predictor.locate` has to find the organ first.
    allow_out_of_domain
        What the user said.
    """

    scan: Volume
    check: DomainCheck
    search: bool = False
    allow_out_of_domain: bool = False


@dataclass(frozen=True)
class PreparedScan:
    """A scan, or its region of interest, as the network wants it; the scan itself is no longer needed.

    Parameters
    ----------
    array
        (x, y, z) float32 on the model's grid; or the scan's own voxels, which `network` brings there.
    part
        Geometry of what is segmented.
    shape
        Voxels of the model's grid.
    geometry, source
        Of the scan.
    check
        What the domain check found.
    seconds
        What it took.
    """

    array: Prepared
    part: Geometry
    shape: Shape
    geometry: Geometry
    source: Source
    check: DomainCheck
    seconds: float

    def on_scan_grid(self, array: Array) -> Volume:
        """An array (i, j, k) of what is segmented, of any dtype, on the grid of the scan: 0 elsewhere."""
        region = self.check.region
        if region is None:
            return self.geometry.volume(array, self.source)
        return region.paste(self.part.volume(array, self.source), self.geometry)
