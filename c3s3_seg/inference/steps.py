"""Data that `Predictor` passes from step to step."""

from __future__ import annotations

from dataclasses import dataclass

from c3s3_seg.bundle import Task
from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.inference.domain_check import DomainCheck
from c3s3_seg.inference.place import Prepared
from c3s3_seg.inference.tiling import Shape


@dataclass(frozen=True)
class CheckedScan:
    """A scan that may be segmented, according to the checks made so far.

    Parameters
    ----------
    scan
        Scan on its own grid.
    check
        Result of the domain check.
    task
        Task of the model with whose training scans it was compared.
    search
        Whether its field of view is larger than in training: `Predictor.locate` has to find the organ first.
    allow_out_of_domain
        Whether a scan out of the domain is allowed.
    """

    scan: Volume
    check: DomainCheck
    task: Task
    search: bool = False
    allow_out_of_domain: bool = False


@dataclass(frozen=True)
class PreparedScan:
    """A scan, or its region of interest, ready for the network; the scan itself is no longer needed.

    Parameters
    ----------
    array
        (x, y, z) float32 on the model's grid; or the scan's own voxels, which `network` resamples to it.
    part
        Geometry of the segmented part.
    shape
        Voxels (x, y, z) of the model's grid.
    geometry, source
        Geometry and source of the scan.
    check
        Result of the domain check.
    seconds
        Time of the preparation.
    task
        Task of the model that has checked and prepared the scan.
    """

    array: Prepared
    part: Geometry
    shape: Shape
    geometry: Geometry
    source: Source
    check: DomainCheck
    seconds: float
    task: Task

    def on_scan_grid(self, array: Array) -> Volume:
        """Return an array (i, j, k) of `part`, of any dtype, on the grid of the scan: 0 elsewhere."""
        region = self.check.region
        if region is None:
            return self.geometry.volume(array, self.source)
        return region.paste(self.part.volume(array, self.source), self.geometry)
